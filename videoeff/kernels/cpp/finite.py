"""Whether a frame is finite, read once and without a copy."""

from __future__ import annotations

from torch import Tensor

from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.describe import DTYPES


def native_all_finite(tensor: Tensor) -> bool | None:
    """Whether all elements are finite; None where the native library cannot tell.

    Args:
        tensor: any tensor; what fills its memory without gaps and in one of the native dtypes is answered.
    """
    if tensor.dtype not in DTYPES or tensor.device.type != "cpu" or library.unavailable():
        return None
    if not is_dense(tensor):
        return None
    return bool(library.load().vf_all_finite(tensor.data_ptr(), tensor.numel(), DTYPES[tensor.dtype]))


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a stretch of memory, each of them once, in whatever order."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
