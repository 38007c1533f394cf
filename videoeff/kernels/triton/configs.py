"""Sizes of blocks by kind of kernel and shape."""

from __future__ import annotations

from dataclasses import dataclass

from videoeff.kernels.forms.codes import EpiOp, Kind
from videoeff.kernels.forms.form import Form
from videoeff.ops.call import RegionCall

#: Instructions that look along all channels of a pixel.
ALONG = (EpiOp.SOFTMAX, EpiOp.LOG_SOFTMAX, EpiOp.NORMALIZE, EpiOp.RMS_NORMALIZE)


@dataclass(frozen=True)
class Config:
    """How a kernel is cut.

    Attributes:
        U: edge of a unit in pixels.
        BM: pixels of a chunk, a multiple of U².
        BN: channels of a block.
        BK: channels of the input taken at once.
        warps, stages: of the compiler.
        programs: per multiprocessor.
        whole_from: share of the units from which on all are computed in order.
    """

    U: int = 4
    BM: int = 64
    BN: int = 64
    BK: int = 32
    warps: int = 4
    stages: int = 3
    programs: int = 2
    whole_from: float = 0.75


def choose(call: RegionCall, form: Form) -> Config:
    """The sizes for a region."""
    _, height, width = call.extent
    unit = 4 if height * width >= 128 * 128 else 2 if height * width >= 32 * 32 else 1
    channels = form.out.extent[3]
    if form.kind == Kind.INPUT:
        return Config(U=unit, BM=256, BN=power_of_two(min(channels, 16)))
    along = any(i is not None and i.op in ALONG for i in form.code)
    if along:
        wide = power_of_two(channels)
        return Config(U=unit, BM=max(unit**2, 16, 4096 // wide), BN=wide, BK=16)
    if form.kind == Kind.CONV:
        assert form.weight is not None  # a convolution has weights
        outputs = form.weight.shape[0] // form.window["groups"]
        return Config(U=unit, BM=64, BN=power_of_two(min(outputs, 128), 16), BK=32)
    return Config(U=unit, BM=64, BN=power_of_two(min(channels, 64)))


def power_of_two(number: int, least: int = 1) -> int:
    """The next power of two."""
    return max(least, 1 << max(0, number - 1).bit_length())
