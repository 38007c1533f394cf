"""Cameras that share a network converted for a batch: computed together, each a stream of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.fleets import (
    PREPROCESS,
    SIZE,
    assert_all_counted,
    clip,
    collecting,
    network,
    straight,
    until,
)
from tests.support.scripted_source import ScriptedSource
from videoeff import Fleet
from videoeff.errors import FleetError


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_each_seat_is_a_stream_of_its_own(threshold: float) -> None:
    batch, single = network(4, threshold=threshold), network(threshold=threshold)
    clips = {f"cam{i}": clip(i, 5 + 2 * i) for i in range(6)}  # two batches; clips of unequal lengths
    with collecting() as (found, collect), Fleet(batch, workers=2) as fleet:
        for name, frames in clips.items():
            fleet.add(name, ScriptedSource(frames), on_output=collect)
        assert len({id(lane) for lane in fleet._lanes.values()}) == 2
        assert fleet.wait(60)
        for name, frames in clips.items():
            assert [o.number for o in found[name]] == list(range(len(frames)))
            for output, expected in zip(found[name], straight(single, frames), strict=True):
                torch.testing.assert_close(output.outputs, expected, rtol=1e-5, atol=1e-5)
            assert_all_counted(fleet[name].status())
            assert fleet[name].status().batch == 4


def test_a_camera_without_a_new_picture_costs_nothing_and_stays() -> None:
    stream = network(2)
    with collecting() as (found, collect), Fleet(stream, workers=1) as fleet:
        moving, still = ScriptedSource(), ScriptedSource()
        fleet.add("moving", moving, on_output=collect)
        fleet.add("still", still, on_output=collect)
        frames, other = clip(0, 6), clip(1, 2)
        still.give(other[0])
        until(lambda: len(found["still"]) == 1)
        for i, frame in enumerate(frames):
            moving.give(frame)
            until(lambda i=i: len(found["moving"]) == i + 1)  # type: ignore[misc]
        still.give(other[1])
        until(lambda: len(found["still"]) == 2)
    single = network()
    for name, expected in {"moving": frames, "still": other}.items():
        for output, wanted in zip(found[name], straight(single, expected), strict=True):
            torch.testing.assert_close(output.outputs, wanted, rtol=1e-5, atol=1e-5)


def test_a_seat_begins_anew_with_its_next_camera() -> None:
    stream = network(2, threshold=0.3)
    with collecting() as (found, collect), Fleet(stream, workers=1) as fleet:
        fleet.add("first", ScriptedSource(clip(0, 4)), on_output=collect)
        fleet.add("stays", ScriptedSource(clip(1, 1)), on_output=collect)
        assert fleet.wait(60)
        fleet.remove("first")
        frames = clip(0, 4)[::-1]
        fleet.add("next", ScriptedSource(frames), on_output=collect)
        assert len({id(lane) for lane in fleet._lanes.values()}) == 1
        assert fleet.wait(60)
    for output, expected in zip(found["next"], straight(network(threshold=0.3), frames), strict=True):
        torch.testing.assert_close(output.outputs, expected, rtol=1e-5, atol=1e-5)


def test_cameras_of_other_settings_sit_elsewhere() -> None:
    with Fleet(network(4), workers=1) as fleet:
        fleet.add("a", ScriptedSource())
        fleet.add("b", ScriptedSource(), threshold=0.2)
        fleet.add("c", ScriptedSource())
        lanes = fleet._lanes
        assert lanes["a"] is lanes["c"] is not lanes["b"]
        for name in "abc":
            fleet.remove(name)
        assert not any(fleet._shared.values())


class _Summed(nn.Module):
    """Returns one number for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.conv(x).sum(dim=(0, 2, 3))
        return summed


def test_outputs_that_cannot_be_told_apart_are_refused() -> None:
    stream = videoeff.convert(_Summed().eval(), torch.rand(3, 3, *SIZE))
    stream.extra["preprocess"] = PREPROCESS.to_json()
    with Fleet(stream, workers=1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source)
        source.give(clip(0, 1)[0])
        until(lambda: camera.status().refused == 1)
        assert "cannot be told apart by camera" in camera.status().why


def test_states_of_a_batch_are_not_kept_camera_by_camera(tmp_path: Path) -> None:
    with Fleet(network(2), workers=1, keep=tmp_path) as fleet:
        fleet.add("cam", ScriptedSource(clip(0, 1)))
        assert fleet.wait(60)
        with pytest.raises(FleetError, match="shares a batch of 2"):
            fleet.save("cam", tmp_path / "state")
    assert not list(tmp_path.iterdir())
