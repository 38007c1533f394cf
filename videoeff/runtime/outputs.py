"""Outputs belong to the caller: what lies in a stream's own memory is copied."""

from __future__ import annotations

from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.kernels.host import OutputMemory, copied


def own(values: Any, storages: set[int]) -> Any:
    """The values with every tensor that lies in one of ``storages`` copied, in the default memory format."""
    return pytree.tree_map(lambda value: owned(value, storages), values)


def owned(value: Any, storages: set[int], memory: OutputMemory | None = None) -> Any:
    """One value, copied, to ``memory`` if it is large, if it is a tensor that lies in one of ``storages``."""
    if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in storages:
        return copied(value, memory)
    return value
