"""Steps that the graph may run side by side touch nothing of each other's."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.cuda.compare import passes, squares
from tests.cuda.nets import NETS, build
from tests.cuda.test_order import ordered
from tests.nets import conv
from tests.support import stream_of
from videoeff.testing import poison

SHAPE = (2, 3, 13, 18)


class Branches(nn.Module):
    """Two resolutions that go on side by side, exchange what they found, and end in one concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, width, 3, 2)
        self.fine, self.coarse = conv(width, width), conv(width, 2 * width, 3, 2)
        self.far, self.up = conv(2 * width, 2 * width), nn.Conv2d(2 * width, width, 1)
        self.down, self.last = conv(width, 2 * width, 3, 2), nn.Conv2d(3 * width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        fine, coarse = F.relu(self.fine(x)), F.relu(self.coarse(x))
        coarse = F.relu(self.far(coarse))
        up = F.interpolate(self.up(coarse), fine.shape[2:], mode="nearest")
        fine, coarse = F.relu(fine + up), F.relu(coarse + self.down(fine))
        return self.last(torch.cat([fine, F.interpolate(coarse, fine.shape[2:], mode="nearest")], 1))


def network(name: str) -> nn.Module:
    torch.manual_seed(3)
    return Branches().eval() if name == "branches" else build(name, torch.device("cpu"))


def plan_of(stream: Any) -> Any:
    (engine,) = stream.engines.values()
    (plan,) = engine.plan.groups
    return plan


@pytest.mark.parametrize(
    ("name", "how"),
    [(n, h) for n in (*NETS, "branches") for h in ("exact", "relative")]
    + [("residual", "predicted"), ("gates", "blocks"), ("branches", "predicted"), ("branches", "rms")],
)
def test_steps_side_by_side_share_nothing(name: str, how: str) -> None:
    """As measured: what each launch of a frame read and wrote."""
    from tests.cuda.interpreted.shadow import conflicts
    from tests.cuda.interpreted.watch import watched

    frames = list(squares(3, SHAPE, torch.device("cpu")))
    stream = stream_of(network(name), frames[0], passes=passes(how), backend="triton")
    poison(stream)
    stream(frames[0])
    plan = plan_of(stream)
    earlier = ordered(plan.slots)
    pairs = shared = 0
    for frame in frames[1:]:
        with watched() as watch:
            stream(frame)
        assert [f.launch.step for f in watch.frames] == [launch.step for launch in plan.launches]
        for one, other in combinations(watch.frames, 2):
            if one.launch.step in earlier[other.launch.step] | {other.launch.step}:
                shared += conflicts(one, other)
                continue
            pairs += 1
            assert not conflicts(one, other), (one.launch, other.launch)
    assert shared > 0  # a step does follow from the one before it
    assert pairs > 0 or name in ("gates", "residual")  # which are chains


def test_branches_run_side_by_side() -> None:
    """And with one lane, nothing does."""
    stream = stream_of(network("branches"), torch.rand(SHAPE), backend="triton")
    stream(torch.rand(SHAPE))
    plan = plan_of(stream)
    lanes = {slot.lane for slot in plan.slots}
    assert len(lanes) > 1
    assert any(slot.waits for slot in plan.slots)
    plan.release()
    plan.lanes = 1
    stream(torch.rand(SHAPE))
    assert {slot.lane for slot in plan.slots} == {0}
