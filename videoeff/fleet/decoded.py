"""What an output of a camera says, as plain JSON values: detections, shares of classes, or numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.utils._pytree as pytree

from videoeff.calibration.agreement import LabelMaps, Segmentation
from videoeff.calibration.choice import decoder_for
from videoeff.calibration.decoders import Decoder, Reading
from videoeff.errors import FleetError, MetricError

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess

#: Of an output that is given as numbers, at most so many values are given.
MOST_VALUES = 1024


class Sized(Protocol):
    """A picture, as far as it matters here."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""


class Shown(Protocol):
    """An output of a camera, as far as it matters here; the fleet's ``Output`` is one."""

    @property
    def camera(self) -> str:
        """The camera's name."""

    @property
    def picture(self) -> Sized:
        """The frame."""

    @property
    def outputs(self) -> Any:
        """What the network returned for it."""

    @property
    def preprocess(self) -> Preprocess:
        """How the frame became the network's input."""


def decoded(output: Shown, word: str | None = None) -> dict[str, Any]:
    """What one output says. For many outputs of one camera, :class:`OutputReader` is cheaper.

    Args:
        output: of a camera.
        word: how the network's outputs are read, as in ``videoeff run --decoder``; None recognises them.

    Returns:
        Values that ``json.dumps`` takes. Of a detector ``{"kind": "detections", "boxes": [[left, top, right,
        bottom], ...], "scores": [...], "classes": [...]}``, the best first, boxes in pixels of the camera's
        frame, classes by number. Of label maps ``{"kind": "segmentation", "classes": [{"class": 3, "share":
        0.25}, ...]}``, the largest share of the frame first, padding left out. Else ``{"kind": "values",
        "outputs": [{"name", "shape", "dtype", "values", "cut"}, ...]}``: the first :data:`MOST_VALUES` values
        in row-major order, ``cut`` where there are more; NaN and infinity are None.

    Raises:
        FleetError: the word is unknown or does not fit the outputs, or they are of several frames.
    """
    return OutputReader(word)(output)


class OutputReader:
    """Reads the outputs of one camera, one after another. How is recognised once and kept.

    Not for two threads at once.

    Args:
        word: as in :func:`decoded`.
    """

    def __init__(self, word: str | None = None) -> None:
        self._word = word
        self._size: tuple[int, int] | None = None
        self._decoder: Decoder | Segmentation | None = None

    def __call__(self, output: Shown) -> dict[str, Any]:
        """What an output says; as :func:`decoded`."""
        size = output.preprocess.size or output.picture.size
        try:
            if self._decoder is None or size != self._size:
                self._decoder, self._size = decoder_for(output.outputs, size, self._word), size
            if self._decoder is None:
                return {"kind": "values", "outputs": numbers(output.outputs)}
            found = self._decoder.read(output.outputs)
        except MetricError as error:
            raise FleetError(f"camera {output.camera}: {error}") from error
        if isinstance(found, LabelMaps):
            return _shares(found, output, size)
        assert isinstance(self._decoder, Decoder)
        return _detections(found, self._decoder.score, output)


def _only(entries: int, output: Shown) -> None:
    if entries != 1:
        raise FleetError(
            f"camera {output.camera}: the network's outputs are of {entries} pictures; a camera gives one at "
            "a time, so convert the network with an example of batch 1"
        )


def _detections(found: Reading, score: float, output: Shown) -> dict[str, Any]:
    _only(len(found.found), output)
    boxes = found.found[0].above(score)
    boxes = boxes[np.argsort(-boxes.scores, kind="stable")]
    placed = output.preprocess.boxes_on_frame(boxes.boxes, output.picture.size)
    return {
        "kind": "detections",
        "boxes": [[_finite(side) for side in box] for box in np.round(placed, 2).tolist()],
        "scores": np.round(boxes.scores, 4).tolist(),
        "classes": boxes.labels.tolist(),
    }


def _shares(found: LabelMaps, output: Shown, size: tuple[int, int]) -> dict[str, Any]:
    _only(len(found.labels), output)
    labels = found.labels[0]
    there = output.preprocess.place(output.picture.size)
    down, right = labels.shape[0] / size[0], labels.shape[1] / size[1]  # the map may be coarser
    top, left = round(there.top * down), round(there.left * right)
    bottom = max(round((there.top + there.height) * down), top + 1)
    end = max(round((there.left + there.width) * right), left + 1)
    classes, counts = np.unique(labels[top:bottom, left:end], return_counts=True)
    total = max(int(counts.sum()), 1)
    rows = sorted(zip(counts.tolist(), classes.tolist(), strict=True), key=lambda row: (-row[0], row[1]))
    return {
        "kind": "segmentation",
        "classes": [{"class": label, "share": round(count / total, 6)} for count, label in rows],
    }


def numbers(outputs: Any) -> list[dict[str, Any]]:
    """All tensors and numbers of a network's outputs, each cut to :data:`MOST_VALUES` values.

    ``name`` says where one stands among the outputs: ``['map']``, ``[0]``, or nothing for the only one.
    Values that JSON has no form for (complex and quantised ones) are left out, with ``cut`` true.
    """
    return [
        {"name": pytree.keystr(path), **_row(leaf)}
        for path, leaf in pytree.tree_leaves_with_path(outputs)
        if leaf is not None
    ]


def _row(leaf: Any) -> dict[str, Any]:
    if not isinstance(leaf, torch.Tensor):
        known = isinstance(leaf, bool | int | float | str)
        values = [_finite(leaf)] if known else []
        return {"shape": [], "dtype": type(leaf).__name__, "values": values, "cut": not known}
    no_form = leaf.dtype.is_complex or leaf.is_quantized
    first = [] if no_form else leaf.detach().reshape(-1)[:MOST_VALUES].tolist()
    return {
        "shape": list(leaf.shape),
        "dtype": str(leaf.dtype).removeprefix("torch."),
        "values": [_finite(value) for value in first],
        "cut": len(first) < leaf.numel(),
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
