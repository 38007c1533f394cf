"""Parts of a real clip as arrays of preprocessed frames, which every process maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
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
    preprocess: Preprocess,
    first: int,
    count: int,
    note: Callable[[str], None] = lambda _: None,
) -> int:
    """Write frames ``first`` to ``first + count - 1``, preprocessed, (N, C, H, W); how many there were.

    Args:
        clip: the clip.
        target: file to write, ``.npy``.
        preprocess: what the model is fed.
        first: number of the first frame.
        count: how many at most.
        note: told what the clip lacks.

    Raises:
        VideoError: the clip cannot be read, has fewer than two frames there, or all of a frame becomes one
            value.
    """
    with open_clip(clip, frames=first + count, alpha=preprocess.channels == 4) as source:
        kept = list(itertools.islice(source, first, None))
        if source.truncated:
            note(f"the clip ends early: {source.truncated}")
        if source.lost or source.damaged:
            note(f"of the clip {source.lost} frame(s) are lost and {source.damaged} are made up in part")
    if len(kept) < 2:
        raise VideoError(
            f"{clip}: has {len(kept)} frame(s) from frame {first} on; two are needed, start earlier"
        )
    save_frames(kept, target, preprocess)
    return len(kept)


def write_calibration(
    clip: str | Path,
    target: Path,
    preprocess: Preprocess,
    first: int,
    count: int,
    most: int = 100,
) -> int:
    """Write up to ``most`` frames, evenly spread over the clip, that are not among those of a measurement.

    Args:
        clip: the clip.
        target: file to write, ``.npy``.
        preprocess: what the model is fed.
        first: first frame of the measurement.
        count: frames of the measurement; :data:`MARGIN` frames on both sides are left out too.
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
    with open_clip(clip, frames=max(chosen) + 1, alpha=preprocess.channels == 4) as source:
        kept = [frame for index, frame in enumerate(source) if index in chosen]
    save_frames(kept, target, preprocess)
    return len(kept)


def save_frames(frames: Iterable[Frame], target: Path, preprocess: Preprocess) -> None:
    """Write frames (H, W, 3), uint8 RGB, preprocessed as one array (N, C, H, W).

    Raises:
        VideoError: all of a frame becomes one value.
    """
    pictures: list[Frame] = list(frames)
    array: NDArray[Any] | None = None
    for index, picture in enumerate(pictures):
        one = preprocess(picture)[0].numpy()
        if one.min() == one.max() and picture.min() != picture.max():
            raise VideoError(f"every value of frame {index} becomes {one.min():g}: {preprocess}")
        if array is None:
            array = np.lib.format.open_memmap(
                target, mode="w+", dtype=one.dtype, shape=(len(pictures), *one.shape)
            )
        array[index] = one
