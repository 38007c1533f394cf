"""What outputs say, as JSON: detections, classes of pixels, or numbers."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.utils._pytree as pytree
from numpy.typing import NDArray
from torch import Tensor

from videoeff.calibration.agreement import LabelMaps, Segmentation
from videoeff.calibration.choice import decoder_for
from videoeff.calibration.decoders import Decoder, Reading, array
from videoeff.errors import MetricError

if TYPE_CHECKING:
    from videoeff.fleet.camera import Output

#: Most numbers of an output that are written, and most tensors.
VALUES, TENSORS = 256, 16
#: Most detections of a frame; the best stay.
DETECTIONS = 1000
#: Most classes of a frame; the largest stay.
CLASSES = 256


class Reader:
    """Reads the outputs of one network. Safe to use from several threads.

    Args:
        word: how they are read, as ``videoeff run --decoder`` takes it; None recognises them.
        classes: names of the classes, from class 0 on.
    """

    def __init__(self, word: str | None = None, classes: Sequence[str] = ()) -> None:
        self._word, self._classes = word, tuple(classes)
        self._known: dict[tuple[int, int], Decoder | Segmentation | None] = {}
        self._lock = threading.Lock()

    def to_json(self, output: Output) -> dict[str, Any]:
        """An output as plain values.

        Boxes are left, top, right, bottom in pixels of the camera's frame, and shares are of that frame's
        area. Outputs that are not recognised are given as shapes, types and the first values.
        """
        height, width = output.picture.size
        found: dict[str, Any] = {
            "camera": output.camera,
            "number": output.number,
            "time": output.time,
            "wall": output.wall,
            "ms": output.ms,
            "waited_ms": output.waited_ms,
            "frame": {"height": height, "width": width},
        }
        note = ""
        try:
            decoder = self._decoder(output)
            if isinstance(decoder, Segmentation):
                return found | self._segmented(decoder.read(output.outputs), output)
            if decoder is not None:
                return found | self._detected(decoder.read(output.outputs), decoder.score, output)
        except MetricError as error:
            note = str(error)
        return found | numbers(output.outputs) | ({"note": note} if note else {})

    def text(self, output: Output) -> str:
        """The same as JSON text."""
        return json.dumps(plain(self.to_json(output)), allow_nan=False, separators=(",", ":"))

    def mask(self, output: Output) -> NDArray[np.int64] | None:
        """The class of each pixel of the camera's frame, (H, W); None where the outputs are no label map."""
        try:
            decoder = self._decoder(output)
            if not isinstance(decoder, Segmentation):
                return None
            labels = decoder.read(output.outputs).labels[0]
        except MetricError:
            return None
        rows, columns = _places(labels.shape, output)
        mask: NDArray[np.int64] = labels[rows[:, None], columns].astype(np.int64)
        return mask

    def _decoder(self, output: Output) -> Decoder | Segmentation | None:
        """What reads the outputs: the same for all frames once it was found."""
        size = _input_size(output)
        with self._lock:
            if size not in self._known:
                self._known[size] = decoder_for(output.outputs, size, self._word)
            return self._known[size]

    def _detected(self, reading: Reading, score: float, output: Output) -> dict[str, Any]:
        boxes = reading.found[0].above(score) if reading.found else None
        if boxes is None or not len(boxes):
            return {"kind": "detections", "detections": [], "score_above": score}
        best = np.argsort(-boxes.scores, kind="stable")
        boxes = boxes[best[:DETECTIONS]]
        places = output.preprocess.boxes_on_frame(boxes.boxes, output.picture.size)
        rows = zip(places.tolist(), boxes.scores.tolist(), boxes.labels.tolist(), strict=True)
        found = [
            {"box": [round(v, 2) for v in box], "score": score, "class": int(label)} | self._named(int(label))
            for box, score, label in rows
        ]
        cut = {"cut": len(best)} if len(best) > DETECTIONS else {}
        return {"kind": "detections", "detections": found, "score_above": score} | cut

    def _segmented(self, maps: LabelMaps, output: Output) -> dict[str, Any]:
        labels = maps.labels[0]
        rows, columns = _places(labels.shape, output)
        weights = np.bincount(rows, minlength=labels.shape[0])[:, None] * np.bincount(
            columns, minlength=labels.shape[1]
        )
        classes, codes = np.unique(labels, return_inverse=True)
        shares = np.bincount(codes.ravel(), weights.ravel()) / weights.sum()
        best = np.argsort(-shares, kind="stable")[:CLASSES]
        found = [
            {"class": int(classes[i]), "share": float(shares[i])} | self._named(int(classes[i]))
            for i in best
            if shares[i] > 0
        ]
        cut = {"cut": len(classes)} if len(classes) > CLASSES else {}
        return {"kind": "segmentation", "classes": found} | cut

    def _named(self, label: int) -> dict[str, str]:
        return {"name": self._classes[label]} if 0 <= label < len(self._classes) else {}


def _input_size(output: Output) -> tuple[int, int]:
    """(H, W) of the network's input."""
    return output.preprocess.size or output.picture.size


def _places(shape: tuple[int, ...], output: Output) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The row of a map for each row of the frame, and the column for each column."""
    frame, size = output.picture.size, _input_size(output)
    there = output.preprocess.place(frame)
    starts, sides = (there.top, there.left), (there.height, there.width)
    found = []
    for axis in (0, 1):
        middle = starts[axis] + (np.arange(frame[axis]) + 0.5) * sides[axis] / frame[axis]
        place = (middle * shape[axis] / size[axis]).astype(np.intp)
        found.append(place.clip(0, shape[axis] - 1))
    return found[0], found[1]


def numbers(outputs: Any) -> dict[str, Any]:
    """Shape, type and first values of every tensor, and how many there were where some are left out."""
    leaves = [(path, v) for path, v in pytree.tree_flatten_with_path(outputs)[0] if isinstance(v, Tensor)]
    found = []
    for path, tensor in leaves[:TENSORS]:
        values = array(tensor).reshape(-1)
        one: dict[str, Any] = {
            "name": pytree.keystr(path),
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "values": values[:VALUES].tolist(),
        }
        found.append(one | ({"cut": int(values.size)} if values.size > VALUES else {}))
    return {"kind": "values", "tensors": found} | ({"cut": len(leaves)} if len(leaves) > TENSORS else {})


def plain(value: Any) -> Any:
    """A value that JSON has: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


