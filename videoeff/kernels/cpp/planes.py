"""Copies of outputs from pixels with their channels side by side to planes, PyTorch's default format."""

from __future__ import annotations

import torch
from torch import Tensor

from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.tuning import PLANES_ELEMENTS
from videoeff.kernels.output_memory import OutputMemory


def native_planes(value: Tensor, memory: OutputMemory | None = None) -> Tensor | None:
    """A copy in the default memory format; None where the native library cannot make it.

    Args:
        value: (N, C, H, W), of any dtype; a large, dense channels-last one on the CPU is served.
        memory: where from; None: new.
    """
    if value.ndim != 4 or value.numel() < PLANES_ELEMENTS:
        return None
    if value.device.type != "cpu" or library.unavailable():
        return None
    if value.itemsize > 8 or not value.is_contiguous(memory_format=torch.channels_last):
        return None
    entries, channels, height, width = value.shape
    copied = (
        torch.empty(value.shape, dtype=value.dtype)
        if memory is None
        else memory.empty(value.shape, value.dtype)
    )
    library.load().vf_planes(
        value.data_ptr(),
        copied.data_ptr(),
        entries,
        height * width,
        channels,
        value.itemsize,
        torch.get_num_threads(),
    )
    return copied
