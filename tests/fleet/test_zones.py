"""Zones of a camera: what moves outside of them is not seen, wherever the frame lies in the input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.fleets import PREPROCESS, clip, collecting, network, straight, until
from tests.support.scripted_source import Frame, ScriptedSource
from videoeff import Fleet
from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.zones import Zones

#: The square of the clips moves in rows 4 to 9 of 24.
ABOVE = Zones(ignore=(((0, 0), (1, 0), (1, 0.5), (0, 0.5)),))
BELOW = Zones(ignore=(((0, 0.5), (1, 0.5), (1, 1), (0, 1)),))


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_zones_are_of_the_frame(fit: str) -> None:
    stream = network()
    boxed = Preprocess((24, 32), fit=fit)
    frames = clip(0, 6, (24, 64))
    with collecting() as (found, collect), Fleet(stream, workers=2) as fleet:
        for name, zones in {"above": ABOVE, "below": BELOW, "none": None}.items():
            source = ScriptedSource(frames)
            fleet.add(name, source, zones=zones, preprocess=boxed, on_output=collect)
        assert fleet.wait(60)
        shares = {name: fleet[name].status().work_share for name in fleet}
    for before, after in zip(found["below"], found["none"], strict=True):
        torch.testing.assert_close(before.outputs, after.outputs)
    assert all(torch.equal(o.outputs, found["above"][0].outputs) for o in found["above"])
    assert shares["above"] == 0
    assert shares["below"] == shares["none"] != 0


def test_zones_go_on_after_an_eviction_and_with_another_size(tmp_path: Path) -> None:
    stream, boxed = network(), Preprocess((24, 32), fit="letterbox")
    with Fleet(stream, workers=1, keep=tmp_path, evict_after=0.2) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source, zones=ABOVE, preprocess=boxed)
        given = 0

        def show(frame: Frame) -> torch.Tensor:
            nonlocal given
            source.give(frame)
            given += 1
            until(lambda: camera.status().frames == given)
            assert camera.latest is not None
            found: torch.Tensor = camera.latest.outputs
            return found

        for size in ((24, 64), (24, 64), (48, 64)):
            frames = clip(1, 3, size)
            expected = [show(frame) for frame in frames][-1]
            dark = frames[-1].copy()
            dark[: size[0] // 2 - 4] = 0  # resizing looks a few rows beyond the zone
            torch.testing.assert_close(show(dark), expected)
            until(lambda: camera.status().evicted)


def test_a_batch_has_zones_of_its_own() -> None:
    frames = clip(0, 5)
    with collecting() as (found, collect), Fleet(network(2), workers=1) as fleet:
        for name, zones in {"a": ABOVE, "b": None, "c": ABOVE}.items():
            fleet.add(name, ScriptedSource(frames), zones=zones, on_output=collect)
        lanes = fleet._lanes
        assert lanes["a"] is lanes["c"] is not lanes["b"]
        assert fleet.wait(60)
    for output, expected in zip(found["b"], straight(network(), frames), strict=True):
        torch.testing.assert_close(output.outputs, expected, rtol=1e-5, atol=1e-5)
    for name in "ac":
        assert all(torch.equal(o.outputs, found[name][0].outputs) for o in found[name])


def test_zones_that_leave_nothing_are_refused() -> None:
    whole = Zones(ignore=(((0, 0), (1, 0), (1, 1), (0, 1)),))
    source = ScriptedSource()
    with Fleet(network(), workers=1) as fleet:
        with pytest.raises(VideoError, match="watch"):
            fleet.add("cam", source, zones=whole, preprocess=PREPROCESS)
        assert "cam" not in fleet
