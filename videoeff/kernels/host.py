"""What the host does beside the kernels, for every backend: finite check, output copies, warnings."""

from __future__ import annotations

import torch
from torch import Tensor

from videoeff.kernels.cpp.finite import native_all_finite
from videoeff.kernels.cpp.library import warn_if_missing
from videoeff.kernels.cpp.planes import native_planes
from videoeff.kernels.output_memory import OutputMemory

__all__ = ["OutputMemory", "all_finite", "copied", "warn_if_slow"]


def all_finite(frame: Tensor) -> bool:
    """Whether a frame on the CPU holds neither NaN nor infinity."""
    answer = native_all_finite(frame)
    if answer is not None:
        return answer
    # The sum is NaN or infinite iff an element is (or the sum overflows: then look closely).
    return bool(torch.isfinite(frame.sum())) or bool(torch.isfinite(frame).all())


def copied(value: Tensor, memory: OutputMemory | None = None) -> Tensor:
    """A copy in the default memory format.

    Args:
        value: any tensor.
        memory: where large copies on the CPU come from; None allocates.
    """
    copy = native_planes(value, memory)
    return value.clone(memory_format=torch.contiguous_format) if copy is None else copy


def warn_if_slow() -> None:
    """Warn, once a process, that streams on the CPU run without native kernels.

    To be called when a stream on the CPU is lowered with ``backend="auto"``.
    """
    warn_if_missing()
