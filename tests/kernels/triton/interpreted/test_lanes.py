"""Steps that the graph may run side by side touch nothing of each other's."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from tests.support.streams import stream_of
from tests.support.triton.compare import passes, squares
from tests.support.triton.nets import NETS, build
from tests.support.triton.order import ordered
from videoeff.testing import poison

SHAPE = (2, 3, 13, 18)
CPU = torch.device("cpu")


def plan_of(stream: Any) -> Any:
    (engine,) = stream.engines.values()
    (plan,) = engine.plan.groups
    return plan


@pytest.mark.parametrize(
    ("name", "how"),
    [(n, h) for n in (*NETS, "branches") for h in ("exact", "relative")]
    + [("residual", "predicted"), ("gates", "blocks"), ("branches", "predicted"), ("branches", "rms")]
    + [(n, "bounded-relative") for n in (*NETS, "branches")]
    + [("branches", "bounded-predicted")],
)
def test_steps_side_by_side_share_nothing(name: str, how: str) -> None:
    """As measured: what each launch of a frame read and wrote."""
    from tests.support.triton.shadow import conflicts
    from tests.support.triton.watch import watched

    frames = list(squares(3, SHAPE, CPU))
    stream = stream_of(build(name, CPU), frames[0], passes=passes(how), backend="triton")
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
    stream = stream_of(build("branches", CPU), torch.rand(SHAPE), backend="triton")
    stream(torch.rand(SHAPE))
    plan = plan_of(stream)
    lanes = {slot.lane for slot in plan.slots}
    assert len(lanes) > 1
    assert any(slot.waits for slot in plan.slots)
    plan.release()
    plan.lanes = 1
    stream(torch.rand(SHAPE))
    assert {slot.lane for slot in plan.slots} == {0}
