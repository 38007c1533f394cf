"""Detections of a frame, and which of two frames' detections are the same objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms, box_iou

Array = NDArray[Any]

#: Two boxes of one class that overlap by more are one object.
SAME = 0.5


@dataclass(frozen=True)
class Boxes:
    """Detections of one frame.

    Attributes:
        boxes: (N, 4), left, top, right, bottom in pixels of the network's input.
        scores: (N,).
        labels: (N,), whole numbers.
    """

    boxes: Array
    scores: Array
    labels: Array

    def above(self, score: float) -> Boxes:
        """Those that score more."""
        return self[self.scores > score]

    def suppressed(self, overlap: float) -> Boxes:
        """Those that non-maximum suppression within each class leaves, the best first.

        Args:
            overlap: of two boxes of a class that overlap by more (intersection over union), the better stays.
        """
        values = (self.boxes, self.scores, self.labels)
        return self[batched_nms(*(torch.from_numpy(v) for v in values), overlap).numpy()]

    def __getitem__(self, which: Array) -> Boxes:
        return Boxes(self.boxes[which], self.scores[which], self.labels[which])

    def __len__(self) -> int:
        return len(self.scores)


def from_centres(centres: Array, sizes: Array) -> Array:
    """Corners (N, 4) of boxes given by centre (N, 2) and size (N, 2)."""
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)


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
