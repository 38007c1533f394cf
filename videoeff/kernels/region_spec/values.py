"""What region specs are made of: values that are followed, views of memory, instructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from videoeff.ir.grids import Grid
from videoeff.ir.layout import PixelLayout
from videoeff.kernels.region_spec.codes import EpiOp

Extent = tuple[int, int, int]


class Unserved(Exception):
    """Raised where a region has no region spec, or a backend serves none such; the message says why."""


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor made once from constants of the network.

    Attributes:
        names: the constants it is made from.
        make: the function of them.
        shape: its shape.
    """

    names: tuple[str, ...]
    make: Callable[..., Tensor]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GridTable:
    """A grid as an argument: of the channels of a pixel, without values."""

    grid: Grid
    channels: int


@dataclass(frozen=True)
class View:
    """Where a value lies and how it is walked; strides and offset in elements.

    Attributes:
        source: the state's name, the constant, or a grid.
        offset: of the first element from the beginning of the memory.
        size: elements from there to its end.
        strides: of rows, pixel rows, pixel columns and channels; 0 where it is broadcast.
        extent: the same four; 1 where it is broadcast.
    """

    source: str | Constant | GridTable
    offset: int
    size: int
    strides: tuple[int, int, int, int]
    extent: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Value:
    """What stands for a tensor of the region.

    Attributes:
        shape: its shape.
        layout: its streams and pixels; for a constant nothing.
        tensor: the buffer or constant as it is walked, None for what is computed.
        source: the state's name or the constant, "" for what is computed.
        masks: caches it comes from.
        extent: (R, H, W) of their masks.
        crop: the rows and columns of those masks that are left.
        number: the instruction that computes it.
        stage: how many stages the region had before that instruction.
        unrolled: the map (R, C, H, W) that it is the rows of, where that is no view.
        gate: what a map's channels are multiplied with where a convolution reads them (R, C, 1, 1).
    """

    shape: tuple[int, ...]
    layout: PixelLayout = field(default_factory=PixelLayout)
    tensor: Tensor | None = None
    source: str | Constant = ""
    masks: tuple[str, ...] = ()
    extent: Extent = (1, 1, 1)
    crop: tuple[range, range] = (range(1), range(1))
    number: int = -1
    stage: int = 0
    unrolled: Value | None = None
    gate: Value | None = None

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return isinstance(self.source, Constant)

    @property
    def computed(self) -> bool:
        """Whether it is the result of an instruction or of the producer."""
        return self.number >= 0

    @property
    def pixels(self) -> Extent:
        """(R, H, W)."""
        return self.layout.extent(self.shape)

    @property
    def cropped(self) -> bool:
        """Whether pixels of its masks are left out."""
        return self.crop != (range(self.extent[1]), range(self.extent[2]))


@dataclass(frozen=True)
class Instruction:
    """``dst = op(a, b)``; operands are numbers of instructions, below zero arguments.

    ``width`` is the number of channels, 0 where any will do: a broadcast value.
    """

    op: EpiOp
    a: int
    b: int
    p: float
    q: float
    width: int


def argument(index: int) -> int:
    """An argument as an operand of an instruction under construction."""
    return -1 - index


def view_of(tensor: Tensor, layout: PixelLayout, source: str | Constant) -> View:
    """A tensor without memory as strides over rows, pixels and channels."""
    strides, extent = [], []
    for role in roles(layout):
        spread = role is not None and tensor.shape[role] > 1 and tensor.stride(role) != 0
        strides.append(tensor.stride(role) if role is not None and spread else 0)
        extent.append(tensor.shape[role] if role is not None and spread else 1)
    rest = [d for d in range(tensor.ndim) if d not in roles(layout) and tensor.shape[d] > 1]
    step, count = (tensor.stride(rest[-1]) if rest else 0), 1
    for d in reversed(rest):
        if tensor.stride(d) != step * count:
            raise Unserved("its channels do not lie at even steps in memory")
        count *= tensor.shape[d]
    if step == 0:
        count = 1
    whole = tensor.untyped_storage().nbytes() // tensor.element_size()
    offset = int(tensor.storage_offset())
    if whole >= 2**31:
        raise Unserved(f"a buffer has {whole} elements, more than 2^31")
    return View(
        source,
        offset,
        whole - offset,
        (strides[0], strides[1], strides[2], step),
        (extent[0], extent[1], extent[2], count),
    )


def side_by_side(view: View) -> View:
    """A map's view: a single channel is no broadcast."""
    if view.extent[3] > 1:
        return view
    return replace(view, strides=(*view.strides[:3], 1))


def roles(layout: PixelLayout) -> tuple[int | None, int | None, int | None]:
    """The dimensions of streams, pixel rows and pixel columns."""
    return layout.rows, layout.h, layout.w


def channels_of(shape: tuple[int, ...], layout: PixelLayout) -> int:
    """Channels of a shape."""
    count = 1
    for d, size in enumerate(shape):
        if d not in roles(layout):
            count *= size
    return count


def channels(value: Value) -> int:
    """Channels of a value."""
    return channels_of(value.shape, value.layout)


def channel_dims(value: Value) -> list[int]:
    """The dimensions of a value that hold more than one channel."""
    return [d for d, n in enumerate(value.shape) if d not in roles(value.layout) and n > 1]


def is_image(value: Value) -> bool:
    """Whether a value is (B, C, H, W)."""
    return len(value.shape) == 4 and roles(value.layout) == (0, 2, 3)


def dtype_name(dtype: torch.dtype) -> str:
    """A dtype for messages."""
    return str(dtype).removeprefix("torch.")


def combined(parts: Sequence[Constant], function: Callable[..., Tensor], shape: tuple[int, ...]) -> Constant:
    """A constant computed from others."""
    counts = [len(part.names) for part in parts]

    def make(*tensors: Tensor) -> Tensor:
        rest, made = list(tensors), []
        for part, count in zip(parts, counts, strict=True):
            made.append(part.make(*rest[:count]))
            rest = rest[count:]
        return function(*made)

    return Constant(tuple(name for part in parts for name in part.names), make, shape)
