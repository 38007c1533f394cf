"""What tests of artifacts share: comparing streams, and files as a forger would make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize import format as file_format

Edit = Callable[[dict[str, Any]], None]


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, structure included."""
    first, one = pytree.tree_flatten(a)
    second, two = pytree.tree_flatten(b)
    if one.num_leaves != two.num_leaves:
        return False
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(first, second, strict=True)
    )


def assert_streams_agree(first: StreamingModule, second: StreamingModule, frames: list[Any]) -> None:
    first.reset()
    for frame in frames:
        args = frame if isinstance(frame, tuple) else (frame,)
        assert same(first(*args), second(*args))


def rewritten(source: Path, target: Path, edit: Edit | None = None, text: str | None = None) -> Path:
    """A copy with another description whose checksums are right, as a forger would make it."""
    with safe_open(str(source), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        document = json.loads(file.metadata()["videoeff"])
    if edit is not None:
        edit(document)
    if text is None:
        text = json.dumps(document)
    metadata = {"videoeff": text, "videoeff_sha256": file_format.digest_of_text(text)}
    save_file(tensors, target, metadata=metadata)
    return target
