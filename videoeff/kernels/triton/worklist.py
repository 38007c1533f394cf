"""Worklists, and how changes of one value lead to tiles of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videoeff.errors import LoweringError
from videoeff.kernels.region_spec.codes import ReachKind
from videoeff.kernels.region_spec.producers import Input, Mean, Pointwise, Resampling
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton.records import EdgeStatic

Extent = tuple[int, int, int]

#: No test or epilogue handles more places at once than this in one append.
MOST_PLACES = 4096


@dataclass(eq=False)
class Worklist:
    """A list of tiles: squares of ``tile`` x ``tile`` pixels of a value.

    Attributes:
        name: the layer, with what is computed of it if that is not its value.
        extent: (R, H, W) of the value.
        tile: edge of a tile.
        number: which of the plan's lists it is.
        feeds: the edges by which changes of the value lead to other lists.
        tensors: ``listed`` and ``stamps`` (tiles,), ``mask`` (R H W,) where the value has one; int32.
    """

    name: str
    extent: Extent
    tile: int
    number: int
    feeds: list[Edge] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles of a column and of a line."""
        return -(-self.extent[1] // self.tile), -(-self.extent[2] // self.tile)

    @property
    def tiles(self) -> int:
        """All tiles of all rows."""
        high, wide = self.grid
        return self.extent[0] * high * wide


@dataclass(frozen=True, eq=False)
class Edge:
    """From changes of a value to tiles of a list.

    Attributes:
        target: the list.
        axes: (low, high) of lines and of columns, each int32 (taps, size of the source): the pixels of the
            target that a pixel reaches, low > high where none. None: everything in the row is reached.
        spread: most tiles of the target that the pixels of one tile reach, by tap, along each axis.
    """

    target: Worklist
    axes: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None
    spread: tuple[int, int] = (1, 1)

    @property
    def static(self) -> EdgeStatic:
        """What kernels know of it at compile time."""
        if self.axes is None:
            return EdgeStatic(whole=1)
        (rows, _), (columns, _) = self.axes
        return EdgeStatic(
            whole=0,
            taps_y=rows.shape[0],
            most_y=self.spread[0],
            taps_x=columns.shape[0],
            most_x=self.spread[1],
            tile=self.target.tile,
        )


def edge(source: Extent, tile: int, target: Worklist, kind: ReachKind, spec: RegionSpec, chunk: int) -> Edge:
    """The edge by which a region follows a mask.

    Args:
        source: (R, H, W) of the mask.
        tile: edge of the source's tiles.
        target: the list of the region.
        kind: how its pixels follow from the mask.
        spec: the region.
        chunk: tiles that the source's kernel announces at once.
    """
    one = target.grid == (1, 1)
    if kind == ReachKind.WHOLE and not one:
        return Edge(target, None)
    axes = [_axis(kind, i, source, target.extent, spec, one) for i in range(2)]
    smoothed = [_over_tiles(low, high, tile) for low, high in axes]
    spread = [_spread(low, high, tile, target.tile) for low, high in smoothed]
    places = chunk
    for (low, _), most in zip(smoothed, spread, strict=True):
        places *= low.shape[0] * most
    if places > MOST_PLACES:
        return Edge(target, None)
    return Edge(target, (smoothed[0], smoothed[1]), (spread[0], spread[1]))


def _axis(
    kind: ReachKind, axis: int, source: Extent, target: Extent, spec: RegionSpec, one: bool
) -> tuple[Tensor, Tensor]:
    """Lowest and highest pixel (taps, size) of the target that each pixel of the source reaches."""
    size, out = source[1 + axis], target[1 + axis]
    at = torch.arange(size)
    if one:
        return torch.zeros(1, size, dtype=torch.long), torch.zeros(1, size, dtype=torch.long)
    if kind == ReachKind.SAME:
        return at[None], at[None]
    producer = spec.producer
    if kind == ReachKind.TABLE and isinstance(producer, Resampling):
        table = (producer.rows, producer.columns)[axis]
        return _inverse(table.index, table.weight, size)
    if isinstance(producer, (Input, Pointwise, Mean, Resampling)):
        raise LoweringError(
            f"{kind.name} is the reach of a window, and {producer.kind.name} has none; report it"
        )
    window = producer.window
    kernel, stride = window.kernel[axis], window.stride[axis]
    padding, dilation = window.padding[axis], window.dilation[axis]
    if kind == ReachKind.SPREAD:
        low, high = at * stride - padding, at * stride - padding + (kernel - 1) * dilation
        low, high = low[None], high[None]
    elif dilation == 1:
        low = -((-(at + padding - kernel + 1)) // stride)
        low, high = low[None], ((at + padding) // stride)[None]
    else:
        reached = at[None] + padding - torch.arange(kernel)[:, None] * dilation
        low, high = -((-reached) // stride), reached // stride  # low > high unless it divides
    return low.clamp_min(0), high.clamp_max(out - 1)


def _inverse(index: Tensor, weight: Tensor, size: int) -> tuple[Tensor, Tensor]:
    outputs = torch.arange(index.shape[0])[:, None].expand(index.shape)
    held = weight != 0
    places, outputs = index.long()[held], outputs[held]
    low = torch.full((size,), index.shape[0]).scatter_reduce(0, places, outputs, "amin")
    high = torch.full((size,), -1).scatter_reduce(0, places, outputs, "amax")
    return low[None], high[None]


def _over_tiles(low: Tensor, high: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Such that low[first] and high[last] hold for all pixels between, however they are ordered."""
    none = low > high
    low, high = low.masked_fill(none, 2**30), high.masked_fill(none, -1)
    lowest, highest = low.clone(), high.clone()
    for shift in range(1, min(tile, low.shape[1])):
        lowest[:, :-shift] = torch.minimum(lowest[:, :-shift], low[:, shift:])
        highest[:, shift:] = torch.maximum(highest[:, shift:], high[:, :-shift])
    return lowest, highest


def _spread(low: Tensor, high: Tensor, tile: int, target: int) -> int:
    """Most tiles of the target that one tile's pixels reach."""
    most = 1
    for first in range(0, low.shape[1], tile):
        bottom = low[:, first : first + tile].min(1).values
        top = high[:, first : first + tile].max(1).values
        held = top >= bottom
        if bool(held.any()):
            most = max(most, int((top // target - bottom // target)[held].max()) + 1)
    return most


def edges_of(worklist: Worklist) -> Sequence[Edge]:
    """The edges of a list's value, those that reach everything last."""
    return sorted(worklist.feeds, key=lambda e: e.axes is None)
