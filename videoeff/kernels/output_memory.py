"""Memory of large outputs that the caller has let go of, used again for later frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

#: How many own a storage; None where this PyTorch does not say, and nothing is used again.
_owners: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


class OutputMemory:
    """Outputs of tens of megabytes cost more to get from the system, page by page, than to write.

    Memory is given again only when nobody else holds it: no tensor, no view, no array over it. What it
    held is overwritten whole.

    Args:
        most: pieces kept. Two for each output serve a caller who holds one frame's while the next is made.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: list[torch.UntypedStorage] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return OutputMemory, (self.most,)  # a copy of a stream has memory of its own

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU in the default format, contents undefined."""
        if _owners is None:
            return torch.empty(shape, dtype=dtype)
        size = math.prod(shape) * dtype.itemsize
        for storage in self._kept:
            if storage.nbytes() == size and _owners(storage._cdata) == 1 and not storage.is_shared():
                again: Tensor = torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
                return again
        fresh = torch.empty(shape, dtype=dtype)
        self._kept.append(fresh.untyped_storage())
        del self._kept[: -self.most]
        return fresh
