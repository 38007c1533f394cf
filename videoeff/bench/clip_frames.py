"""Parts of a real clip as arrays of preprocessed frames, which every process maps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.calibration.sample import frame_count, spread
from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

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
        count: frames of the measurement; some frames on both sides are left out too.
        most: how many at most.

    Returns:
        How many were written; none, and no file, where the clip has no others.

    Raises:
        VideoError: the clip cannot be read.
    """
    chosen = spread(frame_count(clip), first, count, most)
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
