"""``run --compare``: the stream judged by metrics, beside controls."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from videoeff.calibration.choice import advice, metrics_for
from videoeff.calibration.comparison import Comparison
from videoeff.calibration.controls import Control, usual_controls
from videoeff.calibration.int8 import FRAMES, Int8
from videoeff.calibration.metrics import Metric
from videoeff.calibration.sample import CalibrationFrames
from videoeff.cli.shared.output import stage
from videoeff.video.address import is_address

if TYPE_CHECKING:
    from rich.table import Table

    from videoeff.cli.shared.feed import Feed
    from videoeff.runtime.streaming_module import StreamingModule

Figures = dict[str, Any]


class Comparing:
    """What ``run`` compares with the dense model, and what it has to say of it.

    Args:
        stream: the stream.
        feed: makes a call of a frame.
        clip: what is run.
        frames: how many of its first frames; None for all.
        controls: whether to judge controls, too.
        decoder: the word that says how outputs are read; None recognises them.
        metric: one of the user's.
    """

    def __init__(
        self,
        stream: StreamingModule,
        feed: Feed,
        clip: str,
        frames: int | None,
        controls: bool,
        decoder: str | None,
        metric: Metric | None,
    ) -> None:
        self.notes: list[str] = []
        self._size = feed.signature.frame_specs[0].shape[-2:]
        self._decoder, self._metric = decoder, metric
        beside: list[Control] = []
        if controls:
            beside = usual_controls(stream, feed)
            if clip.isdecimal() or is_address(clip):
                self.notes.append(
                    "int8 is left out: it is calibrated beforehand, and a camera shows nothing twice"
                )
            else:
                beside.append(self._int8(stream, feed, clip, frames))
        self.comparison = Comparison(stream, self._metrics, beside)

    def _int8(self, stream: StreamingModule, feed: Feed, clip: str, frames: int | None) -> Int8:
        sample = CalibrationFrames(clip, frames, FRAMES, alpha=feed.alpha)
        with stage(f"calibrating int8 on {len(sample)} frames"):
            origin = "of the clip that are judged too" if sample.judged else "of the clip that are not judged"
            return Int8(stream, feed, sample, origin=origin)

    def _metrics(self, dense: Any) -> Sequence[Metric]:
        height, width = self._size
        found = metrics_for(dense, (height, width), self._decoder)
        hint = advice(dense, (height, width)) if self._decoder is None else ""
        if hint:
            self.notes.append(hint)
        if self._metric is None:
            return found
        if any(self._metric.name == m.name for m in found):
            self._metric.name += " (yours)"
        return *found, self._metric

    def to_json(self, stream_ms: Sequence[float], dense_ms: Sequence[float]) -> Figures:
        """The figures as plain values, after the last frame."""
        comparison = self.comparison
        rows = comparison.rows(stream_ms, dense_ms)
        return {
            "frames": comparison.frames,
            "block": comparison.block,
            "metrics": [{"name": m.name, "better": m.better} for m in comparison.metrics],
            "rows": [row.to_json() for row in rows],
            "notes": [*self._told(bool(comparison.controls)), *(r.note for r in rows if r.note), *self.notes],
        }

    def _told(self, controls: bool) -> list[str]:
        comparison = self.comparison
        least = 4 * comparison.block + 1
        sure = (
            f"below each figure its interval of 95 %, by bootstrap over blocks of {comparison.block} frames"
            if comparison.frames >= least
            else f"intervals need {least} frames"
        )
        told = [f"{comparison.frames} frames after the first, each against the dense network; {sure}"]
        if controls:
            told.append(
                "frame skipping adds a delay that no figure here shows: a new object is first seen up to "
                "n − 1 frames later"
            )
        return [*told, "dense is PyTorch as it is; videoeff bench times faster dense runtimes and int8"]


def table_of(figures: Figures) -> Table:
    """The contenders as a table for people: figures, and below each its interval."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [m["name"] for m in figures["metrics"]]
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.add_column("", style="bold")
    for name in ("work", "ms", *names):
        heading = "\n".join(textwrap.wrap(name, 10, break_long_words=False))
        table.add_column(Text(heading), justify="right")
    for row in figures["rows"]:
        cells = [_cell(row["work"], _percent, " %"), _cell(row["ms"], _ms)]
        cells += [_cell(row["figures"].get(name), _share) for name in names]
        table.add_row(*(Text(c) for c in (row["label"], *cells)))
    return table


def _cell(figure: Figures | None, text: Callable[[float], str], unit: str = "") -> str:
    """A figure and below it between what it lies."""
    if figure is None:
        return "–"
    low, high = figure["low"], figure["high"]
    value = f"{text(figure['value'])}{unit}"
    return value if low is None or low == high else f"{value}\n{text(low)}–{text(high)}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _ms(value: float) -> str:
    return f"{value:.1f}"


def _share(value: float) -> str:
    """Three places behind the point; a figure just below 1 is not rounded up to it."""
    return "0.999" if 0.999 <= value < 1 else f"{value:.3f}"
