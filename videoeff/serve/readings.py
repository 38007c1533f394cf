"""An output of a camera as JSON, and its label map as a picture."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videoeff.calibration.agreement import Segmentation
from videoeff.calibration.choice import decoder_for
from videoeff.errors import FleetError, MetricError, first_line
from videoeff.fleet.decoded import OutputReader, numbers

if TYPE_CHECKING:
    from videoeff.fleet.output import Output


class Reader:
    """Reads the outputs of one camera. Safe to use from several threads.

    Args:
        word: how they are read, as ``videoeff run --decoder`` takes it; None recognises them.
        classes: names of the classes, from class 0 on.
    """

    def __init__(self, word: str | None = None, classes: Sequence[str] = ()) -> None:
        self._word, self._classes = word, tuple(classes)
        self._read = OutputReader(word)
        self._lock = threading.Lock()

    def to_json(self, output: Output) -> dict[str, Any]:
        """An output as plain values: times, the frame's size, and what :mod:`videoeff.fleet.decoded` reads.

        Outputs that cannot be read as they should be are given as numbers, with a note that says why.
        """
        height, width = output.picture.size
        found: dict[str, Any] = {
            "camera": output.camera,
            "number": output.number,
            "time": output.time,
            "wall": output.wall,
            "ms": round(output.ms, 3),
            "waited_ms": round(output.waited_ms, 3),
            "frame": {"height": height, "width": width},
        }
        try:
            with self._lock:
                found |= self._read(output)
        except FleetError as error:
            return found | {"kind": "values", "outputs": numbers(output.outputs), "note": first_line(error)}
        if found["kind"] == "detections" and self._classes:
            found["names"] = [self._name(label) for label in found["classes"]]
        elif found["kind"] == "segmentation" and self._classes:
            found["classes"] = [row | {"name": self._name(row["class"])} for row in found["classes"]]
        return found

    def text(self, output: Output) -> str:
        """The same as JSON text."""
        return json.dumps(plain(self.to_json(output)), allow_nan=False, separators=(",", ":"))

    def mask(self, output: Output) -> NDArray[np.int64] | None:
        """The class of each pixel of the camera's frame, (H, W); None where the outputs are no label map."""
        size = output.preprocess.size or output.picture.size
        try:
            decoder = decoder_for(output.outputs, size, self._word)
            if not isinstance(decoder, Segmentation):
                return None
            labels = decoder.read(output.outputs).labels[0]
        except MetricError:
            return None
        rows, columns = _places(labels.shape, output, size)
        mask: NDArray[np.int64] = labels[rows[:, None], columns].astype(np.int64)
        return mask

    def _name(self, label: int) -> str | None:
        return self._classes[label] if 0 <= label < len(self._classes) else None


def _places(
    shape: tuple[int, ...], output: Output, size: tuple[int, int]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The row of a map for each row of the frame, and the column for each column."""
    frame = output.picture.size
    there = output.preprocess.place(frame)
    starts, sides = (there.top, there.left), (there.height, there.width)
    found = []
    for axis in (0, 1):
        middle = starts[axis] + (np.arange(frame[axis]) + 0.5) * sides[axis] / frame[axis]
        place = (middle * shape[axis] / size[axis]).astype(np.intp)
        found.append(place.clip(0, shape[axis] - 1))
    return found[0], found[1]


def plain(value: Any) -> Any:
    """A value that JSON has: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
