"""The sweep of the refresh: every row once, in the order of the layers, in equal shares."""

from __future__ import annotations

import pytest
import torch

from tests.support.nets import ZOO, network
from tests.support.streams import captured, planned
from videoeff.analysis.regions import regions
from videoeff.lowering.bounds import bounds_of, sweep_length
from videoeff.passes.bound_reach import BoundReach


@pytest.mark.parametrize("refresh", [1, 2, 7, 64])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_sweep_takes_every_row_once(name: str, refresh: int) -> None:
    spec = ZOO[name]
    program = planned(captured(network(spec, torch.float32), *(torch.rand(s) for s in spec.shapes)))
    found = regions(BoundReach(0, refresh).run(program).program)
    bounds, frames = bounds_of(found), sweep_length(refresh)
    assert bounds
    heights = {r.name: bounds[r.name].vicinity.extent[1] for r in found if r.name in bounds}
    turns: list[tuple[int, int]] = []  # (frame, layer) of every row
    for index, (layer, height) in enumerate(heights.items()):
        sweep = bounds[layer].sweep
        assert len(sweep) == frames + 1
        assert (sweep[0], sweep[-1]) == (0, height)
        assert list(sweep) == sorted(sweep)
        turns += [(frame, index) for frame in range(frames) for _ in range(sweep[frame], sweep[frame + 1])]
    layers = [layer for _, layer in sorted(turns)]
    assert layers == sorted(layers), "a layer waits until those before it are done"


def test_any_so_many_frames_hold_a_whole_sweep() -> None:
    for refresh in range(1, 70):
        length = sweep_length(refresh)
        assert 2 * length - 1 <= refresh


def test_layers_with_the_same_bound_share_what_is_near() -> None:
    spec = ZOO["plain"]
    program = planned(captured(network(spec, torch.float32), *(torch.rand(s) for s in spec.shapes)))
    bounds = bounds_of(regions(BoundReach(3).run(program).program))
    extents = {b.vicinity.extent for b in bounds.values()}
    assert len({b.vicinity.name for b in bounds.values()}) == len(extents) < len(bounds)


def test_without_a_bound_there_is_nothing() -> None:
    spec = ZOO["plain"]
    program = planned(captured(network(spec, torch.float32), *(torch.rand(s) for s in spec.shapes)))
    assert bounds_of(regions(program)) == {}
