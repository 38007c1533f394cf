"""What the host does beside the kernels: finite check, output copies, warnings. Backends are asked first."""

from __future__ import annotations

import torch
from torch import Tensor

from videoeff.kernels import BACKENDS
from videoeff.kernels.output_memory import OutputMemory

__all__ = ["OutputMemory", "all_finite", "copied", "warn_if_slow"]

_HOSTS = tuple(backend.host for backend in BACKENDS)


def all_finite(frame: Tensor) -> bool:
    """Whether a frame on the CPU holds neither NaN nor infinity."""
    for host in _HOSTS:
        answer = host.all_finite(frame)
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
    for host in _HOSTS:
        copy = host.copied(value, memory)
        if copy is not None:
            return copy
    return value.clone(memory_format=torch.contiguous_format)


def warn_if_slow() -> None:
    """Warn, once a process, that streams on the CPU run without native kernels.

    To be called when a stream on the CPU is lowered with ``backend="auto"``.
    """
    for host in _HOSTS:
        host.warn()
