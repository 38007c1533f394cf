"""What a frame of a stream costs on this machine: time per layer, as a line over the layer's active share.

A time measured once is worth little where other programs run. All trials of a search together give each layer
many pairs of share and time; a line through them, time = fixed + slope · share, that does not mind outliers
tells settings apart which differ by less than a single measurement does. What a threshold, a prediction or a
bound costs by itself, however little is computed, is told from how far the trials with it lie off the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.runtime.observation import layer_name
from videoeff.runtime.streaming_module import StreamingModule

Array = NDArray[Any]

#: Rounds in which points far from the line lose their weight.
_ROUNDS = 12
#: Points to have before a line is trusted.
_POINTS = 3


@dataclass(frozen=True)
class Sample:
    """What one run of frames cost.

    Attributes:
        shares: pixels that were worked on over all, by layer name.
        nanoseconds: of a frame in each layer; empty where the backend does not say.
        ms: median of a whole call.
        work: multiply-accumulates needed over those of the dense network.
        frames: how many were run.
        kind: what the stream did besides computing: samples of one kind share what that costs.
    """

    shares: Mapping[str, float]
    nanoseconds: Mapping[str, float]
    ms: float
    work: float
    frames: int
    kind: str = ""

    @property
    def outside(self) -> float:
        """Milliseconds of a call outside the layers."""
        return max(0.0, self.ms - sum(self.nanoseconds.values()) / 1e6)


def start(stream: StreamingModule) -> None:
    """Begin to count anew, after the first frame of a run."""
    stream.clear_report()
    for engine in stream.engines.values():
        for group in engine.plan.groups:
            times = getattr(group, "times", None)
            if times is not None:
                times(reset=True)


def take(stream: StreamingModule, ms: list[float], kind: str = "") -> Sample:
    """What the frames since :func:`start` cost.

    Args:
        stream: the stream.
        ms: time of each call.
        kind: of the sample.
    """
    report = stream.report()
    frames = max(1, report.frames)
    shares = {
        x.name: x.macs_scheduled / x.macs_dense if x.macs_dense else (x.active_share or 0.0)
        for x in report.layers
    }
    nanoseconds: dict[str, float] = {}
    for name, engine in stream.engines.items():
        for group in engine.plan.groups:
            times = getattr(group, "times", None)
            if times is not None:
                nanoseconds |= {layer_name(name, k): t / frames for k, t in times().items()}
    dense = report.macs["dense"] or 1.0
    return Sample(
        shares, nanoseconds, float(np.median(ms)) if ms else 0.0, report.macs["needed"] / dense, frames, kind
    )


@dataclass
class LayerTimes:
    """Lines of time over active share, one a layer, from all samples so far."""

    samples: list[Sample] = field(default_factory=list)
    _extra: dict[str, float] = field(default_factory=dict)
    _fitted: tuple[int, dict[str, tuple[float, float]], float] | None = None

    def add(self, sample: Sample) -> None:
        """One more sample."""
        self.samples.append(sample)
        self._extra.clear()

    def ms(self, sample: Sample) -> float:
        """Milliseconds of a frame at the shares of a sample."""
        if not sample.nanoseconds or len(self.samples) < _POINTS:
            return sample.ms
        lines, outside = self.lines()
        inside = sum(_at(line, sample, layer) for layer, line in lines.items())
        if sample.kind not in self._extra:
            self._extra[sample.kind] = self._off_the_lines(sample.kind)
        return inside / 1e6 + outside + self._extra[sample.kind]

    def _off_the_lines(self, kind: str) -> float:
        """Milliseconds that samples of a kind take beyond the lines, less of it the fewer there are."""
        alike = [s for s in self.samples if s.nanoseconds and s.kind == kind]
        if not alike:
            return 0.0
        lines, outside = self.lines()
        off = [sum(t - _at(lines[k], s, k) for k, t in s.nanoseconds.items()) for s in alike]
        found = float(np.median(off)) / 1e6 + float(np.median([s.outside - outside for s in alike]))
        return found * len(alike) / (len(alike) + 1)

    def lines(self) -> tuple[dict[str, tuple[float, float]], float]:
        """Fixed part and slope of each layer in nanoseconds, and the milliseconds outside the layers."""
        if self._fitted is None or self._fitted[0] != len(self.samples):
            timed = [s for s in self.samples if s.nanoseconds]
            layers = {layer for s in timed for layer in s.nanoseconds}
            lines = {}
            for layer in layers:
                points = [
                    (s.shares.get(layer, 1.0), s.nanoseconds[layer]) for s in timed if layer in s.nanoseconds
                ]
                lines[layer] = line(np.array([p[0] for p in points]), np.array([p[1] for p in points]))
            outside = float(np.median([s.outside for s in timed])) if timed else 0.0
            self._fitted = (len(self.samples), lines, outside)
        return self._fitted[1], self._fitted[2]


def _at(found: tuple[float, float], sample: Sample, layer: str) -> float:
    """Nanoseconds of a layer by its line, at the share of a sample."""
    return found[0] + found[1] * sample.shares.get(layer, 1.0)


def line(shares: Array, times: Array) -> tuple[float, float]:
    """Fixed part and slope, neither below 0, of the line nearest to most points (least absolute distance)."""
    weight = np.ones_like(times)
    fixed, slope = float(np.median(times)), 0.0
    for _ in range(_ROUNDS):
        total = weight.sum()
        mean_share, mean_time = (weight * shares).sum() / total, (weight * times).sum() / total
        spread = (weight * (shares - mean_share) ** 2).sum()
        slope = (
            (weight * (shares - mean_share) * (times - mean_time)).sum() / spread if spread > 1e-9 else 0.0
        )
        slope = max(0.0, float(slope))
        fixed = float(mean_time - slope * mean_share)
        if fixed < 0:  # then through the origin
            fixed, slope = (
                0.0,
                float((weight * shares * times).sum() / max((weight * shares**2).sum(), 1e-12)),
            )
        off = np.abs(times - fixed - slope * shares)
        weight = 1.0 / np.maximum(off, 1e-3 * max(float(np.median(times)), 1e-9))
    return fixed, slope
