"""Files and folders as sources: whole, at their rate, over and over, damaged."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cameras import check_order, until
from tests.support.clips import copy, number_of, numbered, write, zeros
from videoeff.errors import VideoError
from videoeff.video.live import Counters, Source, open_source

FRAMES = [numbered(index) for index in range(12)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write(tmp_path / "a.mp4", FRAMES)


def test_every_picture_of_a_file_comes(clip: Path) -> None:
    states: list[tuple[str, str]] = []
    source = open_source(clip, queue=2)
    assert isinstance(source, Source)
    assert (source.state, source.address, source.network) == ("connecting", str(clip), False)
    source.when_ready(lambda: states.append((source.state, source.why)))
    with source:
        pictures = list(source)
        assert (source.state, source.why) == ("ended", "it came to its end")
        assert source.take(None) is None
        assert source.counters == Counters(decoded=12, delivered=12, connections=1)
    assert [number_of(p.frame) for p in pictures] == [p.number for p in pictures] == list(range(12))
    assert [p.time for p in pictures] == pytest.approx([i / 25 for i in range(12)])
    assert states[0] == ("live", "")
    assert states[-2:] == [("ended", "it came to its end"), ("closed", "")]
    assert len(states) == 15


def test_the_decoder_waits_for_the_consumer(clip: Path) -> None:
    with open_source(clip, queue=2) as source:
        until(lambda: source.counters.decoded == 3)
        assert source.waiting() == 2
        assert len(list(source)) == 12


def test_the_newest_picture_of_a_file(clip: Path) -> None:
    with open_source(clip, policy="latest") as source:
        until(lambda: source.state == "ended")
        assert [p.number for p in source] == [11]
        assert source.counters == Counters(decoded=12, delivered=1, late=11, connections=1)


def test_a_file_over_and_over(clip: Path) -> None:
    with open_source(clip, loop=True, frames=30) as source:
        pictures = list(source)
        assert source.why == "the 30 pictures asked for have come"
    assert [number_of(p.frame) for p in pictures] == [i % 12 for i in range(30)]
    assert [p.number for p in pictures] == list(range(30))
    assert [p.time for p in pictures] == pytest.approx([i / 25 for i in range(30)])


def test_a_file_at_its_own_rate(tmp_path: Path) -> None:
    """On one schedule, over passes too: what is late does not add up."""
    times = (0.0, 0.04, 0.08, 0.3, 0.34)
    path = write(tmp_path / "a.mkv", FRAMES[:5], times=times)
    with open_source(path, pace=True, loop=True, frames=9) as source:
        pictures = list(source)
    check_order(pictures)
    for picture in pictures:
        assert picture.time is not None
        assert picture.arrived - pictures[0].arrived > picture.time - 0.02
    assert pictures[4].time == pytest.approx(0.34)


def test_a_folder_has_no_times(tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(FRAMES[index]).save(tmp_path / f"{index}.png")
    with open_source(tmp_path, pace=True) as source:
        pictures = list(source)
    assert [p.time for p in pictures] == [None] * 4
    assert pictures[-1].arrived - pictures[0].arrived > 3 / 25 - 0.02
    assert all((p.frame == frame).all() for p, frame in zip(pictures, FRAMES, strict=False))
    assert pictures[0].size == (48, 64)


def test_damage_is_counted_in_every_pass(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mkv", FRAMES, options={"bf": "0", "qp": "10", "g": "1"})
    path = copy(whole, tmp_path / "hurt.mkv", damage={5: zeros})
    with open_source(path) as source:
        assert [number_of(p.frame) for p in source] == [i for i in range(12) if i != 5]
        assert source.counters.refused == 1
    with open_source(path, loop=True, frames=22) as source:
        assert len(list(source)) == 22
        assert source.counters.refused == 2
    noise = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(8)]
    torn = write(tmp_path / "torn.avi", noise, codec="mpeg4", options={})
    torn = copy(torn, tmp_path / "half.avi", damage={5: lambda data: data[: len(data) // 2]})
    with open_source(torn) as source:
        assert len(list(source)) == 8
        assert source.counters.damaged == 1


def test_a_file_that_is_cut_off_says_so(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.mkv", FRAMES * 4).read_bytes()
    path = tmp_path / "cut.mkv"
    path.write_bytes(whole[: len(whole) // 2])
    with open_source(path) as source:
        assert 0 < len(list(source)) < 48
        assert source.state == "ended"
        assert source.why.startswith("it ends early: ")


def test_a_file_whose_size_changes_goes_on(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{i}.ts", [numbered(8 * i + k, size) for k in range(8)]).read_bytes()
        for i, size in enumerate([(48, 64), (64, 96)])
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(parts))
    with open_source(path) as source:
        pictures = list(source)
        assert source.counters.resized == 1
    assert [number_of(p.frame) for p in pictures] == list(range(16))
    assert [p.size for p in pictures] == [(48, 64)] * 8 + [(64, 96)] * 8
    check_order(pictures)


def test_closing_while_the_decoder_waits(clip: Path) -> None:
    before = threading.active_count()
    source = open_source(clip, queue=1)
    source.close()  # before it was started
    with pytest.raises(VideoError, match="is closed; open it again"):
        source.start()
    assert source.take(None) is None
    with open_source(clip, queue=1, pace=True, loop=True) as source:
        assert source.take(None) is not None
    source.close()
    assert source.state == "closed"
    with open_source(clip, queue=1) as source:
        until(lambda: source.counters.decoded == 2)
    until(lambda: threading.active_count() <= before)


def test_a_call_may_close_its_source(clip: Path) -> None:
    source = open_source(clip)
    seen: list[str] = []

    def close() -> None:
        seen.append(source.state)
        source.close()

    source.when_ready(close)
    source.start()
    until(lambda: seen[-1:] == ["closed"])
    assert source.take(None) is None
    assert source.state == "closed"


def test_a_file_that_goes_away_ends_its_loop(clip: Path) -> None:
    with open_source(clip, loop=True, queue=1) as source:
        assert source.take(None) is not None
        clip.unlink()
        assert len(list(source)) < 24
        assert source.state == "ended"
        assert "not a video" in source.why
