"""How a pixel of a region is computed before its epilogue: one class for each way, with what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from videoeff.ir.grids import Grid
from videoeff.kernels.region_spec.codes import Kind
from videoeff.kernels.region_spec.values import Constant, Extent, Instruction, View
from videoeff.ops.axis_tables import Table

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The window of a convolution or a maximum; each field for (rows, columns).

    Attributes:
        kernel: its taps.
        stride: from one position to the next.
        padding: around the input, before its first pixel.
        dilation: from tap to tap.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        """Taps in all."""
        return self.kernel[0] * self.kernel[1]


@dataclass(frozen=True)
class Input:
    """The frame's own pixels."""

    kind: ClassVar[Kind] = Kind.INPUT


@dataclass(frozen=True)
class Pointwise:
    """Nothing: the epilogue computes the pixel from its arguments."""

    kind: ClassVar[Kind] = Kind.POINTWISE


@dataclass(frozen=True)
class Convolution:
    """A convolution.

    Attributes:
        input: what it reads; behind stages, what the first of them reads.
        window: its window.
        groups: of channels.
        weight: (O, I / groups, kh, kw).
        bias: (O,).
        gate: which of the region's arguments scales the channels of the input.
    """

    input: View
    window: Window
    groups: int
    weight: Constant
    bias: Constant | None = None
    gate: int | None = None
    kind: ClassVar[Kind] = Kind.CONV


@dataclass(frozen=True)
class TransposedConvolution:
    """A transposed convolution; fields as those of a convolution, ``weight`` (I, O / groups, kh, kw)."""

    input: View
    window: Window
    groups: int
    weight: Constant
    bias: Constant | None = None
    kind: ClassVar[Kind] = Kind.TRANSPOSED


@dataclass(frozen=True)
class MaxPool:
    """The maximum over a window; ``input`` as that of a convolution."""

    input: View
    window: Window
    kind: ClassVar[Kind] = Kind.MAXPOOL


@dataclass(frozen=True)
class Mean:
    """The mean over all pixels."""

    input: View
    kind: ClassVar[Kind] = Kind.MEAN


@dataclass(frozen=True)
class Resampling:
    """A weighted sum of pixels by a table of the rows and one of the columns."""

    input: View
    rows: Table
    columns: Table
    kind: ClassVar[Kind] = Kind.SEPARABLE


Producer = Input | Pointwise | Convolution | TransposedConvolution | MaxPool | Mean | Resampling


@dataclass(frozen=True)
class Stage:
    """A convolution of the region whose result another convolution reads, and nothing else.

    Attributes:
        extent: (R, H, W) of its result.
        channels: of its result.
        window, groups, weight, bias: as those of a :class:`Convolution`.
        epilogue: the instruction that follows it, None for none.
        grid: the numbers that its result is rounded to, None where it is not.
    """

    extent: Extent
    channels: int
    window: Window
    groups: int
    weight: Constant
    bias: Constant | None
    epilogue: Instruction | None
    grid: Grid | None = None
