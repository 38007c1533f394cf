"""Parts of a real clip as arrays of preprocessed frames, which every process maps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

#: Frames beside the measured ones that are too like them to calibrate on.
MARGIN = 10

Frame = NDArray[np.uint8]


def write_frames(
    clip: str | Path,
    target: Path,
    size: tuple[int, int],
    first: int,
    count: int,
    bgr: bool,
    scale: float = 1 / 255,
) -> int:
    """Write frames ``first`` to ``first + count - 1``, (N, 3, H, W) float32; how many there were.

    Raises:
        VideoError: the clip cannot be read, or has fewer than two frames there.
    """
    with open_clip(clip, frames=first + count) as source:
        kept = list(itertools.islice(source, first, None))
    if len(kept) < 2:
        raise VideoError(
            f"{clip}: has {len(kept)} frame(s) from frame {first} on; two are needed, start earlier"
        )
    save_frames(kept, target, Preprocess(size=size, bgr=bgr, scale=scale))
    return len(kept)


def write_calibration(
    clip: str | Path,
    target: Path,
    size: tuple[int, int],
    first: int,
    count: int,
    bgr: bool,
    scale: float = 1 / 255,
    most: int = 100,
) -> int:
    """Write up to ``most`` frames, evenly spread over the clip, that are not among those of a measurement.

    Args:
        clip: the clip.
        target: file to write, ``.npy``.
        size: of the frames.
        first: first frame of the measurement.
        count: frames of the measurement; :data:`MARGIN` frames on both sides are left out too.
        bgr: blue first.
        scale: factor of the grey levels.
        most: how many at most.

    Returns:
        How many were written; none, and no file, where the clip has no others.

    Raises:
        VideoError: the clip cannot be read.
    """
    with open_clip(clip) as source:
        total = source.frame_count
    if total is None:
        with open_clip(clip) as source:
            total = sum(1 for _ in source)
    others = [i for i in range(total) if not first - MARGIN <= i < first + count + MARGIN]
    chosen = {others[i * len(others) // most] for i in range(most)} if len(others) > most else set(others)
    if not chosen:
        return 0
    with open_clip(clip, frames=max(chosen) + 1) as source:
        kept = [frame for index, frame in enumerate(source) if index in chosen]
    save_frames(kept, target, Preprocess(size=size, bgr=bgr, scale=scale))
    return len(kept)


def save_frames(frames: Iterable[Frame], target: Path, preprocess: Preprocess) -> None:
    """Write frames (H, W, 3), uint8 RGB, preprocessed as one array (N, 3, H, W)."""
    pictures: list[Frame] = list(frames)
    array: NDArray[Any] | None = None
    for index, picture in enumerate(pictures):
        one = preprocess(picture)[0].numpy()
        if array is None:
            array = np.lib.format.open_memmap(
                target, mode="w+", dtype=one.dtype, shape=(len(pictures), *one.shape)
            )
        array[index] = one
