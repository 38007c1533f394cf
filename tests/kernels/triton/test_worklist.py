"""Edges of worklists: whatever a changed pixel reaches lies in the tiles that its edge lists."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.streams import stream_of
from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.codes import ReachKind
from videoeff.kernels.region_spec.spec import region_spec_of
from videoeff.kernels.triton.records import EdgeStatic
from videoeff.kernels.triton.worklist import Edge, Worklist, edge, edges_of
from videoeff.ops.base import Lambda

TILES = st.sampled_from([1, 2, 4])
KERNELS = st.integers(1, 5)


def reached(call: RegionCall, module: nn.Module, example: Tensor, linear: bool) -> Tensor:
    """Which pixels of the value each pixel of the input reaches, bool (H W, H', W'), by asking one by one.

    For resampling this is what the result depends on; for all else it is the reference's own reach, which
    is a pixel wider where an upsampling may have to round.
    """
    height, width = example.shape[2:]
    count = height * width
    if linear:
        units = torch.eye(count, dtype=torch.float64).view(count, 1, height, width)
        with torch.no_grad():
            result: Tensor = module(units.expand(-1, example.shape[1], -1, -1)).abs().amax(1) != 0
            return result
    if call.reach is None:  # it looks at everything
        return torch.ones(count, *call.extent[1:], dtype=torch.bool)
    ((source, _),) = call.mask_reads
    return call.reach({source: torch.eye(count, dtype=torch.bool).view(count, height, width)})


def the_edge(
    module: nn.Module, size: tuple[int, int], tile: int, target: int
) -> tuple[Edge, ReachKind, Tensor]:
    """The edge from a module's input to its last region, the kind of reach, and what each pixel reaches."""
    example = torch.rand(size[0] * size[1], 4, *size, dtype=torch.float64)  # a stream for each pixel
    # no pass that computes small maps whole
    stream = stream_of(module.double(), example, passes="insert-delta-caches", backend="reference")
    (engine,) = stream.engines.values()
    call = engine.plan.instructions[-1].call
    spec = region_spec_of(call)
    ((_, kind),) = spec.reach
    one = (1, *size)
    worklist = Worklist(call.name, (1, *call.extent[1:]), target, 0)
    truth = reached(call, module, example, kind == ReachKind.TABLE)
    return edge(one, tile, worklist, kind, spec, 4), kind, truth


def tiles_along(found: Edge, axis: int, first: int, last: int) -> list[set[int]]:
    """Along one axis, the tiles that a kernel lists for each tap where the pixels first to last changed."""
    assert found.axes is not None
    (low, high), tile, most = found.axes[axis], found.target.tile, found.spread[axis]
    result = []
    for tap in range(low.shape[0]):
        lowest, highest = int(low[tap, first]), int(high[tap, last])
        listed = {lowest // tile + i for i in range(most) if lowest // tile + i <= highest // tile}
        result.append(listed if lowest <= highest else set())
        spread = highest // tile - lowest // tile if lowest <= highest else 0
        assert spread < most, "more tiles than the kernel looks at"
    return result


def listed(found: Edge, box: tuple[int, int, int, int]) -> set[tuple[int, int]]:
    """The tiles listed where the pixels of a box (first and last line, first and last column) changed."""
    rows, columns = tiles_along(found, 0, *box[:2]), tiles_along(found, 1, *box[2:])
    result = {(y, x) for a, b in product(rows, columns) for y in a for x in b}
    high, wide = found.target.grid
    assert all(0 <= y < high and 0 <= x < wide for y, x in result), "a tile outside the map"
    return result


def boxes(size: tuple[int, int], tile: int) -> Iterator[tuple[int, int, int, int]]:
    """Every rectangle inside a tile, over all tiles of a map."""

    def spans(length: int) -> list[tuple[int, int]]:
        tiles = [range(u, min(length, u + tile)) for u in range(0, length, tile)]
        return [(a, b) for u in tiles for a in u for b in u if a <= b]

    for rows, columns in product(spans(size[0]), spans(size[1])):
        yield (*rows, *columns)


def check(module: nn.Module, size: tuple[int, int], tile: int, target: int, kind: ReachKind) -> None:
    """No box reaches a pixel outside the tiles listed for it; single pixels of windows reach all of these."""
    found, how, truth = the_edge(module, size, tile, target)
    single = (1, 1) in (size, found.target.extent[1:])  # of one pixel, everything follows
    assert how == kind or (how == ReachKind.WHOLE and single)
    assert found.axes is not None or single
    if found.axes is None:
        return
    pixels = {
        divmod(p, size[1]): {(y // target, x // target) for y, x in torch.nonzero(truth[p]).tolist()}
        for p in range(size[0] * size[1])
    }
    for top, bottom, left, right in boxes(size, tile):
        inside = [pixels[y, x] for y in range(top, bottom + 1) for x in range(left, right + 1)]
        tiles = listed(found, (top, bottom, left, right))
        assert set().union(*inside) <= tiles
        if tile == 1 and how in (ReachKind.SAME, ReachKind.WINDOW) and found.target.tiles > 1:
            assert tiles == inside[0], "tiles are listed that the pixel does not reach"


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(KERNELS, KERNELS),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    tile=TILES,
    target=TILES,
    pool=st.booleans(),
)
def test_windows(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    tile: int,
    target: int,
    pool: bool,
) -> None:
    """Convolutions and maximum pooling."""
    if pool:  # which pads at most half a kernel
        padding = (min(padding[0], kernel[0] // 2), min(padding[1], kernel[1] // 2))
    assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    module: nn.Module = nn.Conv2d(4, 2, kernel, stride, padding, dilation)
    if pool:
        module = nn.MaxPool2d(kernel, stride, padding, dilation)
    check(module, size, tile, target, ReachKind.WINDOW)


@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(KERNELS, KERNELS),
    stride=st.integers(1, 4),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    tile=TILES,
    target=TILES,
)
def test_transposed_convolutions(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
    tile: int,
    target: int,
) -> None:
    smallest = min((s - 1) * stride + dilation * (k - 1) + 1 for s, k in zip(size, kernel, strict=True))
    padding = min(padding, (smallest - 1) // 2)
    module = nn.ConvTranspose2d(4, 2, kernel, stride, padding, dilation=dilation)
    check(module, size, tile, target, ReachKind.SPREAD)


RESAMPLED: dict[str, Any] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2.0),
    "nearest-1.7": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest-down": lambda x: F.interpolate(x, (3, 4)),
    "exact": lambda x: F.interpolate(x, (5, 11), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "bilinear-corners": lambda x: F.interpolate(x, (13, 15), mode="bilinear", align_corners=True),
    "bilinear-down": lambda x: F.interpolate(x, (4, 5), mode="bilinear"),
    "bilinear-odd": lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear"),
    "average": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "average-ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, True, False),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
    "adaptive-enlarge": lambda x: F.adaptive_avg_pool2d(x, (11, 13)),
    "zeros": lambda x: F.pad(x, (1, 2, 3, 0)),
    "cut-out": lambda x: F.pad(x, (-1, 2, 0, -3)),
    "reflect": lambda x: F.pad(x, (3, 1, 2, 2), mode="reflect"),
    "replicate": lambda x: F.pad(x, (3, 1, 2, 2), mode="replicate"),
    "circular": lambda x: F.pad(x, (3, 1, 2, 0), mode="circular"),
    "crop": lambda x: x[:, :, 2:-2, 1::2].abs(),
}


@pytest.mark.parametrize(("tile", "target"), [(1, 1), (2, 4), (4, 2), (4, 4)])
@pytest.mark.parametrize("what", RESAMPLED)
def test_tables(what: str, tile: int, target: int) -> None:
    """Resampling, average pooling and padding, which read where tables say."""
    check(Lambda(RESAMPLED[what]), (7, 9), tile, target, ReachKind.TABLE)


@given(size=st.tuples(st.integers(1, 9), st.integers(1, 9)), tile=TILES, target=TILES)
def test_the_same_pixel(size: tuple[int, int], tile: int, target: int) -> None:
    check(nn.GELU(), size, tile, target, ReachKind.SAME)


# ---------------------------------------------------------------- edges without tables


def test_a_mean_is_one_tile_that_every_pixel_reaches() -> None:
    found, kind, truth = the_edge(nn.AdaptiveAvgPool2d(1), (5, 6), 2, 4)
    assert kind == ReachKind.WHOLE
    assert bool(truth.all())
    for box in boxes((5, 6), 2):
        assert listed(found, box) == {(0, 0)}


class Scaled(nn.Module):
    """A map times one factor for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True)


def test_a_gate_reaches_every_tile() -> None:
    stream = stream_of(Scaled(), torch.rand(1, 4, 6, 8), backend="reference")
    call = stream.engines[""].plan.instructions[-1].call
    spec = region_spec_of(call)
    (mask,) = [m for m, k in spec.reach if k == ReachKind.WHOLE]
    worklist = Worklist(call.name, call.extent, 2, 0)
    found = edge(spec.extents[mask], 1, worklist, ReachKind.WHOLE, spec, 64)
    assert found.axes is None
    assert found.static == EdgeStatic(whole=1)


def test_an_edge_to_too_many_tiles_at_once_takes_the_whole_row() -> None:
    """A program announces its chunk in one go: what does not fit is told as a change of everything."""
    module = nn.Conv2d(4, 2, 31, padding=15)
    stream = stream_of(module, torch.rand(1, 4, 40, 40), backend="reference")
    call = stream.engines[""].plan.instructions[-1].call
    spec = region_spec_of(call)
    worklist = Worklist(call.name, call.extent, 1, 0)
    assert edge((1, 40, 40), 1, worklist, ReachKind.WINDOW, spec, 1).axes is not None
    assert edge((1, 40, 40), 1, worklist, ReachKind.WINDOW, spec, 64).axes is None
    coarse = Worklist(call.name, call.extent, 4, 0)
    assert edge((1, 40, 40), 4, coarse, ReachKind.WINDOW, spec, 4).axes is not None


def test_a_list_tells_tiles_one_by_one_before_whole_rows() -> None:
    worklist, other = Worklist("a", (2, 5, 9), 4, 0), Worklist("b", (2, 5, 9), 2, 1)
    assert worklist.grid == (2, 3)
    assert worklist.tiles == 12
    axis = (torch.zeros(1, 9, dtype=torch.long), torch.zeros(1, 9, dtype=torch.long))
    whole, part = Edge(other, None), Edge(other, (axis, axis), (1, 1))
    worklist.feeds += [whole, part]
    assert list(edges_of(worklist)) == [part, whole]
    assert part.static == (0, 1, 1, 1, 1, 2)
