"""Clips as they come: turned, of a varying rate, with lost packets. Commands go on, keep times and say so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import REFERENCE, call, call_json
from tests.support.clips import STORED, copy, corners, matrix_of, numbered, write, zeros
from videoeff.video.source import open_clip

VARYING = (0.0, 0.033, 0.066, 0.33, 0.363, 0.396, 0.66, 0.99, 1.023, 1.65)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_an_overlay_plays_as_fast_as_its_clip(artifact: Path, tmp_path: Path, suffix: str) -> None:
    """An overlay of this clip once played 2.3 times too fast."""
    frames = [numbered(index) for index in range(len(VARYING))]
    clip = write(tmp_path / f"varying.{suffix}", frames, rate=30, times=VARYING, b_frames=2)
    overlay = tmp_path / f"o.{suffix}"
    found = call_json("run", artifact, clip, "-o", overlay)
    assert found["fps"] == pytest.approx(9 / 1.65, rel=0.01)
    times = []
    with open_clip(overlay) as drawn:
        for _ in drawn:
            times.append(drawn.time)
    assert times == pytest.approx(VARYING, abs=3e-3)


def test_a_steady_clip_keeps_its_rate(artifact: Path, tmp_path: Path) -> None:
    clip = write(tmp_path / "a.mkv", [numbered(index) for index in range(12)], rate=12)
    found = call_json("run", artifact, clip, "-o", tmp_path / "o.mp4")
    assert found["fps"] == pytest.approx(12)
    with open_clip(tmp_path / "o.mp4") as drawn:
        assert drawn.fps == pytest.approx(12, rel=1e-3)


def test_lost_packets_are_passed_over_and_reported(artifact: Path, tmp_path: Path) -> None:
    """It was 9 of these 16 frames and exit status 1."""
    whole = write(tmp_path / "whole.mkv", [numbered(index) for index in range(16)])
    clip = copy(whole, tmp_path / "hurt.mkv", damage={5: zeros, 9: zeros})
    overlay = tmp_path / "o.mp4"
    result = call("run", artifact, clip, "-o", overlay)
    assert result.exit_code == 0, result.output
    assert "note: 2 packet(s) of the clip gave no frame" in result.stderr
    found = call_json("run", artifact, clip)
    assert (found["frames"], found["lost"], found["stopped"]) == (14, 2, None)
    assert found["fps"] == pytest.approx(25)
    with open_clip(overlay) as drawn:
        assert len(list(drawn)) == 14
        assert drawn.time == pytest.approx(15 / 25, abs=2e-3)
    verified = call_json("verify", artifact, clip)
    assert (verified["holds"], verified["frames"], verified["lost"]) == (True, 14, 2)


def test_frames_that_a_clip_lacks_are_noted(artifact: Path, tmp_path: Path) -> None:
    frames = [numbered(index) for index in range(24)]
    whole = write(tmp_path / "whole.mkv", frames, options={"bf": "0", "g": "1"})
    clip = copy(whole, tmp_path / "hurt.mkv", drop=[7])
    result = call("run", artifact, clip)
    assert result.exit_code == 0
    assert "note: 1 frame(s) seem to be missing from the clip" in result.stderr
    found = call_json("run", artifact, clip)
    assert (found["frames"], found["lost"], found["skipped"]) == (23, 0, 1)


def test_a_whole_clip_raises_no_note(artifact: Path, clip: Path) -> None:
    assert "note" not in call("run", artifact, clip).stderr
    found = call_json("run", artifact, clip)
    assert (found["lost"], found["damaged"], found["skipped"]) == (0, 0, 0)


@pytest.mark.parametrize("exif", [2, 6, 7])
def test_an_overlay_shows_the_clip_the_right_way_round(artifact: Path, tmp_path: Path, exif: int) -> None:
    seen = corners((64, 96))
    clip = write(tmp_path / "turned.mp4", [STORED[exif](seen)] * 4, matrix=matrix_of(exif))
    call_json("run", artifact, clip, "-o", tmp_path / "o.mp4", "--no-heat")
    with open_clip(tmp_path / "o.mp4") as drawn:
        assert drawn.size == (64, 96)
        assert np.abs(next(iter(drawn)).astype(int) - seen).mean() < 6


def test_frames_that_lie_on_their_side_are_noted(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    """Whoever writes the width first gets a picture that no network was trained on."""
    options = ("--model", REFERENCE, "--input-size", 48, 32)
    call_json("convert", checkpoint, *options, "-o", tmp_path / "a.veff")
    for command in ("run", "verify"):
        words = call(command, tmp_path / "a.veff", clip).stderr
        assert (
            "frames of 64x96 (height x width) are stretched to 48x32; --input-size takes the height" in words
        )
    call_json("convert", checkpoint, *options, "--fit", "letterbox", "-o", tmp_path / "b.veff")
    assert "note" not in call("run", tmp_path / "b.veff", clip).stderr
