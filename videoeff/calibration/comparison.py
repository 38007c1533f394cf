"""A stream and its controls on one clip, judged by the same metrics on the same frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videoeff.calibration.controls import Control, Frame
from videoeff.calibration.intervals import BLOCK, Interval, difference, interval, median, ratio
from videoeff.calibration.metrics import Metric, Score, prepared
from videoeff.runtime.streaming_module import StreamingModule

STREAM, DENSE = "stream", "dense"


def work_done(stream: StreamingModule) -> Score:
    """The multiply-accumulates that a stream computed since counting began, over the dense network's."""
    report = stream.report()
    return Score(report.macs["needed"] * report.frames, report.macs["dense"] * report.frames)


@dataclass(frozen=True)
class Row:
    """One contender.

    Attributes:
        label: what tables call it.
        work: share of the dense network's multiply-accumulates; None where that says nothing.
        ms: median time of a frame; None where it was not timed.
        figures: by the name of the metric.
        stream_minus: the stream's figure minus this one, by the name of the metric: a paired test.
        note: what a reader has to know.
    """

    label: str
    work: Interval | None
    ms: Interval | None
    figures: dict[str, Interval]
    stream_minus: dict[str, Interval]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "label": self.label,
            "work": None if self.work is None else self.work.to_json(),
            "ms": None if self.ms is None else self.ms.to_json(),
            "figures": {name: found.to_json() for name, found in self.figures.items()},
            "stream_minus": {name: found.to_json() for name, found in self.stream_minus.items()},
            "note": self.note,
        }


class Comparison:
    """Judges a stream and controls against the dense network, frame by frame.

    The first frame is not judged: there a stream and frame skipping are the dense network. Controls run at
    the end of each block of frames, so that they do not disturb the times of the others.

    Attributes:
        metrics: the metrics, empty before the first frame.
        frames: how many frames were judged.

    Args:
        stream: the stream.
        choose: gives the metrics for the dense outputs of the first frame; the last is the one to go by.
        controls: what to judge beside it.
        block: consecutive frames that the intervals draw together.
    """

    def __init__(
        self,
        stream: StreamingModule,
        choose: Callable[[Any], Sequence[Metric]],
        controls: Sequence[Control] = (),
        block: int = BLOCK,
    ) -> None:
        self.metrics: tuple[Metric, ...] = ()
        self.frames = 0
        self.block = block
        self.controls = tuple(controls)
        self._stream, self._choose = stream, choose
        self._seen = 0
        self._waiting: list[tuple[int, Frame, Any, list[Any]]] = []
        self._scores: dict[str, list[list[Score]]] = {}
        self._done = work_done(stream)
        self._work: list[Score] = []

    def add(self, frame: Frame, outputs: Any, dense: Any) -> None:
        """Judge one more frame of the clip.

        Args:
            frame: (H, W, 3), uint8, as decoded.
            outputs: the stream's.
            dense: the dense network's.
        """
        if not self._seen:
            self.metrics = tuple(self._choose(dense))
            labels = [STREAM, *(c.label for c in self.controls)]
            self._scores = {label: [[] for _ in self.metrics] for label in labels}
        read = prepared(self.metrics, dense)
        if self._seen:
            self._score(STREAM, outputs, read)
            self.frames += 1
        if self.controls:
            self._waiting.append((self._seen, frame, dense, read))
        self._seen += 1
        if self.frames % self.block == 0:
            self._flush()

    def _score(self, label: str, outputs: Any, dense: list[Any]) -> None:
        rows = zip(self.metrics, prepared(self.metrics, outputs), dense, self._scores[label], strict=True)
        for metric, ours, theirs, scores in rows:
            scores.append(metric.frame(ours, theirs))

    def _flush(self) -> None:
        """Let the controls run on the frames that wait, and note the work of the stream on them."""
        done = work_done(self._stream)
        work = Score(done.numerator - self._done.numerator, done.denominator - self._done.denominator)
        if work.denominator:
            self._work.append(work)
            self._done = done
        waiting, self._waiting = self._waiting, []
        with torch.no_grad():
            for control in self.controls:
                for number, frame, dense, read in waiting:
                    outputs = control.outputs(number, frame, dense)
                    if number:
                        self._score(control.label, outputs, read)

    def rows(self, stream_ms: Sequence[float], dense_ms: Sequence[float]) -> list[Row]:
        """The stream, the dense network and the controls, after the last frame.

        Args:
            stream_ms: time of each streaming call, the first included.
            dense_ms: time of each dense call, the first included.
        """
        self._flush()
        work = ratio(self._work, 1) if self._work else None
        found = [
            Row(STREAM, work, self._ms(stream_ms), self._figures(STREAM), {}),
            Row(DENSE, self._whole(1.0), self._ms(dense_ms), {}, {}),
        ]
        for control in self.controls:
            share = None if control.work is None else self._whole(control.work)
            figures, minus = self._figures(control.label), self._minus(control.label)
            found.append(
                Row(control.label, share, self._ms(control.ms(dense_ms)), figures, minus, control.note)
            )
        return found

    def _figures(self, label: str) -> dict[str, Interval]:
        rows = zip(self.metrics, self._scores.get(label, ()), strict=True)
        return {metric.name: interval(metric, scores, self.block) for metric, scores in rows}

    def _minus(self, label: str) -> dict[str, Interval]:
        rows = zip(self.metrics, self._scores.get(STREAM, ()), self._scores.get(label, ()), strict=True)
        return {metric.name: difference(metric, ours, theirs, self.block) for metric, ours, theirs in rows}

    def _ms(self, values: Sequence[float]) -> Interval | None:
        return median(values[1:], self.block) if len(values) > 1 else None

    def _whole(self, share: float) -> Interval:
        """A share that is known."""
        return Interval(share, share, share, self.frames)
