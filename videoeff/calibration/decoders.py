"""From a network's raw outputs to detections: what a decoder is, and those that are ready."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.calibration.boxes import Array, Boxes, from_centres
from videoeff.errors import MetricError

#: Strides of the cells that YOLO heads put out, one after another.
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Cells:
    """The raw values of one entry of the batch.

    Attributes:
        values: (cells, channels).
        scores: (cells,), of the best class.
    """

    values: Array
    scores: Array


@dataclass(frozen=True)
class Reading:
    """Outputs as a decoder read them.

    Attributes:
        found: the detections above the decoder's lowest score, of each entry of the batch.
        cells: the raw values of each entry; empty for outputs that are detections already.
    """

    found: tuple[Boxes, ...]
    cells: tuple[Cells, ...] = ()


class Decoder(abc.ABC):
    """Reads detections out of a network's outputs.

    Attributes:
        word: its name on the command line.
        score: a detection scores more than this.
        high: a settled one more than this,
        low: and is found again above this.
    """

    word: ClassVar[str]
    score: float
    high: float
    low: float

    def read(self, outputs: Any) -> Reading:
        """The detections in outputs; what was read already stays as it is.

        Raises:
            MetricError: the outputs are not of this decoder's form.
        """
        return outputs if isinstance(outputs, Reading) else self._read(outputs)

    @abc.abstractmethod
    def _read(self, outputs: Any) -> Reading:
        """The detections in raw outputs."""

    def _refuse(self, outputs: Any, expected: str) -> MetricError:
        return MetricError(
            f"the decoder {self.word} expects {expected}; the network returned {described(outputs)}. Choose "
            "another decoder, or none"
        )


class CellDecoder(Decoder):
    """Reads outputs that hold a row of values for each cell of a grid.

    Attributes:
        overlap: non-maximum suppression within a class; of two boxes that overlap by more the better stays.
    """

    overlap: float

    def _read(self, outputs: Any) -> Reading:
        cells = tuple(self.cells(outputs))
        return Reading(tuple(self._boxes(one) for one in cells), cells)

    def _boxes(self, cells: Cells) -> Boxes:
        places = np.nonzero(cells.scores > self.low)[0]
        found = cells.values[places].astype(np.float64)
        boxes = Boxes(
            self.corners(found, places), cells.scores[places].astype(np.float64), self.labels(found)
        )
        return boxes.suppressed(self.overlap)

    @abc.abstractmethod
    def cells(self, outputs: Any) -> Sequence[Cells]:
        """All cells of each entry of the batch."""

    @abc.abstractmethod
    def corners(self, values: Array, places: Array) -> Array:
        """Boxes (N, 4) of some cells (N, channels), given their numbers (N,)."""

    def labels(self, values: Array) -> Array:
        """The best classes (N,) of some cells (N, channels)."""
        best: Array = values[:, 5:].argmax(1)
        return best


@dataclass(frozen=True)
class FastestDet(CellDecoder):
    """One map (B, 5 + classes, H/16, W/16): objectness, four values of the box, a probability a class.

    score = objectness^0.6 · class^0.4; centre = (tanh of the offset + cell) · 16, size = sigmoid · frame.
    """

    word: ClassVar[str] = "fastestdet"
    score: float = 0.4
    high: float = 0.5
    low: float = 0.35
    overlap: float = 0.45
    size: tuple[int, int] = (0, 0)

    def cells(self, outputs: Any) -> Sequence[Cells]:
        """Row by row."""
        output = only_tensor(outputs)
        height, width = (side // 16 for side in self.size)
        if output is None or output.ndim != 4 or output.shape[1] < 6 or output.shape[2:] != (height, width):
            raise self._refuse(outputs, f"one tensor (B, 5 + classes, {height}, {width})")
        values = array(output).reshape(*output.shape[:2], -1).transpose(0, 2, 1)
        return [Cells(v, np.maximum(v[:, 0], 0) ** 0.6 * v[:, 5:].max(1) ** 0.4) for v in values]

    def corners(self, values: Array, places: Array) -> Array:
        """A cell has 16×16 pixels, and a box is at most as large as the frame."""
        height, width = self.size
        row, column = np.divmod(places, width // 16)
        centres = (np.tanh(values[:, 1:3]) + np.stack([column, row], 1)) * 16
        return from_centres(centres, np.array([width, height]) / (1 + np.exp(-values[:, 3:5])))


@dataclass(frozen=True)
class Yolox(CellDecoder):
    """YOLOX: cells of strides 8, 16 and 32 one after another, (B, N, 5 + classes).

    score = objectness · class. Raw values: centre = (offset + cell) · stride, size = exp · stride. A head
    that decodes by itself gives both in pixels.

    Attributes:
        size: (H, W) of the network's input.
        raw: whether the boxes are raw values.
    """

    word: ClassVar[str] = "yolox"
    score: float = 0.3
    high: float = 0.4
    low: float = 0.25
    overlap: float = 0.5
    size: tuple[int, int] = (0, 0)
    raw: bool = True

    def cells(self, outputs: Any) -> Sequence[Cells]:
        """As the network gives them."""
        output, count = only_tensor(outputs), len(grid(self.size, STRIDES))
        if output is None or output.ndim != 3 or output.shape[1] != count or output.shape[2] < 6:
            raise self._refuse(outputs, f"one tensor (B, {count}, 5 + classes) for {_size(self.size)} pixels")
        return [Cells(v, v[:, 4] * v[:, 5:].max(1)) for v in array(output)]

    def corners(self, values: Array, places: Array) -> Array:
        """In pixels."""
        if not self.raw:
            return from_centres(values[:, 0:2], values[:, 2:4])
        cells = grid(self.size, STRIDES)[places]
        stride = cells[:, 2:]
        return from_centres((values[:, 0:2] + cells[:, :2]) * stride, np.exp(values[:, 2:4]) * stride)


@dataclass(frozen=True)
class Ultralytics(CellDecoder):
    """Ultralytics' heads before selection: (B, 4 + classes + more, N), boxes as centre and size in pixels.

    Segmentation and pose heads carry mask coefficients or keypoints behind the classes; they are not judged.
    Of several outputs the first counts.

    Attributes:
        classes: how many channels are classes.
    """

    word: ClassVar[str] = "ultralytics"
    score: float = 0.25
    high: float = 0.4
    low: float = 0.2
    overlap: float = 0.7
    classes: int = 80

    def cells(self, outputs: Any) -> Sequence[Cells]:
        """A row a cell."""
        output, behind = first_tensor(outputs), 4 + self.classes
        if output is None or output.ndim != 3 or output.shape[1] < behind:
            raise self._refuse(outputs, f"a first tensor (B, {behind} or more, N)")
        values = array(output).transpose(0, 2, 1)
        return [Cells(v, v[:, 4:behind].max(1)) for v in values]

    def corners(self, values: Array, places: Array) -> Array:
        """In pixels."""
        return from_centres(values[:, 0:2], values[:, 2:4])

    def labels(self, values: Array) -> Array:
        """The best classes."""
        best: Array = values[:, 4 : 4 + self.classes].argmax(1)
        return best


@dataclass(frozen=True)
class UltralyticsSelected(Decoder):
    """Ultralytics' end-to-end heads (YOLOv10, YOLO26): (B, N, 6 or more), selected without suppression.

    A row is left, top, right, bottom, score and class; masks' coefficients or keypoints behind them are not
    judged. Of several outputs the first counts.
    """

    word: ClassVar[str] = "ultralytics"
    score: float = 0.25
    high: float = 0.4
    low: float = 0.2

    def _read(self, outputs: Any) -> Reading:
        output = first_tensor(outputs)
        if output is None or output.ndim != 3 or output.shape[2] < 6:
            raise self._refuse(outputs, "a first tensor (B, N, 6 or more)")
        rows = array(output).astype(np.float64)
        found = (Boxes(r[:, :4], r[:, 4], r[:, 5].round().astype(np.int64)) for r in rows)
        return Reading(tuple(boxes.above(self.low) for boxes in found))


@dataclass(frozen=True)
class Torchvision(Decoder):
    """Torchvision's detections: of each picture a dictionary of boxes (N, 4), scores (N,), labels (N,)."""

    word: ClassVar[str] = "torchvision"
    score: float = 0.5
    high: float = 0.6
    low: float = 0.4

    def _read(self, outputs: Any) -> Reading:
        if not is_detections(outputs):
            raise self._refuse(outputs, "a list of dictionaries with boxes, scores and labels")
        found = []
        for one in outputs:
            boxes, scores = (array(one[key]).astype(np.float64) for key in ("boxes", "scores"))
            labels = array(one["labels"]).astype(np.int64)
            found.append(Boxes(boxes.reshape(-1, 4), scores, labels).above(self.low))
        return Reading(tuple(found))


def grid(size: tuple[int, int], strides: Sequence[int]) -> Array:
    """Column, row and stride of each cell, (cells, 3), of an input of ``size`` pixels (height, width)."""
    found = []
    for stride in strides:
        height, width = size[0] // stride, size[1] // stride
        row, column = np.divmod(np.arange(height * width), max(width, 1))
        found.append(np.stack([column, row, np.full_like(row, stride)], 1))
    return np.concatenate(found)


def is_detections(outputs: Any) -> bool:
    """Whether outputs are a list of dictionaries with boxes, scores and labels."""
    return (
        isinstance(outputs, (list, tuple))
        and bool(outputs)
        and all(isinstance(one, Mapping) and {"boxes", "scores", "labels"} <= set(one) for one in outputs)
    )


def first_tensor(outputs: Any) -> Tensor | None:
    """The first tensor among outputs, None where there is none."""
    return next((v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)), None)


def only_tensor(outputs: Any) -> Tensor | None:
    """The tensor among outputs, None where there is none or more than one."""
    found = [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]
    return found[0] if len(found) == 1 else None


def array(tensor: Tensor) -> Array:
    """The values as an array; half precision as float32."""
    kept = tensor.detach().cpu()
    return (kept.float() if kept.is_floating_point() and kept.itemsize < 4 else kept).numpy()


def described(outputs: Any) -> str:
    """The forms of all tensors of outputs, for messages."""
    shapes = [list(v.shape) for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    return f"{type(outputs).__name__} of " + (", ".join(map(str, shapes[:4])) + more or "no tensor")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
