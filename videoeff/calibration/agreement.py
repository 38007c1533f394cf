"""Metrics of what a network's outputs mean: of its detections, and of its label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.calibration.boxes import Array, Boxes, pairs
from videoeff.calibration.decoders import Decoder, Reading, array, described
from videoeff.calibration.metrics import Better, Metric, Score, total
from videoeff.errors import MetricError


class OfDetections(Metric):
    """A metric of detections.

    Args:
        decoder: reads them out of the outputs.
    """

    decoder: Decoder

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def prepare(self, outputs: Any) -> Reading:
        """The detections."""
        return self.decoder.read(outputs)

    def _both(self, outputs: Any, dense: Any) -> Iterator[tuple[Boxes, Boxes]]:
        """The detections of both in each entry of the batch."""
        return zip(self.prepare(outputs).found, self.prepare(dense).found, strict=True)


class DetectionAgreement(OfDetections):
    """F1 of the detections above one score: twice the common ones over the number of both.

    It mostly measures how detections near that score flicker.
    """

    name = "agreement"
    better: Better = "higher"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """Twice the pairs, over the detections of both."""
        scores = []
        for ours, theirs in self._both(outputs, dense):
            ours, theirs = ours.above(self.decoder.score), theirs.above(self.decoder.score)
            scores.append(Score(2 * pairs(ours, theirs), len(ours) + len(theirs)))
        return total(scores)


class SettledAgreement(OfDetections):
    """Of the detections of each above a high score, the share that the other has above a low one.

    It measures what is missed and what is invented.
    """

    name = "settled agreement"
    better: Better = "higher"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """The detections found again, over the high-scoring ones of both."""
        scores = []
        for ours, theirs in self._both(outputs, dense):
            sure, settled = ours.above(self.decoder.high), theirs.above(self.decoder.high)
            scores.append(Score(pairs(sure, theirs) + pairs(ours, settled), len(sure) + len(settled)))
        return total(scores)


class ErrorAtDetections(OfDetections):
    """||outputs − dense|| / ||dense|| at the cells where the dense network detects; the mean over frames."""

    name = "error at detections"
    better: Better = "lower"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """The error and 1; nothing of a frame without detections."""
        scores = []
        for ours, theirs in zip(self.prepare(outputs).cells, self.prepare(dense).cells, strict=True):
            there = theirs.scores > self.decoder.score
            if there.any():
                expected = theirs.values[there].astype(np.float64)
                wrong = np.linalg.norm(ours.values[there] - expected)
                scores.append(Score(float(wrong / np.linalg.norm(expected)), 1))
        return total(scores)


@dataclass(frozen=True)
class LabelMaps:
    """The class of each pixel, (B, H, W), whole numbers."""

    labels: Array


@dataclass(frozen=True)
class Segmentation:
    """Reads label maps out of logits (B, C, H, W), also in a dictionary under "out", or labels (B, H, W).

    Attributes:
        cut: of a map of one class (C = 1), the value above which a pixel is of that class.
    """

    cut: float = 0.0

    def read(self, outputs: Any) -> LabelMaps:
        """The best class of each pixel; what was read already stays as it is.

        Raises:
            MetricError: there are neither logits nor labels in the outputs.
        """
        if isinstance(outputs, LabelMaps):
            return outputs
        found = map_of(outputs)
        if found is None:
            raise MetricError(
                "the decoder segmentation expects logits (B, C, H, W) or labels (B, H, W); the network "
                f"returned {described(outputs)}. Choose another decoder, or none"
            )
        if not found.is_floating_point():
            return LabelMaps(array(found.squeeze(1) if found.ndim == 4 else found))
        if found.shape[1] == 1:
            return LabelMaps((array(found)[:, 0] > self.cut).astype(np.int64))
        return LabelMaps(array(found.argmax(1)))


def map_of(outputs: Any) -> Tensor | None:
    """Logits (B, C, H, W), or labels as whole numbers (B, H, W) or (B, 1, H, W), among outputs."""
    if isinstance(outputs, Mapping) and isinstance(outputs.get("out"), Tensor):
        outputs = outputs["out"]
    for value in pytree.tree_leaves(outputs):
        if isinstance(value, Tensor):
            whole = not value.is_floating_point()
            if value.ndim == 4 and (not whole or value.shape[1] == 1):
                return value
            return value if value.ndim == 3 and whole else None
    return None


class OfLabels(Metric):
    """A metric of label maps.

    Args:
        decoder: reads them out of the outputs.
    """

    better: Better = "higher"

    decoder: Segmentation

    def __init__(self, decoder: Segmentation) -> None:
        self.decoder = decoder

    def prepare(self, outputs: Any) -> LabelMaps:
        """The labels."""
        return self.decoder.read(outputs)

    def _both(self, outputs: Any, dense: Any) -> tuple[Array, Array]:
        return self.prepare(outputs).labels, self.prepare(dense).labels


class PixelAgreement(OfLabels):
    """The share of the pixels of which both say the same class."""

    name = "pixel agreement"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """Pixels of the same class, over all."""
        ours, theirs = self._both(outputs, dense)
        return Score(float((ours == theirs).sum()), theirs.size)


class MeanIoU(OfLabels):
    """Intersection over union of a class's pixels in both, the mean over the frames and classes there are.

    A class counts in a frame where either of both has a pixel of it.
    """

    name = "mIoU"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """The sum over the classes in the frame, and their number."""
        ours, theirs = (v.ravel() for v in self._both(outputs, dense))
        _, codes = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        ours, theirs = codes.reshape(2, -1)
        count = int(codes.max(initial=-1)) + 1
        common = np.bincount(ours[ours == theirs], minlength=count)
        either = np.bincount(ours, minlength=count) + np.bincount(theirs, minlength=count) - common
        return Score(float((common / either).sum()), count)
