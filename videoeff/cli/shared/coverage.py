"""What streams, what stays dense and why, and an honest word on whether streaming can pay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rich.table import Table

    from videoeff.runtime.engine import Engine
    from videoeff.runtime.streaming_module import StreamingModule

BLOCK = 8  # edge in pixels of the changed square whose effect is followed
MOST = 0.5  # a layer of which one square reaches this share follows every change as a whole


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: the layer name.
        kind: "input", "map", "gate" or "global".
        shape: of its value.
        streams: its pixels are followed.
        why: why it is computed whole, "" where it is not.
        macs: of the dense layer.
        state_bytes: per stream.
        reach: share of its pixels that one changed 8x8 square in the middle of the frame makes active.
        kernel: the implementation.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    streams: bool
    why: str
    macs: int
    state_bytes: int
    reach: float
    kernel: str


@dataclass(frozen=True)
class Verdict:
    """Whether streaming can pay.

    Attributes:
        pays: it can, on clips in which little moves; None where that hangs on the thresholds.
        sentence: the verdict for people.
        streamed: share of the convolution work whose pixels are followed.
        reached: share of all work that one changed 8x8 square makes necessary.
        saturated: share of all work in layers of which one square reaches most of the map.
    """

    pays: bool | None
    sentence: str
    streamed: float
    reached: float
    saturated: float


def coverage(stream: StreamingModule) -> tuple[list[Row], Verdict]:
    """The facts about a stream that has not run, and the verdict."""
    report = stream.report()
    layers = {x.name: x for x in report.layers}
    rows = []
    frame = _frame_size(stream)
    for prefix, engine in stream.engines.items():
        shares = reach(engine, frame)
        for instruction in engine.plan.instructions:
            call = instruction.call
            name = f"{prefix}.{call.name}" if prefix else call.name
            layer = layers[name]
            rows.append(
                Row(
                    name,
                    call.kind,
                    call.value.shape,
                    not call.dense,
                    call.dense,
                    call.macs,
                    layer.state_bytes // max(1, report.streams),
                    shares[call.name],
                    instruction.kernel,
                )
            )
    return rows, verdict(rows, report.convolutions_streamed, _highest_threshold(stream))


def _highest_threshold(stream: StreamingModule) -> float:
    return max(stream.thresholds().values(), default=0.0)


def _frame_size(stream: StreamingModule) -> tuple[int, int]:
    specs = stream.body.signature.frame_specs
    shape = next((s.shape for s in specs if len(s.shape) >= 3), (1, 1))
    return int(shape[-2]), int(shape[-1])


def reach(engine: Engine, frame: tuple[int, int]) -> dict[str, float]:
    """For every layer the share of its pixels that one changed square in the middle of the frame reaches.

    Thresholds are taken as passing everything on, except that a gate with a threshold is taken as held.

    Args:
        engine: the engine.
        frame: (H, W) of the whole model's input; a part's input is scaled to it.
    """
    masks: dict[str, Tensor] = {}
    for instruction in engine.plan.instructions:
        call = instruction.call
        mask = torch.zeros(call.extent, dtype=torch.bool)
        if call.kind == "input":
            _mark(mask, frame)
        elif call.kind == "gate" and call.test.threshold > 0:
            pass
        elif call.reach is None:
            mask |= any(bool(masks[name].any()) for name, _ in call.mask_reads)
        else:
            mask = call.reach(masks).cpu().expand(call.extent)
        masks[call.name] = mask
    return {name: float(m.float().mean()) for name, m in masks.items()}


def _mark(mask: Tensor, frame: tuple[int, int]) -> None:
    _, height, width = mask.shape
    tall = max(1, min(height, round(BLOCK * height / frame[0])))
    wide = max(1, min(width, round(BLOCK * width / frame[1])))
    top, left = (height // 2) // tall * tall, (width // 2) // wide * wide
    mask[:, top : top + tall, left : left + wide] = True


def verdict(rows: list[Row], streamed: float, threshold: float) -> Verdict:
    """Judge from the facts alone.

    Args:
        rows: all layers.
        streamed: share of the convolution work whose pixels are followed.
        threshold: the highest threshold of a layer.
    """
    total = sum(r.macs for r in rows) or 1
    reached = sum(r.macs * r.reach for r in rows) / total
    saturated = sum(r.macs for r in rows if r.reach >= MOST) / total
    square = f"one changed {BLOCK}x{BLOCK} square of the frame"
    if streamed < 0.5:
        text = (
            f"Streaming cannot pay here: only {100 * streamed:.0f} % of the convolution work can be "
            "followed pixel by pixel, the rest is computed whole whenever anything changes."
        )
        return Verdict(False, text, streamed, reached, saturated)
    if saturated > 0.5:
        reaching = f"{square} reaches most of the map in layers with {100 * saturated:.0f} % of the work"
        if threshold > 0:
            text = (
                f"Streaming pays only as far as the thresholds stop changes: without them {reaching}; "
                "measure it with videoeff run --compare."
            )
            return Verdict(None, text, streamed, reached, saturated)
        gates = sum(r.kind == "gate" and r.reach > 0 for r in rows)
        holds = f"holds the {gates} channel gate(s) and " if gates else ""
        text = (
            f"Streaming will hardly pay here: {reaching}; try a larger --input-size, or a --threshold, "
            f"which {holds}stops changes that fade on their way."
        )
        return Verdict(False, text, streamed, reached, saturated)
    text = (
        f"Streaming can pay: {square} asks for at most {100 * reached:.1f} % of the work of a whole frame, "
        "so a clip in which little moves is cheap."
    )
    return Verdict(True, text, streamed, reached, saturated)


def coverage_table(rows: list[Row]) -> Table:
    """The rows for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from videoeff.cli.shared.output import console, count, megabytes, percent
    from videoeff.inspect.tables import end_of

    room = max(16, console().width - 66)  # what the other columns leave
    table = Table(box=box.SIMPLE_HEAD, title=Text("coverage"))
    for head in ("layer", "kind", "value"):
        table.add_column(head, no_wrap=True)
    whole = not all(row.streams for row in rows)
    if whole:
        table.add_column("streams", overflow="fold")
    for head in ("MACs", "8x8 reaches", "state"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            end_of(row.name, room),
            row.kind,
            "×".join(map(str, row.shape)),
            *(("yes" if row.streams else f"whole: {row.why}",) if whole else ()),
            count(row.macs) if row.macs else "",
            percent(row.reach),
            megabytes(row.state_bytes) if row.state_bytes else "shared",
        )
        table.add_row(*(Text(c) for c in cells))
    return table


def coverage_json(rows: list[Row], found: Verdict) -> dict[str, Any]:
    """The same as plain values."""
    from dataclasses import asdict

    return {"layers": [asdict(r) for r in rows], "verdict": asdict(found)}
