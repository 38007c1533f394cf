"""The noise of a camera for commands that convert: measured on a clip, in the units of the model's input."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess


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
    from videoeff.calibration.noise import Noise, estimate_noise, resized
    from videoeff.video.source import open_clip

    Noise((0.0,) * 3, (1.0,) * 3, 1.0, 0, lag).as_model_sees(preprocess)  # whether it can be said at all
    with open_clip(path) as clip:
        found = estimate_noise(resized(clip, preprocess), lag=lag)
    return found.as_model_sees(preprocess), (f"{path.name}: {found}",)
