"""bound-reach: which caches it bounds, what it declines, and its options."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import ZOO, network
from tests.support.streams import captured, planned
from videoeff.analysis.behind import work_behind
from videoeff.analysis.regions import regions
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.markers import cache_name, cache_option
from videoeff.ir.program import Program
from videoeff.passes import parse_passes, run_passes
from videoeff.passes.bound_reach import BoundReach


def bounds(program: Program) -> dict[str, tuple[float | None, int]]:
    """(within, refresh) by layer name."""
    return {
        cache_name(c): (cache_option(c, "within"), cache_option(c, "refresh")) for c in edit.caches(program)
    }


def plain() -> Program:
    spec = ZOO["plain"]
    return planned(captured(network(spec, torch.float32), *(torch.rand(s) for s in spec.shapes)))


def test_maps_are_bounded_and_frames_are_not() -> None:
    program = plain()
    found = bounds(BoundReach(4, 10).run(program).program)
    kinds = {cache_name(c): cache_option(c, "kind") for c in edit.caches(program)}
    assert {n: b == (4.0, 10) for n, b in found.items()} == {n: k == "map" for n, k in kinds.items()}


def test_a_pattern_chooses_layers() -> None:
    program = BoundReach(4).run(plain()).program
    names = [n for n, (within, _) in bounds(program).items() if within is not None]
    found = bounds(BoundReach(0, 5, names[-1]).run(program).program)
    assert found[names[-1]] == (0.0, 5)
    assert all(found[n] == (4.0, 64) for n in names[:-1])


def test_the_last_layers() -> None:
    """Those with at most a share of the work behind them; the others keep the bound they have."""
    program = BoundReach(0).run(plain()).program
    behind = work_behind(regions(program))
    cut = sorted(behind.values())[len(behind) // 2]
    found = bounds(BoundReach(16, 5, last=cut).run(program).program)
    maps = [n for n, (within, _) in bounds(program).items() if within is not None]
    assert {found[n] for n in maps if behind[n] <= cut} == {(16.0, 5)}
    assert {found[n] for n in maps if behind[n] > cut} == {(0.0, 64)}
    taken = bounds(BoundReach(math.inf, last=0.0).run(program).program)
    assert [n for n in maps if taken[n] == (None, 0)] == [n for n in maps if behind[n] == 0]


def test_no_bound_takes_it_away() -> None:
    bounded = BoundReach(4).run(plain()).program
    result = BoundReach(math.inf).run(bounded)
    assert result.changed
    assert set(bounds(result.program).values()) == {(None, 0)}
    assert not BoundReach(math.inf).run(plain()).changed


def test_what_is_computed_anew_is_left_to_its_reader() -> None:
    spec = ZOO["inverted"]
    program = captured(network(spec, torch.float32), *(torch.rand(s) for s in spec.shapes))
    program = run_passes(planned(program, "delta"), parse_passes("recompute-expansions{least=0}"))
    marked = {cache_name(c) for c in edit.caches(program) if cache_option(c, "recompute")}
    assert marked
    found = bounds(BoundReach(4).run(program).program)
    assert all(found[n] == (None, 0) for n in marked)


class Turned(nn.Module):
    """Joins a map with itself beside it, so that pixels of the frame are in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        out: Tensor = self.second(torch.cat([y, y], 3))
        return out


def test_a_map_that_cannot_be_placed_is_told() -> None:
    result = BoundReach(4).run(planned(captured(Turned(), torch.rand(1, 3, 8, 10))))
    assert bounds(result.program)["first"] == (4.0, 64)
    assert bounds(result.program)["second"] == (None, 0)
    assert any(
        n.startswith("second: its reach is not bounded: ") and "moves pixels" in n for n in result.notes
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bound-reach{pixels=-1}", "pixels=-1.0: give a number of pixels, 0 or more"),
        ("bound-reach{pixels=nan}", "pixels=nan: give a number of pixels, 0 or more"),
        ("bound-reach{last=1.5}", "last=1.5: give a share of the work, 0 to 1"),
        ("bound-reach{last=nan}", "last=nan: give a share of the work, 0 to 1"),
        ("bound-reach{refresh=-2}", "refresh=-2: give a whole number of frames, 0 or more"),
    ],
)
def test_wrong_options(text: str, message: str) -> None:
    with pytest.raises(PassError, match=message.replace(".", r"\.")):
        run_passes(plain(), parse_passes(text))


def test_text() -> None:
    for bound in (BoundReach(), BoundReach(0, 1), BoundReach(2.5, 0, "layer4.*", 0.3)):
        assert parse_passes(str(bound)) == (bound,)
