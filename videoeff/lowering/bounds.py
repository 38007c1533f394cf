"""The bounded reach of a plan's regions: what is near, and who is refreshed when."""

from __future__ import annotations

from collections.abc import Sequence

from videoeff.analysis.regions import Region
from videoeff.analysis.vicinity import placed
from videoeff.ir.layout import streamed_info
from videoeff.ir.markers import cache_option
from videoeff.kernels.call import Bound, Vicinity
from videoeff.ops.home import Near

#: The state that counts frames.
PHASE = "refresh.phase"


def bounds_of(found: Sequence[Region]) -> dict[str, Bound]:
    """The bounds of the regions that have one and can be placed over the frame, by layer name.

    The refresh sweeps over the regions in the order in which they are computed, and over the rows of each, so
    that what it brings up to date in one region it meets again in those after it. One sweep over a picture at
    rest, from its beginning, makes everything exact. It takes half of the frames that are allowed, since
    the picture may come to rest in the middle of one.
    """
    asked = [r for r in found if cache_option(r.cache, "within") is not None]
    if not asked:
        return {}
    places = placed(found)
    asked = [r for r in asked if r.name in places.homes]
    shared: dict[object, Vicinity] = {}
    sweeps = _sweeps(asked)
    bounds: dict[str, Bound] = {}
    for region in asked:
        value = streamed_info(region.cache)
        extent = value.layout.extent(value.shape)
        near = places.near(region.name, float(cache_option(region.cache, "within")))
        key = (extent, tuple(_bytes(n) for n in near))
        vicinity = shared.setdefault(key, Vicinity(f"vicinity{len(shared)}", extent, near))
        bounds[region.name] = Bound(vicinity, f"{region.name}.deferred", PHASE, sweeps.get(region.name, ()))
    return bounds


def sweep_length(refresh: int) -> int:
    """Frames of a sweep, so that any ``refresh`` frames hold a whole one."""
    return (refresh + 1) // 2


def _bytes(near: Near) -> tuple[object, ...]:
    places = (*(near.rows or ()), *(near.columns or ()))
    return (near.layer, *(p.numpy().tobytes() for p in places))


def _sweeps(asked: Sequence[Region]) -> dict[str, tuple[int, ...]]:
    """For each region the rows at which each frame of a sweep begins, and the last one ends.

    Every frame gets an equal share of the work. Regions with another refresh are swept in their own time.
    """
    sweeps: dict[str, tuple[int, ...]] = {}
    lengths = {int(cache_option(r.cache, "refresh")) for r in asked} - {0}
    for refresh in lengths:
        mine = [r for r in asked if cache_option(r.cache, "refresh") == refresh]
        frames, work = sweep_length(refresh), [_work(r) for r in mine]
        total, begin = sum(work), 0
        for region, share in zip(mine, work, strict=True):
            height = _height(region)
            places = (frame * total / frames - begin for frame in range(frames + 1))
            sweeps[region.name] = tuple(min(max(int(p * height / share), 0), height) for p in places)
            begin += share
    return sweeps


def _work(region: Region) -> int:
    value = streamed_info(region.cache)
    rows, height, width = value.layout.extent(value.shape)
    return region.macs + rows * height * width


def _height(region: Region) -> int:
    value = streamed_info(region.cache)
    return value.layout.extent(value.shape)[1]
