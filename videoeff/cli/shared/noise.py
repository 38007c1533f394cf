"""The noise of a camera for commands that convert: measured on a clip, in the units of the model's input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videoeff.calibration.noise import Noise
    from videoeff.video.preprocess import Preprocess
    from videoeff.video.source import Clip, Frame


def noise_of(
    path: Path, lag: int, preprocess: Preprocess
) -> tuple[tuple[tuple[float, float, float], ...], tuple[str, ...]]:
    """The noise of a clip as the model sees it, and what to tell of it.

    Args:
        path: the clip.
        lag: from how far apart its frames are compared.
        preprocess: of the model.

    Raises:
        VideoError: the clip cannot be read or is too short, or the model takes other than three channels.
    """
    from videoeff.calibration.noise import Noise, estimate_noise
    from videoeff.video.source import open_clip

    Noise((0.0,) * 3, (1.0,) * 3, 1.0, 0, lag).as_model_sees(preprocess)  # whether it can be said at all
    with open_clip(path) as clip:
        found: Noise = estimate_noise(_resized(clip, preprocess), lag=lag)
    return found.as_model_sees(preprocess), (f"{path.name}: {found}",)


def _resized(clip: Clip, preprocess: Preprocess) -> Iterator[Frame]:
    """Frames of the model's size in grey levels, red first; without the borders of a letterbox."""
    plain = replace(
        preprocess, scale=1.0, mean=None, std=None, bgr=False, fit="stretch", channels=3, dtype="uint8"
    )
    for frame in clip:
        yield plain(frame)[0].permute(1, 2, 0).numpy()
