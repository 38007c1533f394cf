"""The file format of artifacts, and how a file is read and checked before anything is built from it.

An artifact is a safetensors file. Its tensors are the constants of the rewritten graphs. Its metadata
holds one JSON text: the graphs (as text that parses back, thresholds in it), the passes and their hash, the
state schema, preprocessing and versions. Reading unpickles nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import ArtifactError
from videoeff.version import __version__

FORMAT = "videoeff"
FORMAT_VERSION = 1

METADATA_KEY = "videoeff"
METADATA_DIGEST = "videoeff_sha256"

#: The key of stream.extra that names the model.
MODEL_KEY = "model"

# Version 1 of the format calls a model captured in parts a shell and its call sites sites. The words are
# kept, so that files written by 0.1.0 are read.

#: The description's entry for the model around the engines, None for a model captured whole.
SURROUNDINGS_KEY = "shell"

#: The entry's keys: number of engines by path, shape and dtype of the frames' tensors, what runs as it is.
CALLS_KEY = "sites"
FRAME_SPECS_KEY = "frames"
LEFT_KEY = "left"
CONVOLUTION_MACS_KEY = "convolution_macs"

#: The entry of an engine, or of the model around the engines, for the buffers its code changes; files without
#: it have none.
CARRIED_KEY = "carried"

#: The entry of the model around the engines that computes in bfloat16 what it is given in float32; absent in
#: files of other models.
BFLOAT16_KEY = "bfloat16"

#: What the names of the model's own weights begin with; those of engines begin with the engine's number.
WEIGHTS_PREFIX = "shell:"


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the tensors' names and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def digest_of_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the tensors of an artifact, checked.

    Raises:
        ArtifactError: see :func:`load`.
    """
    document = read_document(path)
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except Exception as error:
        raise ArtifactError(f"{path}: its tensors cannot be read ({error}); the file is damaged") from error
    if digest_of(tensors) != document.get("digest"):
        raise ArtifactError(
            f"{path}: its tensors are not those that were saved: the file is damaged; copy it again"
        )
    aliases = document.get("aliases")
    if not isinstance(aliases, dict) or any(name not in tensors for name in aliases.values()):
        raise ArtifactError(f"{path}: it names tensors that it does not hold; convert the model again")
    tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    return document, tensors


def read_document(path: str | Path) -> dict[str, Any]:
    """Read the JSON description alone, which is quick.

    Raises:
        ArtifactError: see :func:`load`.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise ArtifactError(
            f"{source}: no such file; write one with videoeff convert -o or stream.save(path)"
        )
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{source}: is no artifact of videoeff, or only part of one ({error}); copy it again or convert "
            "the model anew"
        ) from error
    if METADATA_KEY not in metadata:
        raise ArtifactError(
            f"{source}: is a safetensors file, but no artifact of videoeff; for a state dict use "
            "videoeff convert with --model"
        )
    if metadata.get(METADATA_DIGEST) != digest_of_text(metadata[METADATA_KEY]):
        raise ArtifactError(
            f"{source}: its description is not the one that was saved: the file is damaged; copy it again"
        )
    try:
        document = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: its description is damaged ({error}); copy the file again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{source}: its description is not videoeff's; convert the model anew")
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"{source}: has format version {version}, this videoeff ({__version__}) reads up to "
            f"{FORMAT_VERSION}; it was written by videoeff "
            f"{document.get('versions', {}).get('videoeff')}: upgrade"
        )
    return document
