"""What the forms of regions are made of: values that are followed, views of memory, instructions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from videoeff.ir.layout import PixelLayout
from videoeff.kernels.region_spec.codes import EpiOp, Kind
from videoeff.ops.axis_tables import Table

Extent = tuple[int, int, int]


class Declined(Exception):
    """Raised where a region has no native form; the message says why."""


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
class View:
    """Where a value lies and how it is walked; strides and offset in elements.

    Attributes:
        source: the state's name, or the constant.
        offset: of the first element from the beginning of the memory.
        size: elements from there to its end.
        strides: of rows, pixel rows, pixel columns and channels; 0 where it is broadcast.
        extent: the same four; 1 where it is broadcast.
    """

    source: str | Constant
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


@dataclass
class Producer:
    """How a pixel comes into register 0."""

    kind: Kind = Kind.POINTWISE
    channels: int = 0
    input: View | None = None
    window: dict[str, int] = field(default_factory=dict)
    weight: Constant | None = None
    bias: Constant | None = None
    tables: tuple[Table, Table] | None = None


@dataclass(frozen=True)
class Stage:
    """A convolution of the region whose result another convolution reads, and nothing else.

    Attributes:
        extent: (R, H, W) of its result.
        channels: of its result.
        window, weight, bias: as those of a producer.
        code: the instruction that follows it, None for none.
    """

    extent: Extent
    channels: int
    window: Mapping[str, int]
    weight: Constant
    bias: Constant | None
    code: Instruction | None
