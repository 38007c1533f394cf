"""A kernel around one of the device's helpers."""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.triton.device import _append


@triton.jit
def append(units, wanted, stamps, listed, count, frame, N: tl.constexpr):
    """Append those of N units that are wanted."""
    place = tl.arange(0, N)
    _append(tl.load(units + place), tl.load(wanted + place) != 0, stamps, listed, count, frame)
