"""Which 3x3 convolutions are computed by minimal filtering (Winograd): 2x2 results with 16 products, not 36.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Every result is the
same, to the last bit, whichever of its neighbours are computed with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from videoeff.kernels.cpp import costs
from videoeff.kernels.cpp.describe import Description
from videoeff.kernels.cpp.numbers import MAX_WINOGRAD_DILATION, MAX_WINOGRAD_INPUTS
from videoeff.kernels.cpp.tuning import WINOGRAD_CHANNELS, WINOGRAD_PIXELS
from videoeff.kernels.region_spec.producers import Convolution, Window


def fits_winograd(found: Description) -> bool:
    """Whether the kernels can compute it by minimal filtering."""
    producer = found.spec.producer
    return (
        isinstance(producer, Convolution)
        and found.spec.dtype == torch.float32
        and not (found.spec.stages or found.numbers or found.reads_numbers)
        and producer.gate is None
        and producer.input.strides[3] == 1
        and fits_window(producer.window, producer.groups, producer.input.extent[3])
    )


def fits_window(window: Window, groups: int, inputs: int) -> bool:
    """Whether a window over a map of so many channels is one of those that are served."""
    return (
        window.kernel == (3, 3)
        and window.stride == (1, 1)
        and groups == 1
        and window.dilation[0] == window.dilation[1] <= MAX_WINOGRAD_DILATION
        and inputs <= MAX_WINOGRAD_INPUTS
    )


def uses_winograd(found: Description) -> bool:
    """Whether it is computed by minimal filtering: where that is served and faster."""
    spec = found.spec
    if not fits_winograd(found) or not isinstance(spec.producer, Convolution):
        return False
    read, window = spec.producer.input.extent, spec.producer.window
    return pays((read[3], spec.channels), window, spec.producer.groups, read[1:3], spec.out.extent[1:3])


def pays(
    channels: Sequence[int], window: Window, groups: int, size: Sequence[int], result: Sequence[int]
) -> bool:
    """Whether minimal filtering is served and faster, by the products it takes.

    Args:
        channels: of the input and of the result.
        window: of the convolution.
        groups: of channels.
        size: height and width of the input.
        result: those of the result.
    """
    if not fits_window(window, groups, channels[0]):
        return False
    if min(channels) < WINOGRAD_CHANNELS or result[0] * result[1] < WINOGRAD_PIXELS:
        return False
    filtered, plain = products(window, size, result)
    return costs.table().winograd * filtered < plain


def products(window: Window, size: Sequence[int], result: Sequence[int]) -> tuple[int, int]:
    """Products for each pair of channels: of minimal filtering, and of a plain convolution.

    Args:
        window: 3x3, of one dilation.
        size: height and width of the input.
        result: those of the result.
    """
    apart = window.dilation[0]
    tiles = taps = 1
    for extent, results, padding in zip(size, result, window.padding, strict=True):
        tiles *= results // (2 * apart) * apart + min(results % (2 * apart), apart)
        # of wide dilations many taps lie outside, and a plain convolution leaves them out
        taps *= sum(0 <= at + k * apart - padding < extent for at in range(results) for k in range(3))
    return 16 * tiles, taps
