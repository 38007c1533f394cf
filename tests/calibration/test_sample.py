"""Which frames of a clip are calibrated on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videoeff.calibration.sample import CalibrationFrames, frame_count, spread


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, each of its number's grey level."""
    folder = tmp_path_factory.mktemp("clip")
    for number in range(40):
        Image.fromarray(np.full((4, 6, 3), number, np.uint8)).save(folder / f"{number:02}.png")
    return folder


def levels(frames: CalibrationFrames) -> list[int]:
    found = [int(frame[0, 0, 0]) for frame in frames]
    assert len(found) == len(frames)
    return found


def test_spread() -> None:
    assert spread(100, 40, 20, 200) == {*range(30), *range(70, 100)}
    assert spread(100, 40, 20, 4) == {0, 15, 70, 85}
    assert spread(30, 0, 30, 10) == set()


def test_frames_that_are_not_judged(clip: Path) -> None:
    assert frame_count(clip) == 40
    found = CalibrationFrames(clip, 20, 5)
    assert not found.judged
    assert levels(found) == [30, 32, 34, 36, 38]
    assert levels(found) == [30, 32, 34, 36, 38]  # read anew


def test_where_all_are_judged_they_are_taken(clip: Path) -> None:
    for count in (None, 40, 32):
        found = CalibrationFrames(clip, count, 4)
        assert found.judged
        assert levels(found) == [0, 10, 20, 30]
    assert next(iter(CalibrationFrames(clip, None, 4, alpha=True))).shape == (4, 6, 4)
