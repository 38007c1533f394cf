"""How a video frame becomes a model's input, as a value that is saved with a streaming model.

A comparison between two machines means something only if both fed the model the same numbers, so the
resize is one named implementation and the decoder is recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import ArtifactError, VideoError
from videoeff.video.fit import FITS, Place, place

if TYPE_CHECKING:
    import torch

RESIZES = ("torch-bilinear-antialias", "torch-bilinear-antialias-uint8")
CHANNELS = (1, 3, 4)
DTYPES = ("float32", "uint8")

#: Fields that version 0.1.0 did not know; where a record lacks them, it means what their defaults say.
_LATER = {"fit", "pad", "channels", "dtype"}

#: The range of the values a model gets that is taken for a mistake, if it is smaller or larger.
_NARROW, _WIDE = 0.05, 512.0

Boxes = TypeVar("Boxes", "torch.Tensor", NDArray[Any])


@dataclass(frozen=True)
class Preprocess:
    """Turns a uint8 RGB frame (H, W, 3) into an input (1, C, H, W).

    The steps, in order: make it grey, or add the opacity, for a model of one or four channels; swap to
    blue-first if `bgr`; resize, and pad a letterbox; multiply by `scale`; subtract `mean` and divide by
    `std`, which are given in the model's channel order.

    Attributes:
        size: (H, W) in pixels to resize to; None keeps the frame's size. A frame that already has it is
            not resampled.
        scale: factor for the grey levels 0..255.
        mean: a value for each channel, subtracted after scaling, or None.
        std: a value for each channel, divided by, or None.
        bgr: the model expects blue first.
        resize: name of the resize; "torch-bilinear-antialias" is `torch.nn.functional.interpolate` with
            mode="bilinear", align_corners=False, antialias=True, on float32; with "-uint8" on uint8, which
            rounds to whole grey levels as image libraries do, and takes a third to a fifth of the time.
        decoder: the decoder of the clip it was chosen for, e.g. "pyav 18.1.0 / h264"; only a record.
        fit: what happens to a frame of other proportions than `size`: "stretch" fills the input with it;
            "letterbox" keeps its proportions and pads both sides, as YOLOv5 and its successors do;
            "letterbox-top-left" pads below and to the right, as YOLOX does.
        pad: grey level 0..255 of the padding, before scaling. The padding is opaque.
        channels: of the model: 3; 1 for grey, weighted as ITU-R 601 says and as Pillow's "L" is; 4 for
            colours and opacity, 255 where the frame has none.
        dtype: "float32"; or "uint8" for a model that takes whole grey levels, with `scale` 1.
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    resize: str = RESIZES[0]
    decoder: str = ""
    fit: str = FITS[0]
    pad: int = 114
    channels: int = 3
    dtype: str = DTYPES[0]

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ArtifactError(f"preprocessing: {problem}")

    def __call__(self, frame: NDArray[np.uint8]) -> torch.Tensor:
        """Preprocess one frame (H, W, 3) or, with opacity, (H, W, 4), uint8, into (1, C, H, W), contiguous.

        Raises:
            VideoError: the frame is not uint8 or has another shape.
        """
        import torch

        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] not in (3, 4) or 0 in frame.shape:
            raise VideoError(
                f"preprocessing: a frame is {frame.dtype} {tuple(frame.shape)}; expected uint8 (H, W, 3) RGB"
            )
        picture = torch.from_numpy(np.ascontiguousarray(self._channels(frame)))
        x = picture.permute(2, 0, 1)[None]
        if self.resize == RESIZES[0]:
            x = x.to(torch.float32, memory_format=torch.contiguous_format)
        x = self._sized(x)
        if self.bgr:  # behind the resize, which makes less of it
            colours, x = x, torch.empty(x.shape)
            for to, channel in enumerate((2, 1, 0, 3)[: self.channels]):  # half the time of an index
                x[:, to] = colours[:, channel]
        x = x.to(torch.float32, memory_format=torch.contiguous_format)
        if self.dtype == "uint8":
            return x.round().clamp(0, 255).to(torch.uint8)
        if self.scale != 1:
            x = x * self.scale
        if self.mean is not None:
            x = x - torch.tensor(self.mean).view(1, -1, 1, 1)
        if self.std is not None:
            x = x / torch.tensor(self.std).view(1, -1, 1, 1)
        return x

    def _channels(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame (H, W, C) with the model's channels, red first."""
        if self.channels == 1:
            red, green, blue = (frame[..., i].astype(np.uint32) for i in range(3))
            grey = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
            return grey.astype(np.uint8)[..., None]
        colours = frame[..., :3]
        if self.channels == 3:
            return colours
        opacity = frame[..., 3:] if frame.shape[2] == 4 else np.full_like(frame[..., :1], 255)
        return np.concatenate([colours, opacity], axis=2)

    def _sized(self, x: torch.Tensor) -> torch.Tensor:
        """(1, C, h, w) in grey levels resized, and padded where it is a letterbox."""
        import torch

        there = self.place((x.shape[2], x.shape[3]))
        if tuple(x.shape[2:]) != (there.height, there.width):
            x = torch.nn.functional.interpolate(
                x,
                size=(there.height, there.width),
                mode="bilinear",
                align_corners=False,
                antialias=True,
            )
        if self.size is None or tuple(x.shape[2:]) == self.size:
            return x
        padded = x.new_full((1, self.channels, *self.size), self.pad)
        padded[:, 3:] = 255
        rows, columns = (
            slice(there.top, there.top + there.height),
            slice(there.left, there.left + there.width),
        )
        padded[:, :, rows, columns] = x
        return padded

    def place(self, frame_size: tuple[int, int]) -> Place:
        """Where a frame of (H, W) pixels lies in the input; the rest is padding."""
        return place(frame_size, self.size, self.fit)

    def boxes_on_frame(self, boxes: Boxes, frame_size: tuple[int, int]) -> Boxes:
        """Boxes in pixels of the input as boxes in pixels of the frame, cut off at its borders.

        Args:
            boxes: (..., 4) as left, top, right, bottom.
            frame_size: (H, W) of the frame in pixels.

        Raises:
            VideoError: the last dimension is not 4.
        """
        import torch

        if boxes.ndim < 1 or boxes.shape[-1] != 4:
            raise VideoError(
                f"boxes of shape {tuple(boxes.shape)}; expected (..., 4): left, top, right, bottom"
            )
        found = boxes if isinstance(boxes, torch.Tensor) else torch.from_numpy(boxes)
        found = found if found.is_floating_point() else found.to(torch.float32)
        there, (height, width) = self.place(frame_size), frame_size
        offset = found.new_tensor([there.left, there.top] * 2)
        factor = found.new_tensor([width / there.width, height / there.height] * 2)
        moved = ((found - offset) * factor).clamp(min=0).minimum(found.new_tensor([width, height] * 2))
        return moved if isinstance(boxes, torch.Tensor) else moved.numpy()

    def doubts(self) -> tuple[str, ...]:
        """What looks like a mistake in these values, a sentence each; none for the usual ways."""
        if self.dtype == "uint8":
            return ()
        low, high = sorted((0.0, 255.0 * self.scale))
        found = []
        if self.mean is not None and not all(low <= m <= high for m in self.mean):
            found.append(
                f"mean={_row(self.mean)} lies outside the scaled grey levels, {low:g} to {high:g}; means in "
                "grey levels belong to scale 1, means in 0..1 to scale 1/255"
            )
        spans = [(high - low) / s for s in self.std or (1.0,)]
        if min(spans) < _NARROW or max(spans) > _WIDE:
            given = f" and std={_row(self.std)}" if self.std is not None else ""
            span = min(spans) if min(spans) < _NARROW else max(spans)
            found.append(
                f"with scale={self.scale:g}{given} the values from black to white span {span:.4g}; networks "
                "are trained on spans of about 1 to 255"
            )
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `from_json` reads them back equal."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Preprocess:
        """Read what `to_json` gave, as a mapping or as JSON text, also that of version 0.1.0.

        Raises:
            ArtifactError: it is not a JSON object, a key is missing or unknown, or a value cannot be used.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except json.JSONDecodeError as error:
                raise ArtifactError(f"preprocessing: not JSON ({error}); write it with to_json") from error
        if not isinstance(data, Mapping):
            raise ArtifactError(f"preprocessing: expected a JSON object, found {type(data).__name__}")
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - _LATER - set(data)), sorted(set(data) - names, key=str)
        if missing or unknown:
            found = [f"missing {', '.join(missing)}"] if missing else []
            found += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
            raise ArtifactError(f"preprocessing: keys {'; '.join(found)}; saved by another version?")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)


def _row(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values) + ")"


def _problem(pre: Preprocess) -> str | None:
    """What makes these fields unusable, as a sentence; None if nothing does. They may come from a file."""
    size: Any = pre.size
    if size is not None and not (
        isinstance(size, tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    ):
        return f"size={size!r}; expected two positive whole numbers (H, W) or None"
    if not _number(pre.scale) or pre.scale == 0:
        return f"scale={pre.scale!r}; expected a finite number other than 0"
    return _problem_of_channels(pre) or _problem_of_words(pre)


def _problem_of_channels(pre: Preprocess) -> str | None:
    if type(pre.channels) is not int or pre.channels not in CHANNELS:
        return f"channels={pre.channels!r}; expected 1, 3 or 4"
    rows: dict[str, Any] = {"mean": pre.mean, "std": pre.std}
    for name, values in rows.items():
        if values is None:
            continue
        if not (isinstance(values, tuple) and len(values) == pre.channels and all(map(_number, values))):
            count = {1: "one finite number", 3: "three finite numbers", 4: "four finite numbers"}[
                pre.channels
            ]
            return f"{name}={values!r}; expected {count}, for each channel of the model, or None"
    if pre.std is not None and min(pre.std) <= 0:
        return f"std={pre.std!r}; each must be above 0"
    bgr: Any = pre.bgr
    if not isinstance(bgr, bool):
        return f"bgr={bgr!r}; expected true or false"
    if bgr and pre.channels == 1:
        return "bgr=True with channels=1; a grey picture has no order of colours, so leave bgr out"
    return None


def _problem_of_words(pre: Preprocess) -> str | None:
    words: dict[str, tuple[Any, tuple[str, ...]]] = {
        "resize": (pre.resize, RESIZES),
        "fit": (pre.fit, FITS),
        "dtype": (pre.dtype, DTYPES),
    }
    for name, (value, known) in words.items():
        if value not in known:
            return f"{name}={value!r} is not known here; known: {', '.join(known)}"
    if pre.dtype == "uint8" and (pre.scale != 1 or pre.mean is not None or pre.std is not None):
        return "dtype='uint8' takes the grey levels as they are; give scale=1 and neither mean nor std"
    if type(pre.pad) is not int or not 0 <= pre.pad <= 255:
        return f"pad={pre.pad!r}; expected a whole grey level, 0 to 255"
    decoder: Any = pre.decoder
    if not isinstance(decoder, str):
        return f"decoder={decoder!r}; expected text"
    return None


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
