"""What audits found: the error over time, its cost, and the news that a bound was left."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Audited:
    """One frame that was compared with the dense network.

    Attributes:
        frame: its number, from 1, among the frames handed out while audits were on.
        value: the metric's.
        held: whether the frame was not looked at: its outputs were those of an earlier one.
        stream: the stream of the batch that the value is of (the worst), None where it is of all.
    """

    frame: int
    value: float
    held: bool
    stream: int | None = None


@dataclass(frozen=True)
class Drift:
    """The running mean of the audits has left its bound.

    Attributes:
        frame: the frame with whose audit it did.
        mean: the running mean.
        bound: the bound that it left.
        over: audits that the mean is over.
        last: the audit of that frame.
    """

    frame: int
    mean: float
    bound: float
    over: int
    last: Audited

    def __str__(self) -> str:
        side = "above" if not self.mean <= self.bound else "below"
        whose = "" if self.last.stream is None else f" (stream {self.last.stream})"
        return (
            f"frame {self.frame}{whose}: the mean of the last {self.over} audit(s) is {self.mean:.3g}, "
            f"{side} the bound {self.bound:g}; lower the thresholds with stream.set_threshold, or look at "
            "more frames with stream.every"
        )


@dataclass(frozen=True)
class AuditReport:
    """Fidelity over time.

    Attributes:
        share: share of the frames that is audited.
        metric: its name.
        at_most: bound of the running mean from above.
        at_least: bound of the running mean from below.
        over: audits that the running mean is over.
        frames: frames handed out since counting began.
        count: frames audited.
        missed: frames that waited for idle time until the next one took their place.
        mean: mean of all audits; None before there is one.
        smallest: the smallest value of all audits.
        largest: the largest.
        running_mean: mean of the last ``over`` audits.
        outside: whether the running mean is out of its bounds.
        time_share: seconds spent on audits over all seconds spent inside the stream, by the host's clock.
        records: the audits, oldest first; of long runs the last thousand.
    """

    share: float
    metric: str
    at_most: float | None
    at_least: float | None
    over: int
    frames: int
    count: int
    missed: int
    mean: float | None
    smallest: float | None
    largest: float | None
    running_mean: float | None
    outside: bool
    time_share: float
    records: tuple[Audited, ...]

    @property
    def work_share(self) -> float:
        """Dense networks computed for audits, over frames handed out: the cost in dense work a frame."""
        return self.count / self.frames if self.frames else 0.0

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; a number that is not finite becomes its word."""
        found = asdict(self) | {"work_share": self.work_share}
        found["records"] = [asdict(r) | {"value": _plain(r.value)} for r in self.records]
        return {k: _plain(v) for k, v in found.items()}

    def summary(self) -> list[str]:
        """The totals, a line each."""
        if self.mean is None or self.running_mean is None:
            return [f"audits: none yet in {self.frames} frame(s), share {100 * self.share:g} %"]
        lines = [
            f"audits ({self.metric}): {self.count} of {self.frames} frame(s), mean {self.mean:.3g}, from "
            f"{self.smallest:.3g} to {self.largest:.3g}",
            f"audits, mean of the last {min(self.over, self.count)}: {self.running_mean:.3g}{self._bound()}",
            f"audits cost {100 * self.work_share:.3g} % of the dense work a frame, and "
            f"{100 * self.time_share:.3g} % of the time",
        ]
        held = [r.value for r in self.records if r.held]
        if held:
            looked = [r.value for r in self.records if not r.held]
            text = f"of frames handed out without looking: mean {sum(held) / len(held):.3g}"
            text += f", of frames looked at: {sum(looked) / len(looked):.3g}" if looked else ""
            lines.append(f"audits {text}")
        if self.missed:
            lines.append(f"audits that waited for idle time in vain: {self.missed}; call stream.audit_now()")
        return lines

    def _bound(self) -> str:
        bounds = [
            f"{word} {bound:g}"
            for word, bound in (("at most", self.at_most), ("at least", self.at_least))
            if bound is not None
        ]
        if not bounds:
            return ""
        return f" (to be {' and '.join(bounds)}: {'LEFT' if self.outside else 'kept'})"

    def picture(self, width: int = 480, height: int = 90) -> str:
        """The audits over the frames as SVG; nothing where there are fewer than two."""
        points = [(r.frame, r.value) for r in self.records if math.isfinite(r.value)]
        if len(points) < 2:
            return ""
        bounds = [b for b in (self.at_most, self.at_least) if b is not None]
        top = max([v for _, v in points] + bounds) or 1.0
        low = min([v for _, v in points] + bounds + [0.0])
        first, last = points[0][0], points[-1][0]

        def across(frame: int) -> float:
            return 4 + (width - 8) * (frame - first) / max(1, last - first)

        def down(value: float) -> float:
            return height - 4 - (height - 8) * (value - low) / ((top - low) or 1.0)

        line = " ".join(f"{across(f):.1f},{down(v):.1f}" for f, v in points)
        dashes = "".join(
            f'<line x1="0" x2="{width}" y1="{down(b):.1f}" y2="{down(b):.1f}" stroke="rgb(214, 88, 64)" '
            'stroke-dasharray="4 3"/>'
            for b in bounds
        )
        return (
            f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
            f'aria-label="audits of frames {first} to {last}">{dashes}<polyline points="{line}" fill="none" '
            'stroke="rgb(64, 132, 214)"/></svg>'
        )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
