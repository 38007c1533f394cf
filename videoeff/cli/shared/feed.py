"""Streams from files, and how frames are fed to them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from videoeff.calibration.feed import Feed, feed_of
from videoeff.errors import ArtifactError

if TYPE_CHECKING:
    from videoeff.runtime.streaming_module import StreamingModule

__all__ = ["Feed", "feed_of", "load_stream"]


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
