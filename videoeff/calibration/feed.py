"""From clips to calls: frames become the arguments a stream was converted with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoeff.errors import ArtifactError, VideoError
from videoeff.video.preprocess import Preprocess

if TYPE_CHECKING:
    from videoeff.runtime.signature import Signature
    from videoeff.runtime.streaming_module import StreamingModule


#: Channels a picture can be given as: grey, colours, colours and opacity.
CHANNELS = (1, 3, 4)


@dataclass
class Feed:
    """Makes the call of one frame; every stream of the batch sees the same picture.

    Attributes:
        preprocess: from a frame (H, W, 3) uint8 to (1, C, h, w).
        signature: the call the stream was made for.
        device: where the stream lives.
    """

    preprocess: Preprocess
    signature: Signature
    device: torch.device
    _told_apart: bool = False  # a picture gave different values once

    def __call__(self, frame: NDArray[np.uint8]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of one frame (H, W, 3), or (H, W, 4) where :attr:`alpha` asks for it.

        Raises:
            VideoError: the frame has another size than the stream, or all of it becomes one value.
        """
        picture = self.preprocess(frame)
        specs = self.signature.frame_specs
        values = [self._shaped(picture, shape, dtype) for shape, dtype in specs]
        if not self._told_apart and frame.min() != frame.max():
            self._check_told_apart(values)
        return self.signature.call(values)

    def _check_told_apart(self, values: list[Tensor]) -> None:
        for value in values:
            one = value.reshape(-1)[0]
            if bool((value == one).all()):
                raise VideoError(
                    f"every value of a frame becomes {one.item():g}, though the frame shows more than one "
                    f"grey level: the model takes {str(value.dtype)[6:]}, and the preprocessing is "
                    f"{self.preprocess}; convert it anew with the --scale, --mean and --std that the model "
                    "was trained with"
                )
        self._told_apart = True

    @property
    def alpha(self) -> bool:
        """Frames are to have their opacity as a fourth channel."""
        return self.preprocess.channels == 4

    def check(self, picture: Tensor, shape: tuple[int, ...]) -> None:
        """Whether a preprocessed picture (1, C, h, w) has the size of an argument of this shape.

        Raises:
            VideoError: it has another size.
        """
        if tuple(picture.shape[2:]) != shape[-2:]:
            raise VideoError(
                f"the frame is {picture.shape[2]}x{picture.shape[3]} after preprocessing, the stream was "
                f"planned for {shape[-2]}x{shape[-1]}; convert with --input-size {picture.shape[2]} "
                f"{picture.shape[3]}"
            )

    def _shaped(self, picture: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        self.check(picture, shape)
        value = picture[0] if len(shape) == 3 else picture.expand(shape[0], -1, -1, -1).contiguous()
        return value.to(self.device, dtype)


def feed_of(stream: StreamingModule, where: str) -> Feed:
    """How frames are fed to a stream: its recorded preprocessing, else a resize and a factor of 1/255.

    Raises:
        ArtifactError: the stream takes something else than pictures, or its preprocessing cannot be read.
    """
    signature = stream.body.signature
    specs = signature.frame_specs
    for shape, _ in specs:
        if len(shape) not in (3, 4) or shape[-3] not in CHANNELS or shape[-3] != specs[0].shape[-3]:
            raise ArtifactError(
                f"{where}: takes a tensor {list(shape)}; this command feeds pictures of 1, 3 or 4 channels, "
                "so run it in Python: stream(frame)"
            )
    if not specs:
        raise ArtifactError(f"{where}: takes no tensor; there is nothing to feed a frame to")
    return Feed(_preprocess_of(stream, where), signature, stream.device)


def _preprocess_of(stream: StreamingModule, where: str) -> Preprocess:
    """The recorded preprocessing, seen to go with what the stream takes."""
    shape, dtype = stream.body.signature.frame_specs[0]
    channels, whole = shape[-3], not dtype.is_floating_point
    recorded = stream.extra.get("preprocess")
    if recorded is None:
        scale, kind = (1.0, "uint8") if whole else (1 / 255, "float32")
        return Preprocess(size=(shape[-2], shape[-1]), scale=scale, channels=channels, dtype=kind)
    found = Preprocess.from_json(recorded)
    if found.channels != channels:
        raise ArtifactError(
            f"{where}: takes {channels} channels, and its preprocessing makes {found.channels}; convert it "
            f"anew with --channels {channels}"
        )
    if whole and found.dtype != "uint8":
        if (found.scale, found.mean, found.std) != (1, None, None):
            raise ArtifactError(
                f"{where}: takes whole numbers ({str(dtype)[6:]}), and its preprocessing makes fractions, "
                f"which would all become 0 or 1: {found}; convert it anew, without --scale"
            )
        found = replace(found, dtype="uint8")
    return found
