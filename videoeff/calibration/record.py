"""What a calibration found: the stream, and a record of how, which is saved with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from videoeff.calibration.budget import Budget
from videoeff.calibration.frames import Parts
from videoeff.calibration.intervals import Interval
from videoeff.calibration.metrics import Metric
from videoeff.calibration.picture import Drawing, curve_picture
from videoeff.calibration.settings import Settings
from videoeff.calibration.trials import Trial
from videoeff.runtime.streaming_module import StreamingModule

METHOD = (
    "input test, then bounded reach, then one threshold, then predicted changes; neighbours of the best; "
    "survivors on more and more frames; thresholds layer by layer from innovations; the result judged on the "
    "last third of the clip"
)


@dataclass(frozen=True)
class Judged:
    """One contender.

    Attributes:
        label: what it is.
        settings: of the stream; empty for a control.
        figure: of the metric.
        work: share of the dense multiply-accumulates; None where that says nothing.
        ms: of a frame on this machine; None where it was not timed.
    """

    label: str
    settings: Mapping[str, Any]
    figure: Interval
    work: float | None
    ms: float | None

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self) | {"settings": dict(self.settings), "figure": self.figure.to_json()}


@dataclass(frozen=True)
class Outcome:
    """What a calibration found.

    Attributes:
        budget: asked for.
        metric: that judged.
        limit: the figure to keep on the frames searched on, or the cost.
        held_limit: that on the frames held back.
        chosen: what was chosen, on the frames searched on.
        held: the same on the frames held back.
        kept: whether the budget is kept there.
        curve: settings on the frames held back.
        controls: on the same frames.
        notes: what happened.
        searched: all trials.
        seconds: of the search, and of all.
        passes: text of the passes that set what was chosen.
    """

    budget: Budget
    metric: Metric
    limit: float
    held_limit: float
    chosen: Judged
    held: Judged
    kept: bool
    curve: Sequence[Judged]
    controls: Sequence[Judged]
    notes: Sequence[str]
    searched: Mapping[tuple[Settings, int], Trial]
    seconds: tuple[float, float]
    passes: str


def record_of(outcome: Outcome, clip: str, digest: str, total: int, parts: Parts, by: str) -> dict[str, Any]:
    """The record as plain values, for JSON."""
    return {
        "budget": str(outcome.budget),
        "kept": outcome.kept,
        "metric": {"name": outcome.metric.name, "better": outcome.metric.better},
        "limit": outcome.limit,
        "held_limit": outcome.held_limit,
        "of_cost": outcome.budget.of_cost,
        "cost_by": by,
        "clip": {
            "name": Path(clip).name,
            "sha256": digest,
            "frames": total,
            "searched": [[b.start, b.stop] for b in parts.long],
            "held": [[b.start, b.stop] for b in parts.held],
        },
        "method": METHOD,
        "settings": dict(outcome.chosen.settings),
        "passes": outcome.passes,
        "chosen": outcome.chosen.to_json(),
        "held": outcome.held.to_json(),
        "curve": [j.to_json() for j in outcome.curve],
        "controls": [j.to_json() for j in outcome.controls],
        "trials": len(outcome.searched),
        "seconds": [round(s, 1) for s in outcome.seconds],
        "notes": list(outcome.notes),
    }


@dataclass(frozen=True)
class Calibration:
    """A calibrated stream.

    Attributes:
        stream: the stream.
        record: budget, clip, method and figures; also in ``stream.extra["calibration"]``.
    """

    stream: StreamingModule
    record: Mapping[str, Any]

    @property
    def kept(self) -> bool:
        """Whether the budget is kept on the part of the clip that was held back."""
        return bool(self.record["kept"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was chosen."""
        found: Mapping[str, Any] = self.record["settings"]
        return found

    def picture(self) -> Drawing:
        """The trade-off curve with the chosen point and the controls."""
        return curve_picture(self.record)

    def __str__(self) -> str:
        return "\n".join(summary(self.record))


def summary(record: Mapping[str, Any]) -> list[str]:
    """A record for people, a line each."""
    held, name = record["held"], record["metric"]["name"]
    blocks = record["clip"]["held"]
    count = held["figure"]["frames"]
    kept = "kept" if record["kept"] else "NOT kept"
    if record["of_cost"]:
        budget = f"budget {record['budget']}: {kept} on frames held back"
    else:
        worst = "at least" if record["metric"]["better"] == "higher" else "at most"
        limit = f"{name} {worst} {record['held_limit']:.4g}"
        budget = f"budget {record['budget']} ({limit}): {kept} on frames held back"
    where = f"{count} frames of {blocks[0][0]} to {blocks[-1][1] - 1}, on which nothing was chosen"
    if any("held back (" in note for note in record["notes"]):
        where = f"{count} frames of {blocks[0][0]} to {blocks[-1][1] - 1}, which also made it step back"
    lines = [
        f"{held['label']}",
        f"{budget}: {figure_text(held['figure'], name)}, {_cost_text(held)} ({where})",
        f"on the frames searched on: {figure_text(record['chosen']['figure'], name)}, "
        f"{_cost_text(record['chosen'])}",
    ]
    lines += [f"beside it {c['label']}: {figure_text(c['figure'], name)}" for c in record["controls"]]
    return [*lines, *record["notes"]]


def figure_text(figure: Mapping[str, Any], name: str) -> str:
    """``settled agreement 0.991 (0.985 to 0.996)``."""
    text = f"{name} {figure['value']:.4g}"
    return text if figure["low"] is None else f"{text} ({figure['low']:.4g} to {figure['high']:.4g})"


def _cost_text(judged: Mapping[str, Any]) -> str:
    parts = [] if judged["work"] is None else [f"{100 * judged['work']:.1f} % of the work"]
    if judged["ms"] is not None:
        parts.append(f"{judged['ms']:.2f} ms a frame")
    return ", ".join(parts)
