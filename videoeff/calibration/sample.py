"""Frames of a clip to calibrate on: evenly spread, and not those that are judged where there are others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from videoeff.video.source import Frame, open_clip

#: Frames beside the judged ones that are too like them to calibrate on.
MARGIN = 10


def spread(total: int, first: int, count: int, most: int) -> set[int]:
    """Numbers of up to ``most`` frames, evenly spread over a clip, that are not judged.

    Args:
        total: frames of the clip.
        first: the first frame that is judged.
        count: how many are; :data:`MARGIN` frames on both sides are left out too.
        most: how many at most.
    """
    others = [i for i in range(total) if not first - MARGIN <= i < first + count + MARGIN]
    return {others[i * len(others) // most] for i in range(most)} if len(others) > most else set(others)


def frame_count(clip: str | Path) -> int:
    """How many frames a clip has; it is read where it does not say so.

    Raises:
        VideoError: the clip cannot be read.
    """
    with open_clip(clip) as source:
        known = source.frame_count
    if known is not None:
        return known
    with open_clip(clip) as source:
        return sum(1 for _ in source)


class CalibrationFrames:
    """Frames of a clip to calibrate on, read when they are iterated over.

    Attributes:
        judged: whether they are among the judged ones, because the clip has no others.

    Args:
        clip: the clip.
        count: how many of its first frames are judged; None for all.
        most: how many to take at most.
        alpha: give the opacity as a fourth channel.

    Raises:
        VideoError: the clip cannot be read.
    """

    def __init__(self, clip: str | Path, count: int | None, most: int, alpha: bool = False) -> None:
        total = frame_count(clip)
        chosen = spread(total, 0, total if count is None else count, most)
        self.judged = not chosen
        self._chosen = chosen or spread(total, -MARGIN, 0, most)
        self._clip, self._alpha = clip, alpha

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Frame]:
        if not self._chosen:
            return
        with open_clip(self._clip, frames=max(self._chosen) + 1, alpha=self._alpha) as source:
            yield from (frame for number, frame in enumerate(source) if number in self._chosen)
