"""What a stream did: per layer and in total, for the terminal, JSON and notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from videoeff.runtime.body import StreamBody
from videoeff.runtime.carried import CarriedBuffer
from videoeff.runtime.engine import Engine
from videoeff.runtime.events import Events
from videoeff.runtime.fidelity import AuditReport
from videoeff.runtime.zoning import ignored_share

#: What a comparison with the dense network is of, where a stream has zones.
COMPARED = "compared on the watched pixels; the ignored ones as the stream keeps them"


def zones_text(ignored: float) -> str:
    """What zones do to a stream, in a few words.

    Args:
        ignored: share of the pixels that they ignore.
    """
    return (
        f"{100 * ignored:.1f} % of the frame's pixels are ignored: they stay as they were in the first frame"
    )


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        name: the layer name.
        kind: "input", "state", "map", "gate" or "global".
        active_share: pixels computed over pixels, mean of the frames after the first; None before.
        macs_needed: multiply-accumulates of the computed pixels, per frame.
        macs_scheduled: those the kernel really worked on, per frame.
        macs_dense: those of the dense layer.
        state_bytes: bytes kept for it, all streams; 0 where it lies in a shared buffer.
        kernel: the implementation.
        reason: why this one, or why it is computed whole.
        threshold: the change test's threshold.
    """

    name: str
    kind: str
    active_share: float | None
    macs_needed: float
    macs_scheduled: float
    macs_dense: int
    state_bytes: int
    kernel: str
    reason: str
    threshold: float


@dataclass(frozen=True)
class Report:
    """All layers and their totals.

    Attributes:
        name: the model.
        frames: frames counted: all that were looked at but the first of each stream's life.
        layers: one entry each, in order.
        state_bytes: bytes of all buffers, all streams.
        streams: independent streams in a batch.
        convolutions_streamed: share of the convolutions' dense work whose pixels are followed.
        eager: parts of the model that run as they are, and why.
        carried: the buffers that the model's own forward changes, which the stream carries for it.
        every: the stream looks at every n-th frame.
        held: frames handed out between, without looking.
        audit: what was found by comparing frames with the dense network; None where audits are off.
        events: scene cuts, steps of the light and pulses of key frames, where frames are tested with a
            threshold on the CPU or by the reference.
        ignored: share of the pixels of the frames that zones ignore; comparisons with the dense network are
            then of frames as the stream sees them.
    """

    name: str
    frames: int
    layers: tuple[LayerReport, ...]
    state_bytes: int
    streams: int
    convolutions_streamed: float
    eager: tuple[tuple[str, str], ...] = ()
    carried: tuple[CarriedBuffer, ...] = ()
    every: int = 1
    held: int = 0
    audit: AuditReport | None = None
    events: tuple[Events, ...] = ()
    ignored: float = 0.0

    @property
    def active_share(self) -> float | None:
        """Pixels computed over pixels of all layers with pixels, None before a second frame."""
        computed = [
            (x.active_share, max(x.macs_dense, 1))
            for x in self.layers
            if x.active_share is not None and x.kind not in ("input", "state")
        ]
        if not computed:
            return None
        return sum(share * weight for share, weight in computed) / sum(weight for _, weight in computed)

    @property
    def macs(self) -> dict[str, float]:
        """Multiply-accumulates per frame that was looked at: dense, needed, scheduled."""
        return {
            "dense": float(sum(x.macs_dense for x in self.layers)),
            "needed": float(sum(x.macs_needed for x in self.layers)),
            "scheduled": float(sum(x.macs_scheduled for x in self.layers)),
        }

    @property
    def macs_handed_out(self) -> dict[str, float]:
        """The same per frame handed out, looked at or not; and what audits cost beside it."""
        macs = self.macs
        looked = self.frames / (self.frames + self.held) if self.held else 1.0
        return {
            "dense": macs["dense"],
            "needed": macs["needed"] * looked,
            "scheduled": macs["scheduled"] * looked,
            "audits": 0.0 if self.audit is None else macs["dense"] * self.audit.work_share,
        }

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "name": self.name,
            "frames": self.frames,
            "streams": self.streams,
            "active_share": self.active_share,
            "macs": self.macs,
            "every": self.every,
            "held": self.held,
            "macs_handed_out": self.macs_handed_out,
            "audit": None if self.audit is None else self.audit.to_json(),
            "state_bytes": self.state_bytes,
            "convolutions_streamed": self.convolutions_streamed,
            "eager": [{"part": p, "reason": r} for p, r in self.eager],
            "carried": [asdict(c) for c in self.carried],
            "events": [asdict(e) for e in self.events],
            "ignored": self.ignored,
            "layers": [asdict(x) for x in self.layers],
        }

    def __str__(self) -> str:
        rows = [_HEAD, *(_cells(x) for x in self.layers)]
        widths = [max(len(r[i]) for r in rows) for i in range(len(_HEAD))]
        lines = [
            "  ".join(_align(c, w, i) for i, (c, w) in enumerate(zip(r, widths, strict=True))) for r in rows
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*(line.rstrip() for line in lines), "", *self.summary()])

    def summary(self) -> list[str]:
        """The totals, a line each."""
        macs, skips = self.macs, self.every > 1 or self.held > 0
        looked = " looked at" if skips else ""
        between = f", and {self.held} between that were not (every={self.every})" if skips else ""
        lines = [
            f"{self.name}: {self.streams} stream(s), {self.frames} frame(s) after the first{looked}{between}"
            f", state {self.state_bytes / 1e6:.1f} MB",
            f"convolution work that streams: {100 * self.convolutions_streamed:.1f} %",
        ]
        if self.frames:
            lines.append(f"MACs per frame{looked}: {_work(macs)}")
            if skips:
                lines.append(f"MACs per frame handed out: {_work(self.macs_handed_out)}")
        else:
            lines.append(f"MACs per frame{looked}: dense {_count(macs['dense'])}; no second frame yet")
        if self.ignored:
            lines.append(f"zones: {zones_text(self.ignored)}")
        if self.audit is not None:
            lines += self.audit.summary()
            lines += [f"audits: {COMPARED}"] if self.ignored else []
        if self.carried:
            lines.append(f"carried for the model: {'; '.join(str(c) for c in self.carried)}")
        lines += [f"seen in the frames: {e}" for e in self.events]
        lines += [f"runs as it is: {part or 'the outermost module'} ({why})" for part, why in self.eager]
        return lines

    def _repr_html_(self) -> str:
        head = "".join(f'<th style="{_cell_style(i)}">{html.escape(c)}</th>' for i, c in enumerate(_HEAD))
        rows = "".join(f"<tr>{_html_cells(x)}</tr>" for x in self.layers)
        total = "<br>".join(html.escape(line) for line in self.summary())
        picture = "" if self.audit is None else self.audit.picture()
        return (
            f'<p>{total}</p>{picture}<div style="max-height: 34em; overflow: auto">'
            f'<table style="border-collapse: collapse; color: inherit"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )


_HEAD = ("layer", "kind", "active", "needed", "scheduled", "dense", "state", "τ", "kernel", "reason")


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        layer.kind,
        "" if layer.active_share is None else f"{100 * layer.active_share:.1f} %",
        _count(layer.macs_needed) if layer.active_share is not None else "",
        _count(layer.macs_scheduled) if layer.active_share is not None else "",
        _count(layer.macs_dense),
        f"{layer.state_bytes / 1024:.0f} KiB",
        f"{layer.threshold:g}",
        layer.kernel,
        layer.reason,
    )


# Translucent colours, so that the table is readable on light and dark pages alike.
_BAR = "rgba(64, 132, 214, 0.38)"
_NUMBERS = range(2, 8)


def _cell_style(column: int, share: float | None = None) -> str:
    style = "padding: 1px 8px; white-space: nowrap; text-align: "
    style += "right" if column in _NUMBERS else "left"
    if share is not None:
        style += f"; background: linear-gradient(90deg, {_BAR} {100 * share:.1f}%, transparent 0)"
    return style


def _html_cells(layer: LayerReport) -> str:
    cells = []
    for column, text in enumerate(_cells(layer)):
        share = layer.active_share if _HEAD[column] == "active" else None
        cells.append(f'<td style="{_cell_style(column, share)}">{html.escape(text)}</td>')
    return "".join(cells)


def _align(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column in _NUMBERS else cell.ljust(width)


def _work(macs: Mapping[str, float]) -> str:
    dense = macs["dense"] or 1.0
    return (
        f"dense {_count(macs['dense'])}, needed {_count(macs['needed'])} "
        f"({100 * macs['needed'] / dense:.1f} %), scheduled {_count(macs['scheduled'])} "
        f"({100 * macs['scheduled'] / dense:.1f} %)"
    )


def _count(value: float) -> str:
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.2f} {unit}"
    return f"{value:.0f}"


def report_of(
    name: str, body: StreamBody, every: int = 1, held: int = 0, audit: AuditReport | None = None
) -> Report:
    """What a stream did since it was made, or since its counts were cleared."""
    engines = body.engines
    layers = [x for prefix, e in engines.items() for x in layer_reports(e, f"{prefix}." if prefix else "")]
    carried = tuple(
        replace(c, name=f"{prefix}.{c.name}" if prefix else c.name)
        for prefix, e in engines.items()
        for c in e.carried.buffers
    )
    carried += body.outside.buffers
    idle = body.idle
    streamed = sum(e.streamed_macs for name, e in engines.items() if name.partition("#")[0] not in idle)
    total = max(body.convolution_macs, sum(e.convolution_macs for e in engines.values()))
    return Report(
        name,
        max(e.counts.frames for e in engines.values()),
        tuple(layers),
        sum(e.state_bytes for e in engines.values()) + sum(c.nbytes for c in carried),
        body.streams,
        streamed / total if total else 1.0,
        body.eager,
        carried,
        every,
        held,
        audit,
        tuple(event for e in engines.values() for event in e.recorder.events()),
        ignored_share(body),
    )


def layer_reports(engine: Engine, prefix: str = "") -> Iterable[LayerReport]:
    """The layers of one engine; reads the counters, which waits for the device."""
    bytes_of: dict[str, int] = {}
    for spec in engine.plan.state:
        layer = spec.name.rsplit(".", 1)[0]
        bytes_of[layer] = bytes_of.get(layer, 0) + spec.nbytes
    shared = {
        s.name.removesuffix(".buffer"): s.nbytes for s in engine.plan.state if s.name.endswith(".buffer")
    }
    counts = engine.collect()
    for instruction in engine.plan.instructions:
        call = instruction.call
        entry = counts.layers.get(call.name)
        share = needed = scheduled = None
        if entry is not None and entry.pixels:
            share = float(entry.active) / entry.pixels
            worked = float(entry.scheduled) / entry.pixels
            needed = call.macs * share + entry.more_needed / entry.frames
            scheduled = call.macs * worked + entry.more_scheduled / entry.frames
        parent = call.value.parent
        state = bytes_of.get(call.name, 0)
        if parent is not None:
            state += shared.pop(parent.removesuffix(".buffer"), 0)
        yield LayerReport(
            f"{prefix}{call.name}",
            call.kind,
            share,
            needed or 0.0,
            scheduled or 0.0,
            call.macs,
            state,
            instruction.kernel,
            "; ".join(t for t in (instruction.reason, f"whole: {call.dense}" if call.dense else "") if t),
            call.test.threshold,
        )
