"""How a video frame becomes a model's input, as a value that is saved with a streaming model.

A comparison between two machines means something only if both fed the model the same numbers, so the
resize is one named implementation and the decoder is recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import ArtifactError, VideoError

if TYPE_CHECKING:
    import torch

RESIZES = ("torch-bilinear-antialias",)


@dataclass(frozen=True)
class Preprocess:
    """Turns a uint8 RGB frame (H, W, 3) into a float32 input (1, 3, H, W).

    The steps, in order: swap to blue-first if `bgr`; resize; multiply by `scale`; subtract `mean` and divide
    by `std`, which are given in the model's channel order.

    Attributes:
        size: (H, W) in pixels to resize to; None keeps the frame's size. A frame that already has it is
            not resampled.
        scale: factor for the grey levels 0..255.
        mean: three values subtracted after scaling, or None.
        std: three values divided by, or None.
        bgr: the model expects blue first.
        resize: name of the resize; "torch-bilinear-antialias" is `torch.nn.functional.interpolate` with
            mode="bilinear", align_corners=False, antialias=True, on float32.
        decoder: the decoder of the clip it was chosen for, e.g. "pyav 18.1.0 / h264"; only a record.
    """

    size: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    resize: str = RESIZES[0]
    decoder: str = ""

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise ArtifactError(f"preprocessing: {problem}")

    def __call__(self, frame: NDArray[np.uint8]) -> torch.Tensor:
        """Preprocess one frame (H, W, 3), uint8 RGB, into (1, 3, H, W), float32, contiguous.

        Raises:
            VideoError: the frame is not uint8 or not (H, W, 3).
        """
        import torch

        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise VideoError(
                f"preprocessing: a frame is {frame.dtype} {tuple(frame.shape)}; expected uint8 (H, W, 3) RGB"
            )
        picture = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1] if self.bgr else frame))
        x = picture.permute(2, 0, 1)[None].to(torch.float32, memory_format=torch.contiguous_format)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = torch.nn.functional.interpolate(
                x, size=self.size, mode="bilinear", align_corners=False, antialias=True
            )
        x = x * self.scale
        if self.mean is not None:
            x = x - torch.tensor(self.mean).view(1, 3, 1, 1)
        if self.std is not None:
            x = x / torch.tensor(self.std).view(1, 3, 1, 1)
        return x

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values; `from_json` reads them back equal."""
        return {
            field.name: list(value) if isinstance(value := getattr(self, field.name), tuple) else value
            for field in fields(self)
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Preprocess:
        """Read what `to_json` gave, as a mapping or as JSON text.

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
        missing, unknown = sorted(names - set(data)), sorted(set(data) - names, key=str)
        if missing or unknown:
            found = [f"missing {', '.join(missing)}"] if missing else []
            found += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
            raise ArtifactError(f"preprocessing: keys {'; '.join(found)}; saved by another version?")
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)


def _problem(pre: Preprocess) -> str | None:
    """What makes these fields unusable, as a sentence; None if nothing does. They may come from a file."""
    size: Any = pre.size
    if size is not None and not (
        isinstance(size, tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)
    ):
        return f"size={size!r}; expected two positive whole numbers (H, W) or None"
    if not _number(pre.scale):
        return f"scale={pre.scale!r}; expected a finite number"
    triples: dict[str, Any] = {"mean": pre.mean, "std": pre.std}
    for name, values in triples.items():
        if values is None:
            continue
        if not (isinstance(values, tuple) and len(values) == 3 and all(map(_number, values))):
            return f"{name}={values!r}; expected three finite numbers or None"
    if pre.std is not None and min(pre.std) <= 0:
        return f"std={pre.std!r}; each must be above 0"
    bgr: Any = pre.bgr
    if not isinstance(bgr, bool):
        return f"bgr={bgr!r}; expected true or false"
    if pre.resize not in RESIZES:
        return f"resize={pre.resize!r} is not known here; known: {', '.join(RESIZES)}"
    decoder: Any = pre.decoder
    if not isinstance(decoder, str):
        return f"decoder={decoder!r}; expected text"
    return None


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
