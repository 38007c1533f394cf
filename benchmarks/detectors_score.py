"""The detectors of the benchmark, and the agreement of a contender with the dense one, frame after frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray

from videoeff.calibration.agreement import DetectionAgreement, ErrorAtDetections, SettledAgreement
from videoeff.calibration.decoders import CellDecoder, FastestDet, Reading, Yolox
from videoeff.calibration.intervals import BLOCK, difference, interval
from videoeff.calibration.metrics import Metric, Score, total

__all__ = ["BLOCK", "DETECTORS", "Agreement", "Detector", "Judge"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Detector:
    """How a network is fed and read.

    Attributes:
        name: of its file, without ``.pt2``.
        title: what to call it.
        scale: of the grey levels 0..255; frames are blue first.
        decoder: what reads it, for frames of a size (height, width).
    """

    name: str
    title: str
    scale: float
    decoder: Callable[[tuple[int, int]], CellDecoder]


DETECTORS: dict[str, Detector] = {
    d.name: d
    for d in (
        Detector("fastestdet", "FastestDet", 1 / 255, lambda size: FastestDet(size=size)),
        Detector("yolox_nano", "YOLOX-Nano", 1.0, lambda size: Yolox(size=size)),
    )
}


class Judge:
    """Compares outputs with the dense network's.

    Args:
        decoder: what reads them.
    """

    def __init__(self, decoder: CellDecoder) -> None:
        self.decoder = decoder
        self.f1, self.settled = DetectionAgreement(decoder), SettledAgreement(decoder)
        self.error = ErrorAtDetections(decoder)

    def read(self, output: Array) -> Reading:
        """The detections in the only output of a frame."""
        return self.decoder.read(torch.from_numpy(output))

    def count(self, reading: Reading) -> int:
        """How many detections there are above the usual score."""
        return sum(len(found.above(self.decoder.score)) for found in reading.found)


@dataclass
class Agreement:
    """Agreement of one contender with the dense network.

    Attributes:
        judge: compares outputs.
        f1: of each frame, agreement at one score.
        settled: of each frame, settled agreement.
        errors: of each frame, relative errors at the detections.
    """

    judge: Judge
    f1: list[Score] = field(default_factory=list)
    settled: list[Score] = field(default_factory=list)
    errors: list[Score] = field(default_factory=list)

    def add(self, found: Reading, dense: Reading) -> None:
        """Judge one frame: the contender's detections against the dense network's."""
        self.f1.append(self.judge.f1.frame(found, dense))
        self.settled.append(self.judge.settled.frame(found, dense))
        self.errors.append(self.judge.error.frame(found, dense))

    def to_json(self, other: Agreement | None = None) -> dict[str, Any]:
        """The figures, with intervals of 95 %.

        Args:
            other: whose settled agreement is subtracted from this one's, frame by frame, for a paired test.
        """
        errors = total(self.errors)
        found: dict[str, Any] = {
            "f1": _told(self.judge.f1, self.f1),
            "settled": _told(self.judge.settled, self.settled),
            "error": self.judge.error.value(errors) if errors.denominator else None,
        }
        if other is not None:
            found["settled_over_int8"] = _told(self.judge.settled, self.settled, other.settled)
        return found


def _told(metric: Metric, scores: list[Score], minus: list[Score] | None = None) -> dict[str, Any]:
    made = interval(metric, scores) if minus is None else difference(metric, scores, minus)
    return {"value": made.value, "low": made.low, "high": made.high}
