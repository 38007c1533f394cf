"""The rate of a clip is the clip's, and a clip of a varying rate keeps its times when it is written."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from PIL import Image

from tests.support.clips import number_of, numbered, write
from videoeff.video.clip import stepped_over
from videoeff.video.source import ClipWriter, open_clip

#: As a phone in the dark or a recorder of a screen stamps them, in seconds.
VARYING = (0.0, 0.033, 0.066, 0.33, 0.363, 0.396, 0.66, 0.99, 1.023, 1.056, 1.089, 1.65, 1.7, 1.95, 2.4)
FRAMES = [numbered(index) for index in range(len(VARYING))]


def times_of(path: Path) -> list[tuple[int, float]]:
    """The number of each frame and when it is shown, after one pass."""
    found = []
    with open_clip(path) as clip:
        for frame in clip:
            assert clip.time is not None
            found.append((number_of(frame), clip.time))
    return found


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("b_frames", [0, 2])
def test_times_and_rate_of_a_varying_clip(tmp_path: Path, suffix: str, b_frames: int) -> None:
    path = write(tmp_path / f"a.{suffix}", FRAMES, rate=30, times=VARYING, b_frames=b_frames)
    found = times_of(path)
    assert [number for number, _ in found] == list(range(15))
    assert [time for _, time in found] == pytest.approx(VARYING, abs=2e-3)
    with open_clip(path) as clip:
        assert len(list(clip)) == 15
        assert clip.fps == pytest.approx(14 / 2.4, rel=0.01)
        assert clip.skipped == 0


@pytest.mark.parametrize("after", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("before", ["mp4", "mkv"])
def test_a_copy_plays_as_fast_as_the_clip(tmp_path: Path, before: str, after: str) -> None:
    source = write(tmp_path / f"a.{before}", FRAMES, rate=30, times=VARYING, b_frames=2)
    target = tmp_path / f"b.{after}"
    with open_clip(source) as clip, ClipWriter(target, clip.fps, clip.size) as writer:
        for frame in clip:
            writer.write(frame, clip.time)
    found = times_of(target)
    assert [number for number, _ in found] == list(range(15))
    assert [time for _, time in found] == pytest.approx(VARYING, abs=3e-3)


def test_avi_keeps_times_to_its_rate(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "b.avi", 30, (48, 64)) as writer:
        for frame, time in zip(FRAMES, VARYING, strict=True):
            writer.write(frame, time)
    found = times_of(tmp_path / "b.avi")
    assert [number for number, _ in found] == list(range(15))
    assert [time for _, time in found] == pytest.approx(VARYING, abs=1 / 30)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
@pytest.mark.parametrize("rate", [10.0, 12.5, 25.0, 30000 / 1001, 24000 / 1001, 60.0, 1.0, 0.5])
def test_a_steady_rate_stays_exact(tmp_path: Path, suffix: str, rate: float) -> None:
    """Times that a container rounded to milliseconds are set right again."""
    path = tmp_path / f"a.{suffix}"
    frames = [numbered(index) for index in range(12)]
    with ClipWriter(path, rate, (48, 64)) as writer:
        for index, frame in enumerate(frames):
            writer.write(frame, round(5 + index / rate, 3))
    with open_clip(path) as clip:
        assert clip.fps == pytest.approx(rate, rel=1e-3)
        assert len(list(clip)) == 12
        assert clip.fps == pytest.approx(rate, rel=1e-3)
        assert (clip.lost, clip.skipped, clip.truncated) == (0, 0, None)
    steps = [b - a for (_, a), (_, b) in itertools.pairwise(times_of(path))]
    assert steps == pytest.approx([1 / rate] * 11, abs=1.1e-3 if suffix == "mkv" else 1e-4)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_frames_out_of_order_have_the_times_they_are_shown_at(tmp_path: Path, suffix: str) -> None:
    frames = [numbered(index) for index in range(20)]
    path = write(tmp_path / f"a.{suffix}", frames, rate=20, b_frames=3)
    found = times_of(path)
    assert [number for number, _ in found] == list(range(20))
    assert [time for _, time in found] == pytest.approx([index / 20 for index in range(20)], abs=1e-3)


def test_times_that_repeat_or_go_back_do_not_stop_the_writer(tmp_path: Path) -> None:
    with ClipWriter(tmp_path / "a.mp4", 25, (48, 64)) as writer:
        for frame, time in zip(FRAMES, (0, 0.04, 0.04, 0.03, None, 0.2, None), strict=False):
            writer.write(frame, time)
    found = times_of(tmp_path / "a.mp4")
    assert [number for number, _ in found] == list(range(7))
    assert all(b > a for (_, a), (_, b) in itertools.pairwise(found))
    assert found[5][1] == pytest.approx(0.2, abs=1e-3)


def test_frames_that_seem_to_be_missing() -> None:
    steady = [index / 25 for index in range(30)]
    assert stepped_over(steady) == (0, True)
    assert stepped_over(steady[:7] + steady[9:]) == (2, True)
    assert stepped_over([*steady, steady[-1] + 0.06])[1] is False  # half a step
    assert stepped_over(VARYING)[1] is False
    assert stepped_over([]) == stepped_over([1.0]) == (0, False)


@pytest.mark.parametrize("count", [10, 40])
def test_stamps_that_begin_anew_count_on(tmp_path: Path, count: int) -> None:
    """Recordings put end to end: the second begins at 0 again, and an overlay of it would be a blink."""
    frames = [numbered(index) for index in range(count)]
    one = write(tmp_path / "one.ts", frames)
    both = tmp_path / "both.ts"
    both.write_bytes(2 * one.read_bytes())
    expected = [index / 25 for index in range(2 * count)]
    found = times_of(both)
    assert [time for _, time in found] == pytest.approx(expected, abs=1e-3)
    with open_clip(both) as clip, ClipWriter(tmp_path / "o.mp4", clip.fps, clip.size) as writer:
        for frame in clip:
            writer.write(frame, clip.time)
        assert clip.fps == pytest.approx(25)
    assert [time for _, time in times_of(tmp_path / "o.mp4")] == pytest.approx(expected, abs=1e-3)


def test_a_gif_keeps_its_times(tmp_path: Path) -> None:
    pictures = [Image.fromarray(numbered(index)) for index in range(4)]
    path = tmp_path / "a.gif"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40, 100, 300, 40])
    found = times_of(path)
    assert [number for number, _ in found] == [0, 1, 2, 3]
    assert [time for _, time in found] == pytest.approx([0, 0.04, 0.14, 0.44])
