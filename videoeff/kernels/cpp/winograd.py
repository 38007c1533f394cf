"""Which 3x3 convolutions are computed by minimal filtering (Winograd): 2x2 results with 16 products, not 36.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Every result is the
same, to the last bit, whichever of its neighbours are computed with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from videoeff.kernels.cpp.abi import Kind
from videoeff.kernels.cpp.describe import Description
from videoeff.kernels.cpp.numbers import MAX_WINOGRAD_DILATION, MAX_WINOGRAD_INPUTS
from videoeff.kernels.cpp.tuning import WINOGRAD_CHANNELS, WINOGRAD_COST, WINOGRAD_PIXELS

_SHAPE = {"kh": 3, "kw": 3, "sy": 1, "sx": 1, "groups": 1}


def fits_winograd(found: Description) -> bool:
    """Whether the kernels can compute it by minimal filtering."""
    return (
        found.kind == Kind.CONV
        and found.dtype == torch.float32
        and not found.stages
        and not found.window.get("gate")
        and found.input is not None
        and found.input.strides[3] == 1
        and fits_window(found.window, found.input.extent[3])
    )


def fits_window(window: Mapping[str, int], inputs: int) -> bool:
    """Whether a window over a map of so many channels is one of those that are served."""
    return (
        all(window[name] == number for name, number in _SHAPE.items())
        and window["dy"] == window["dx"] <= MAX_WINOGRAD_DILATION
        and inputs <= MAX_WINOGRAD_INPUTS
    )


def uses_winograd(found: Description) -> bool:
    """Whether it is computed by minimal filtering: where that is served and faster."""
    if not fits_winograd(found) or found.input is None:
        return False
    channels = (found.input.extent[3], found.channels)
    return pays(channels, found.window, found.input.extent[1:3], found.out.extent[1:3])


def pays(
    channels: Sequence[int], window: Mapping[str, int], size: Sequence[int], result: Sequence[int]
) -> bool:
    """Whether minimal filtering is served and faster, by the products it takes.

    Args:
        channels: of the input and of the result.
        window: kernel, stride, padding, dilation and groups by their short names.
        size: height and width of the input.
        result: those of the result.
    """
    if not fits_window(window, channels[0]):
        return False
    if min(channels) < WINOGRAD_CHANNELS or result[0] * result[1] < WINOGRAD_PIXELS:
        return False
    apart = window["dy"]
    tiles = taps = 1
    for extent, results, padding in zip(size, result, (window["py"], window["px"]), strict=True):
        tiles *= results // (2 * apart) * apart + min(results % (2 * apart), apart)
        # of wide dilations many taps lie outside, and a plain convolution leaves them out
        taps *= sum(0 <= at + k * apart - padding < extent for at in range(results) for k in range(3))
    return WINOGRAD_COST * 16 * tiles < taps
