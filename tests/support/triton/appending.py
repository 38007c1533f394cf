"""Kernels around the device's helpers."""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.triton.device import _append, divided
from videoeff.kernels.triton.epilogue import place_of


@triton.jit
def append(tiles, wanted, stamps, listed, count, frame, N: tl.constexpr):
    """Append those of N tiles that are wanted."""
    place = tl.arange(0, N)
    _append(tl.load(tiles + place), tl.load(wanted + place) != 0, stamps, listed, count, frame)


@triton.jit
def places(view, found, r, y, x):
    """Where two channels of a pixel lie."""
    one = tl.arange(0, 1)
    c = tl.arange(0, 2)
    tl.store(found + c[None, :], place_of(view, one + r, one + y, one + x, c))


@triton.jit
def divide(numbers, by, how, quotient, rest, N: tl.constexpr):
    """Divide N numbers."""
    place = tl.arange(0, N)
    found, left = divided(tl.load(numbers + place), by, how)
    tl.store(quotient + place, found)
    tl.store(rest + place, left)
