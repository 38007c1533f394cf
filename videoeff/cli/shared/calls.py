"""Frames of a clip as calls of a model, to quantise it for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoeff.cli.shared.source import Source
    from videoeff.video.preprocess import Preprocess

#: Frames of a clip to calibrate on, at most.
FRAMES = 100


def calls_of(
    path: Path, source: Source, preprocess: Preprocess, streams: int
) -> tuple[Iterator[Any], tuple[str, ...]]:
    """Evenly spread frames of a clip as calls, read as they are asked for, and what to tell of them.

    Raises:
        VideoError: the clip cannot be read.
    """
    from videoeff.calibration.sample import CalibrationFrames
    from videoeff.cli.shared.source import call_of

    frames = CalibrationFrames(path, 0, FRAMES, alpha=preprocess.channels == 4)
    calls = (call_of(source, preprocess, [frame] * streams) for frame in frames)
    return calls, (f"quantised for {len(frames)} frame(s) of {path.name}",)
