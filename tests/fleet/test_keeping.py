"""States on the disk: idle cameras, pauses, other fleets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.fleets import clip, collecting, network, straight, until
from tests.support.scripted_source import ScriptedSource
from videoeff import Fleet
from videoeff.errors import ArtifactError, FleetError, StateError


def test_an_idle_camera_gives_its_memory_back_and_goes_on(tmp_path: Path) -> None:
    stream, frames = network(threshold=0.2), clip(0, 8)
    expected = straight(stream, frames)
    with collecting() as (found, collect), Fleet(stream, workers=1, keep=tmp_path, evict_after=0.2) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source, on_output=collect)
        whole = camera.status().state_bytes
        for half in (frames[:4], frames[4:]):
            before = len(found["cam"])
            for frame in half:
                source.give(frame)
            until(lambda before=before: len(found["cam"]) == before + 4)  # type: ignore[misc]
            until(lambda: camera.status().evicted)
            assert camera.status().state_bytes == 0 < whole
            assert camera.report() is None
        fleet.save("cam", tmp_path / "copy")  # also while it lies on the disk
        assert fleet.status().state_bytes == 0
    for output, wanted in zip(found["cam"], expected, strict=True):
        assert torch.equal(output.outputs, wanted)
    assert (tmp_path / "copy").stat().st_size == (tmp_path / "cam.state").stat().st_size


def test_cameras_come_back_at_once(tmp_path: Path) -> None:
    """Several workers make streams of one network at the same time."""
    with Fleet(network(), workers=4, keep=tmp_path, evict_after=0.1) as fleet:
        sources = [ScriptedSource() for _ in range(8)]
        cameras = [fleet.add(f"cam{i}", source) for i, source in enumerate(sources)]
        frames = clip(0, 2)
        for count, frame in enumerate(frames, start=1):
            for source in sources:
                source.give(frame)
            until(lambda count=count: all(c.status().frames == count for c in cameras))  # type: ignore[misc]
            until(lambda: all(c.status().evicted for c in cameras))
        assert not any(c.status().refused for c in cameras)


def test_a_camera_goes_on_in_another_fleet(tmp_path: Path) -> None:
    stream, frames = network(threshold=0.2), clip(0, 8)
    expected = straight(stream, frames)
    found = []
    for part in (frames[:4], frames[4:]):
        with collecting() as (outputs, collect), Fleet(network(threshold=0.2), keep=tmp_path) as fleet:
            fleet.add("cam", ScriptedSource(part), on_output=collect)
            assert fleet.wait(60)
        found += outputs["cam"]
    for output, wanted in zip(found, expected, strict=True):
        assert torch.equal(output.outputs, wanted)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cam.state"]


def test_states_are_copied_every_so_often(tmp_path: Path) -> None:
    with Fleet(network(), workers=1, keep=tmp_path, save_every=0.05) as fleet:
        source = ScriptedSource()
        fleet.add("cam", source)
        path = tmp_path / "cam.state"
        for frame in clip(0, 3):
            before = path.stat().st_mtime_ns if path.exists() else 0
            source.give(frame)
            until(lambda before=before: path.exists() and path.stat().st_mtime_ns > before)  # type: ignore[misc]


def test_a_state_that_does_not_fit_is_told_of_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = clip(0, 3)
    with Fleet(network(), keep=tmp_path) as fleet:
        fleet.add("cam", ScriptedSource(frames))
        assert fleet.wait(60)
        fleet.save("cam", tmp_path / "other")
    other = network(seed=7)
    with collecting() as (found, collect), Fleet(other, keep=tmp_path) as fleet:
        fleet.add("cam", ScriptedSource(frames), on_output=collect)
        assert "camera cam begins afresh" in caplog.text
        assert fleet.wait(60)
        with pytest.raises(StateError, match="other weights"):
            fleet.restore("cam", tmp_path / "other")
        (tmp_path / "other").write_bytes(b"damaged")
        with pytest.raises(ArtifactError, match="other"):
            fleet.restore("cam", tmp_path / "other")
    for output, wanted in zip(found["cam"], straight(other, frames), strict=True):
        assert torch.equal(output.outputs, wanted)


def test_a_disk_that_fails_ends_no_camera(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "states"
    with Fleet(network(), workers=1, keep=folder, evict_after=0.1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source)
        folder.rmdir()  # whatever is written there fails
        source.give(clip(0, 1)[0])
        until(lambda: "its state was not kept" in caplog.text)
        assert not camera.status().evicted
        source.give(clip(0, 1)[0])
        until(lambda: camera.status().frames == 2)


def test_folders_and_seconds_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FleetError, match="cannot keep states there"):
        Fleet(network(), keep=tmp_path / "file")
    with pytest.raises(FleetError, match="evict_after=0"):
        Fleet(network(), keep=tmp_path, evict_after=0)
