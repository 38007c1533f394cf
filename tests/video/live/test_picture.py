"""Pixels are converted when they are asked for, once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import MATRICES, STORED, Frame, corners, matrix_of, numbered, write
from videoeff.errors import VideoError
from videoeff.video.clip import Decoded
from videoeff.video.live import Picture, open_source
from videoeff.video.source import open_clip


def of(decoded: Decoded) -> Picture:
    return Picture.of(decoded, number=3, time=0.5, arrived=1.0, wall=2.0)


def test_pixels_are_converted_once_whoever_asks() -> None:
    calls: list[int] = []

    def convert() -> Frame:
        calls.append(1)
        return numbered(len(calls))

    picture = of(Decoded((48, 64), convert))
    assert calls == []
    assert (picture.number, picture.time, picture.arrived, picture.wall) == (3, 0.5, 1.0, 2.0)
    found: list[Frame] = []
    threads = [threading.Thread(target=lambda: found.append(picture.frame)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert all(frame is found[0] for frame in found)
    with pytest.raises(AttributeError):
        picture.number = 4  # type: ignore[misc]
    assert picture != of(Decoded((48, 64), convert))


def test_pixels_that_cannot_be_converted() -> None:
    def fails() -> Frame:
        raise VideoError("no")

    picture = of(Decoded((1, 1), fails))
    for _ in range(2):
        with pytest.raises(VideoError, match="no"):
            _ = picture.frame


@pytest.mark.parametrize("exif", sorted(MATRICES))
def test_pictures_are_turned_as_the_file_says(tmp_path: Path, exif: int) -> None:
    seen = corners()
    path = write(tmp_path / "a.mp4", [STORED[exif](seen)] * 3, matrix=matrix_of(exif))
    with open_source(path) as source:
        pictures = list(source)
    assert len(pictures) == 3
    for picture in pictures:  # the container is closed by now
        assert picture.size == seen.shape[:2] == picture.frame.shape[:2]
        assert np.abs(picture.frame.astype(int) - seen).mean() < 6


def test_pixels_are_those_of_a_clip(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8) for i in range(12)]
    for suffix, b_frames in (("mp4", 2), ("mkv", 0), ("avi", 2)):
        path = write(tmp_path / f"a.{suffix}", noise, b_frames=b_frames)
        with open_clip(path) as clip:
            frames, times = [], []
            for frame in clip:
                frames.append(frame)
                times.append(clip.time)
        with open_source(path, queue=2) as source:
            pictures = list(source)
        assert len(pictures) == 12
        assert all((p.frame == frame).all() for p, frame in zip(pictures, frames, strict=True))
        assert [p.time for p in pictures] == pytest.approx(times)
