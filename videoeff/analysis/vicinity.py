"""Where the pixels of every map lie over those that changes come from: what a bounded reach is measured by.

Changes come from *sources*: the frames, and the values that are computed whole (which are tested anew when
they re-enter the stream). Every other map is computed from them pixel by pixel, and each of its pixels stands
for some pixels of each source, its *home*: the windows' centres, layer after layer, without their fringe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from videoeff.analysis.regions import Region
from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.markers import cache_option
from videoeff.ops.base import op_of, shape_of, stream_inputs
from videoeff.ops.home import Home, Near, rising

#: By source the home of a map's pixels; None where everything changes when the source does.
Homes = Mapping[str, tuple[Home, Home] | None]


@dataclass(frozen=True)
class Placed:
    """The homes of all regions of a graph.

    Attributes:
        homes: by layer name, of the maps that can be placed.
        why_not: by layer name, why a map cannot be placed; its changes are a source of their own.
        extents: (R, H, W) of the sources.
        frame: (H, W) of the first frame, in whose pixels a bound is given.
    """

    homes: Mapping[str, Homes]
    why_not: Mapping[str, str]
    extents: Mapping[str, tuple[int, int, int]]
    frame: tuple[int, int]

    def near(self, name: str, pixels: float) -> tuple[Near, ...]:
        """The sources of a map with what lies within a bound.

        Args:
            name: the map's layer name, among ``homes``.
            pixels: the bound, in pixels of the frame.
        """
        found = []
        for source, home in self.homes[name].items():
            extent = self.extents[source]
            if home is None:
                found.append(Near(source, extent))
                continue
            sizes = extent[1:]
            rows, columns = (_around(home[i], pixels * sizes[i] / self.frame[i], sizes[i]) for i in range(2))
            found.append(Near(source, extent, rows, columns))
        return tuple(found)


def _around(home: Home, by: float, size: int) -> Home:
    """The source's pixels that lie in the cell of each pixel of a map, or within ``by`` pixels of it.

    A map that covers the source divides it into equal cells: pixel i of 10 stands for the i-th tenth. That is
    where networks put what they find, though windows with a stride and even enlargements shift the centres
    of what a pixel sees by up to half a cell. The cells of other maps (of a cropped frame, say) lie around
    these centres.
    """
    count = len(home[0])
    low, high = (place.to(torch.float64) for place in home)
    cell = size / count
    if float(low[0]) <= cell and float(high[-1]) >= size - 1 - cell:
        first = torch.arange(count, dtype=torch.float64) * cell
        last = first + cell
    else:
        first, last = low, high + 1
    begin = (first - by).round(decimals=6).floor().long().clamp(0, size - 1)
    end = (last + by).round(decimals=6).ceil().long() - 1
    return begin, torch.maximum(end.clamp_max(size - 1), begin)


def placed(regions: Sequence[Region]) -> Placed:
    """Find the home of every map.

    Args:
        regions: all regions of a planned graph, in the order in which they are computed.
    """
    frame = _frame(regions)
    homes: dict[str, Homes] = {}
    known: dict[fx.Node, Homes] = {}
    why_not: dict[str, str] = {}
    extents: dict[str, tuple[int, int, int]] = {}
    for region in regions:
        name, value = region.name, info(region.cache)
        found: Homes | str = "nothing local is computed here"
        if not region.dense and value.is_spatial and cache_option(region.cache, "kind") == "map":
            found = _homes_of(region, known)
            if isinstance(found, str):
                why_not[name] = found
        if isinstance(found, str):
            extents[name] = _layout(region.cache).extent(shape_of(region.cache))
            _, height, width = extents[name]
            one = height * width == 1
            known[region.cache] = {name: None if one else (_itself(height), _itself(width))}
        else:
            homes[name] = known[region.cache] = found
    return Placed(homes, why_not, extents, frame)


def _frame(regions: Sequence[Region]) -> tuple[int, int]:
    for region in regions:
        if cache_option(region.cache, "kind") == "input" and info(region.cache).is_spatial:
            return _pixels(region.cache)
    return (1, 1)


def _homes_of(region: Region, known: Mapping[fx.Node, Homes]) -> Homes | str:
    """The homes of a region's result, or why they cannot be told."""
    layout = _layout(region.cache)
    if layout.streams is None:
        return "it mixes streams"
    local: dict[fx.Node, Homes] = {n: known[n] for n in region.reads}
    for node in region.nodes:
        op, found = op_of(node), dict[str, tuple[Home, Home] | None]()
        if op is None or info(node).layout is None:
            return f"{node.name} ({node.target}) has no rule"
        for source in stream_inputs(node):
            if source not in local:
                return f"{source.name} is not followed"
            if _layout(source).streams != layout.streams:
                return f"{source.name} has other streams"
            if not info(source).is_spatial:
                found |= dict.fromkeys(local[source])
                continue
            step = op.home(node, source)
            if step is None:
                return f"{node.name} ({node.target}) moves pixels"
            for name, home in local[source].items():
                through = None if home is None else (_through(step[0], home[0]), _through(step[1], home[1]))
                if name in found:
                    through = _either(found[name], through)
                if through is not None and not all(rising(*axis) for axis in through):
                    return f"{node.name} ({node.target}) turns pixels round"
                found[name] = through
        local[node] = found
    return local[region.nodes[-1]] if region.nodes else local[region.reads[0]]


def _through(step: Home, home: Home) -> Home:
    """The home of a result from that of its input, neither of which falls."""
    return home[0][step[0]], home[1][step[1]]


def _either(one: tuple[Home, Home] | None, other: tuple[Home, Home] | None) -> tuple[Home, Home] | None:
    if one is None or other is None:
        return None
    (a, b), (c, d) = one, other
    return _hull(a, c), _hull(b, d)


def _hull(one: Home, other: Home) -> Home:
    return torch.minimum(one[0], other[0]), torch.maximum(one[1], other[1])


def _itself(size: int) -> Home:
    at = torch.arange(size)
    return at, at


def _layout(node: fx.Node) -> PixelLayout:
    layout = info(node).layout
    assert layout is not None  # asked of what streams
    return layout


def _pixels(node: fx.Node) -> tuple[int, int]:
    _, height, width = _layout(node).extent(shape_of(node))
    return height, width
