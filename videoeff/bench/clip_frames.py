"""A real clip as one array of preprocessed frames, which every process maps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip


def write_frames(
    clip: str | Path, target: Path, size: tuple[int, int], first: int, count: int, bgr: bool
) -> int:
    """Write frames ``first`` to ``first + count - 1``, (N, 3, H, W) float32 in [0, 1]; how many there were.

    Raises:
        VideoError: the clip cannot be read, or has fewer than two frames there.
    """
    preprocess = Preprocess(size=size, bgr=bgr)
    with open_clip(clip, frames=first + count) as source:
        kept = [preprocess(f)[0].numpy() for f in itertools.islice(source, first, None)]
    if len(kept) < 2:
        raise VideoError(
            f"{clip}: has {len(kept)} frame(s) from frame {first} on; two are needed, start earlier"
        )
    np.save(target, np.stack(kept))
    return len(kept)
