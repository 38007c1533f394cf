"""What two detectors put out, how well two of their outputs agree, and how sure that figure is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms, box_iou

Array = NDArray[Any]

#: Two boxes of one class that overlap by more are one object.
SAME = 0.5
#: Frames of a block for the bootstrap: neighbouring frames are dependent, blocks hardly.
BLOCK = 10
RESAMPLES = 4000
#: With fewer blocks there is no telling how sure a figure is.
FEWEST = 5


@dataclass(frozen=True)
class Boxes:
    """Detections of one frame, the best first.

    Attributes:
        boxes: (N, 4), left, top, right, bottom.
        scores: (N,).
        labels: (N,).
    """

    boxes: Array
    scores: Array
    labels: Array

    def above(self, score: float) -> Boxes:
        """Those that score more."""
        kept = self.scores > score
        return Boxes(self.boxes[kept], self.scores[kept], self.labels[kept])

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class Detector:
    """How a network is fed and read.

    Attributes:
        name: of its file, without ``.pt2``.
        title: what to call it.
        scale: of the grey levels 0..255; frames are blue first.
        score: a detection scores more than this.
        high: a settled one more than this,
        low: and is found again above this.
        overlap: non-maximum suppression.
    """

    name: str
    title: str
    scale: float
    score: float
    high: float
    low: float
    overlap: float

    def cells(self, output: Array) -> tuple[Array, Array]:
        """All cells of an output as (cells, channels), and their scores (cells,)."""
        raise NotImplementedError

    def corners(self, cells: Array, places: Array, size: tuple[int, int]) -> Array:
        """Boxes (N, 4) of some cells (N, channels), given their numbers (N,) and the size of the frame."""
        raise NotImplementedError

    def classes(self, cells: Array) -> Array:
        """Probabilities of the classes, (N, classes)."""
        return cells[:, 5:]

    def boxes(self, output: Array, size: tuple[int, int]) -> Boxes:
        """The detections above ``low`` of a frame of ``size`` (height, width)."""
        cells, scores = self.cells(output)
        places = np.nonzero(scores > self.low)[0]
        found, scores = cells[places].astype(np.float64), scores[places].astype(np.float64)
        corners, labels = self.corners(found, places, size), self.classes(found).argmax(1)
        kept = batched_nms(
            torch.from_numpy(corners), torch.from_numpy(scores), torch.from_numpy(labels), self.overlap
        ).numpy()
        return Boxes(corners[kept], scores[kept], labels[kept])

    def error(self, output: Array, dense: Array) -> float | None:
        """||output − dense|| / ||dense|| over the cells where the dense network detects; None without any."""
        expected, scores = self.cells(dense)
        there = scores > self.score
        if not there.any():
            return None
        difference = self.cells(output)[0][there].astype(np.float64) - expected[there]
        return float(np.linalg.norm(difference) / np.linalg.norm(expected[there].astype(np.float64)))


class FastestDet(Detector):
    """FastestDet: one map (1, 85, h, w) of objectness, four of the box, 80 classes."""

    def cells(self, output: Array) -> tuple[Array, Array]:
        """Row by row; score = objectness^0.6 · class^0.4."""
        cells = output[0].reshape(output.shape[1], -1).T
        return cells, np.maximum(cells[:, 0], 0) ** 0.6 * cells[:, 5:].max(1) ** 0.4

    def corners(self, cells: Array, places: Array, size: tuple[int, int]) -> Array:
        """In pixels; a cell has 16×16 of them, and a box is at most as large as the frame."""
        height, width = size
        row, column = np.divmod(places, width // 16)
        x, y = (np.tanh(cells[:, 1]) + column) * 16, (np.tanh(cells[:, 2]) + row) * 16
        w, h = width / (1 + np.exp(-cells[:, 3])), height / (1 + np.exp(-cells[:, 4]))
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


class Yolox(Detector):
    """YOLOX: cells of strides 8, 16 and 32 one after another, (1, N, 85)."""

    def cells(self, output: Array) -> tuple[Array, Array]:
        """Score = objectness · class."""
        cells = output[0]
        return cells, cells[:, 4] * cells[:, 5:].max(1)

    def corners(self, cells: Array, places: Array, size: tuple[int, int]) -> Array:
        """In pixels."""
        grids = []
        for stride in (8, 16, 32):
            row, column = np.divmod(np.arange(size[0] // stride * (size[1] // stride)), size[1] // stride)
            grids.append(np.stack([column, row, np.full_like(row, stride)], 1))
        column, row, stride = np.concatenate(grids)[places].T
        x, y = (cells[:, 0] + column) * stride, (cells[:, 1] + row) * stride
        w, h = np.exp(cells[:, 2]) * stride, np.exp(cells[:, 3]) * stride
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)


DETECTORS: dict[str, Detector] = {
    d.name: d
    for d in (
        FastestDet("fastestdet", "FastestDet", 1 / 255, score=0.4, high=0.5, low=0.35, overlap=0.45),
        Yolox("yolox_nano", "YOLOX-Nano", 1.0, score=0.3, high=0.4, low=0.25, overlap=0.5),
    )
}


def pairing(found: Boxes, truth: Boxes) -> list[tuple[int, int]]:
    """Which of two sets of boxes are the same objects, each paired once, the largest overlap first."""
    if not len(found) or not len(truth):
        return []
    overlap = box_iou(torch.from_numpy(found.boxes), torch.from_numpy(truth.boxes)).numpy()
    overlap[found.labels[:, None] != truth.labels[None]] = 0
    left, right = np.nonzero(overlap > SAME)
    order = np.argsort(-overlap[left, right], kind="stable")
    used: tuple[set[int], set[int]] = set(), set()
    paired = []
    for i, j in zip(left[order].tolist(), right[order].tolist(), strict=True):
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            paired.append((i, j))
    return paired


def pairs(found: Boxes, truth: Boxes) -> int:
    """How many of two sets of boxes are the same objects."""
    return len(pairing(found, truth))


@dataclass
class Agreement:
    """Agreement of one contender with the dense network, frame after frame.

    Attributes:
        f1: per frame, twice the pairs and the number of detections of both, at one score.
        settled: per frame, how many high-scoring detections of each are found in the other, and their number.
        errors: relative errors at the detections, of frames that have any.
    """

    f1: list[tuple[int, int]] = field(default_factory=list)
    settled: list[tuple[int, int]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(
        self, detector: Detector, output: Array, dense: Array, truth: Boxes, size: tuple[int, int]
    ) -> None:
        """Judge one frame.

        Args:
            detector: the network.
            output: the contender's.
            dense: the dense network's.
            truth: the detections in ``dense``.
            size: of the frame.
        """
        found = detector.boxes(output, size)
        ours, theirs = found.above(detector.score), truth.above(detector.score)
        self.f1.append((2 * pairs(ours, theirs), len(ours) + len(theirs)))
        ours, theirs = found.above(detector.high), truth.above(detector.high)
        self.settled.append((pairs(ours, truth) + pairs(found, theirs), len(ours) + len(theirs)))
        error = detector.error(output, dense)
        if error is not None:
            self.errors.append(error)

    def to_json(self, other: Agreement | None = None) -> dict[str, Any]:
        """The figures, with intervals of 95 %.

        Args:
            other: whose settled agreement is subtracted from this one's, frame by frame, for a paired test.
        """
        found: dict[str, Any] = {
            "f1": ratio(self.f1),
            "settled": ratio(self.settled),
            "error": float(np.mean(self.errors)) if self.errors else None,
        }
        if other is not None:
            found["settled_over_int8"] = ratio(self.settled, other.settled)
        return found


def ratio(
    counts: Sequence[tuple[int, int]], minus: Sequence[tuple[int, int]] | None = None, block: int = BLOCK
) -> dict[str, float | None]:
    """A ratio of sums over frames with its interval of 95 %, by bootstrap over blocks of frames.

    The interval is None where there are fewer than five blocks.

    Args:
        counts: numerator and denominator of each frame; nothing to count is full agreement.
        minus: of another contender on the same frames; then it is the difference of both ratios.
        block: consecutive frames that are drawn together.
    """
    sums = _blocks(counts, block)
    others = None if minus is None else _blocks(minus, block)
    draws = np.random.default_rng(0).integers(0, len(sums), (RESAMPLES, len(sums)))
    value, drawn = _share(sums.sum(0)), _share(sums[draws].sum(1))
    if others is not None:
        value, drawn = value - _share(others.sum(0)), drawn - _share(others[draws].sum(1))
    if len(sums) < FEWEST:
        return {"value": float(value), "low": None, "high": None}
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _blocks(counts: Sequence[tuple[int, int]], block: int) -> Array:
    """Sums of blocks of frames, (blocks, 2)."""
    array = np.array(counts, dtype=np.int64).reshape(-1, 2)
    return np.add.reduceat(array, range(0, len(array), block))


def _share(sums: Array) -> Array:
    """Numerator over denominator of (..., 2); 1 where there is nothing."""
    top, bottom = sums[..., 0], sums[..., 1]
    return np.where(bottom > 0, top / np.maximum(bottom, 1), 1.0)
