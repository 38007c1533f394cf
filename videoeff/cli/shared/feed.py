"""From clips to calls: frames become the arguments a stream was converted with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Feed:
    """Makes the call of one frame; every stream of the batch sees the same picture.

    Attributes:
        preprocess: from a frame (H, W, 3) uint8 to (1, 3, h, w).
        signature: the call the stream was made for.
        device: where the stream lives.
    """

    preprocess: Preprocess
    signature: Signature
    device: torch.device

    def __call__(self, frame: NDArray[np.uint8]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """(args, kwargs) of one frame."""
        picture = self.preprocess(frame)
        specs = self.signature.frame_specs
        return self.signature.call([self._shaped(picture, shape, dtype) for shape, dtype in specs])

    def _shaped(self, picture: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if tuple(picture.shape[2:]) != shape[-2:]:
            raise VideoError(
                f"the frame is {picture.shape[2]}x{picture.shape[3]} after preprocessing, the stream was "
                f"planned for {shape[-2]}x{shape[-1]}; convert with --input-size {picture.shape[2]} "
                f"{picture.shape[3]}"
            )
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
        if len(shape) not in (3, 4) or shape[-3] != 3:
            raise ArtifactError(
                f"{where}: takes a tensor {list(shape)}; this command feeds pictures of 3 channels, so run "
                "it in Python: stream(frame)"
            )
    if not specs:
        raise ArtifactError(f"{where}: takes no tensor; there is nothing to feed a frame to")
    recorded = stream.extra.get("preprocess")
    if recorded is None:
        preprocess = Preprocess(size=(specs[0].shape[-2], specs[0].shape[-1]))
    else:
        preprocess = Preprocess.from_json(recorded)
    return Feed(preprocess, signature, stream.device)


def load_stream(
    path: Path, reference: str | None = None, backend: str | None = None, device: str = "cpu"
) -> StreamingModule:
    """Read an artifact for a command.

    Args:
        path: the artifact.
        reference: what builds the model around the parts, for an artifact in parts.
        backend: another backend.
        device: "cpu", "cuda" and so on.

    Raises:
        VideoEffError: it cannot be read, or the device or backend cannot serve.
    """
    from videoeff.cli.shared.exported import load_export
    from videoeff.cli.shared.source import build_model
    from videoeff.errors import BackendError
    from videoeff.serialize.load import load

    model: Any = None
    if reference is not None:
        exported = reference.endswith(".pt2")
        model = load_export(Path(reference)) if exported else build_model(reference)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError(
            f"--device {device}: PyTorch finds no CUDA device here; see videoeff doctor, or use --device cpu"
        )
    try:
        stream = load(path, model=model, backend=backend)
    except ArtifactError as error:
        if reference is None and "videoeff.load(path, model=" in str(error):
            raise ArtifactError(f"{error}; here: --model REF") from error
        raise
    return stream if device == "cpu" else stream.to(device)
