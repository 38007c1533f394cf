"""How much of a network lies behind each map: what is still computed from it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from videoeff.analysis.regions import Region


def work_behind(regions: Sequence[Region]) -> dict[str, float]:
    """The share of the network's multiply-accumulates that is computed from each map, directly or not.

    Args:
        regions: all regions of a graph, in the order in which they are computed.

    Returns:
        By layer name, 0 for the outputs and near 1 for the frame.
    """
    total = sum(r.macs for r in regions) or 1
    place = {region.cache: number for number, region in enumerate(regions)}
    behind: dict[fx.Node, int] = {r.cache: 0 for r in regions}  # a bit for each region
    for number in reversed(range(len(regions))):
        region = regions[number]
        own = behind[region.cache] | 1 << number
        for source in region.reads:
            if source in place:
                behind[source] |= own
    macs = [r.macs for r in regions]
    return {r.name: sum(macs[i] for i in _bits(behind[r.cache])) / total for r in regions}


def _bits(mask: int) -> list[int]:
    return [i for i, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]
