"""Trials: a stream with some settings on some frames of the clip, judged and timed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from videoeff.calibration import cost
from videoeff.calibration.agreement import ErrorAtDetections
from videoeff.calibration.controls import Control, Network
from videoeff.calibration.cost import LayerTimes, Sample
from videoeff.calibration.decoders import Reading
from videoeff.calibration.frames import Frames
from videoeff.calibration.intervals import Interval, interval
from videoeff.calibration.metrics import Metric, Score
from videoeff.calibration.settings import Settings, Units, apply
from videoeff.runtime.streaming_module import StreamingModule

#: Share of a block that is run before its frames are judged: the first frame of a stream is exact.
WARM = 0.25
#: How far a figure is moved to the worse end of its interval, before it is asked whether it keeps a budget.
#: What is chosen has to keep it once more, on frames that were held back.
CAUTION = 0.25
#: Consecutive frames that an interval draws together.
BLOCK = 8


@dataclass(frozen=True)
class Trial:
    """What settings gave on some frames.

    Attributes:
        settings: the settings.
        figure: of the metric, with its interval.
        cautious: the figure moved by :data:`CAUTION` to the worse end of its interval.
        sample: what it cost.
        work: multiply-accumulates needed over those of the dense network.
    """

    settings: Settings
    figure: Interval
    cautious: float
    sample: Sample

    @property
    def work(self) -> float:
        """Multiply-accumulates needed, over those of the dense network."""
        return self.sample.work


class Bench:
    """Runs a stream with any settings on blocks of frames, beside its dense network.

    Attributes:
        metric: judges; to be set before the first trial.
        times: the lines of time over active share, from all trials.

    Args:
        stream: the stream; its settings change.
        frames: of the clip.
        units: of the input's test.
    """

    metric: Metric

    def __init__(self, stream: StreamingModule, frames: Frames, units: Units) -> None:
        self.stream, self.frames, self.units = stream, frames, units
        self.times = LayerTimes()
        self._network = Network(stream, frames.feed)
        self._dense: dict[int, Any] = {}
        self._memory = self._network.remembers

    def dense(self, block: range) -> list[Any]:
        """The dense network's outputs for a block, prepared for the metric; each is computed once."""
        if any(i not in self._dense for i in block):
            if self._memory:
                self._network = Network(self.stream, self.frames.feed)  # begins anew, as a stream does
            for i in block:
                if i not in self._dense or self._memory:
                    self._dense[i] = self.read(self._network(self.frames.pictures[i]))
        return [self._dense[i] for i in block]

    def read(self, outputs: Any) -> Any:
        """Outputs prepared for the metric, without what it does not look at."""
        found = self.metric.prepare(outputs)
        if isinstance(found, Reading) and not isinstance(self.metric, ErrorAtDetections):
            return replace(found, cells=())
        return found

    def run(self, settings: Settings, blocks: Sequence[range]) -> Trial:
        """Judge and time settings.

        Args:
            settings: the settings.
            blocks: of frames; each begins with a first frame.
        """
        stream = self.stream
        apply(stream, settings, self.units)
        scores: list[Score] = []
        samples = []
        for block in blocks:
            dense = self.dense(block)
            stream.reset()
            warm = warm_frames(len(block))
            ms: list[float] = []
            for place, number in enumerate(block):
                args, kwargs = self.frames.call(number)
                begin = time.perf_counter()
                with torch.no_grad():
                    outputs = stream(*args, **kwargs)
                if stream.device.type == "cuda":
                    torch.cuda.synchronize(stream.device)
                if place == warm - 1:
                    cost.start(stream)
                if place >= warm:
                    ms.append(1e3 * (time.perf_counter() - begin))
                    scores.append(self.metric.frame(self.read(outputs), dense[place]))
            sample = cost.take(stream, ms, settings.kind)
            samples.append(sample)
            self.times.add(sample)
        found = interval(self.metric, scores, BLOCK)
        return Trial(settings, found, cautious(found, self.metric), joined(samples))

    def control(self, control: Control, blocks: Sequence[range]) -> Interval:
        """What a control gives on the frames that a trial judges."""
        scores = []
        number = 0
        for block in blocks:
            dense = self.dense(block)
            warm = warm_frames(len(block))
            for place, index in enumerate(block):
                outputs = control.outputs(number, self.frames.pictures[index], dense[place])
                number += 1
                if place >= warm:
                    scores.append(self.metric.frame(self.read(outputs), dense[place]))
        return interval(self.metric, scores, BLOCK)

    def layer_costs(self, by_work: bool) -> dict[str, float]:
        """What computing each layer whole costs, by layer name: its multiply-accumulates, or nanoseconds.

        Args:
            by_work: the former; also where times are not known.
        """
        lines, _ = self.times.lines()
        if lines and not by_work:
            return {layer: slope for layer, (_, slope) in lines.items()}
        return {x.name: x.macs_dense for x in self.stream.report().layers}

    def ms(self, trial: Trial) -> float:
        """Milliseconds of a frame, by all that is known of the layers by now."""
        return self.times.ms(trial.sample)


def warm_frames(length: int) -> int:
    """Frames at the beginning of a block that are not judged; at least the first."""
    return max(1, min(int(WARM * length), 16, length - 1))


def cautious(found: Interval, metric: Metric) -> float:
    """A figure moved to the worse end of its interval: about two of three draws of frames are better."""
    worse = found.low if metric.better == "higher" else found.high
    return found.value if worse is None else found.value + CAUTION * (worse - found.value)


def joined(samples: Iterable[Sample]) -> Sample:
    """The samples of several blocks as one."""
    found = list(samples)
    total = sum(s.frames for s in found) or 1

    def mean(values: Iterable[float]) -> float:
        return sum(v * s.frames for v, s in zip(values, found, strict=True)) / total

    shares = {k: mean(s.shares.get(k, 0.0) for s in found) for k in found[0].shares}
    times = {k: mean(s.nanoseconds.get(k, 0.0) for s in found) for k in found[0].nanoseconds}
    return Sample(shares, times, mean(s.ms for s in found), mean(s.work for s in found), total, found[0].kind)
