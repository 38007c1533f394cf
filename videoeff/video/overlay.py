"""Drawing on frames: where a model computed, and a line of text. Frames are uint8 RGB (H, W, 3)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError

# Dark violet to pale yellow with lightness rising evenly, so that more always looks like more.
_ANCHORS = ((45, 20, 90), (115, 25, 120), (180, 45, 100), (225, 85, 65), (245, 145, 45), (252, 235, 150))


@functools.cache
def colour_table() -> NDArray[np.uint8]:
    """The heat colours as (256, 3), uint8 RGB, from no change to full change."""
    at = np.linspace(0.0, len(_ANCHORS) - 1.0, 256)
    table = [np.interp(at, np.arange(len(_ANCHORS)), channel) for channel in zip(*_ANCHORS, strict=True)]
    return np.stack(table, axis=1).round().astype(np.uint8)


def overlay_heat(
    frame: NDArray[np.uint8], heat: NDArray[np.floating[Any]], *, opacity: float = 0.6, dim: float = 0.7
) -> NDArray[np.uint8]:
    """Draw a heat map over a frame; where the heat is 0 the frame shows through, dimmed.

    Args:
        frame: (H, W, 3), uint8 RGB.
        heat: (h, w), 0..1, at any resolution; taken to the frame's by nearest neighbour, clipped, NaN as 0.
        opacity: of the heat colour, 0..1.
        dim: brightness of the unchanged parts, 0..1.

    Raises:
        VideoError: the frame or the heat map has another shape.
    """
    _check(frame)
    if heat.ndim != 2 or 0 in heat.shape:
        raise VideoError(f"overlay: the heat map is {tuple(heat.shape)}; expected (h, w)")
    height, width = frame.shape[:2]
    rows = np.arange(height) * heat.shape[0] // height
    columns = np.arange(width) * heat.shape[1] // width
    level = np.clip(np.nan_to_num(heat.astype(np.float32), nan=0.0), 0.0, 1.0)[rows[:, None], columns]
    colour = colour_table()[(level * 255.0).round().astype(np.intp)]
    picture = frame.astype(np.float32)
    hot = picture * (1.0 - opacity) + colour * opacity
    return np.where(level[..., None] > 0.0, hot, picture * dim).round().astype(np.uint8)


def caption(frame: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return a copy of the frame with text on a dark strip along its top; newlines start new lines.

    The letters are a twenty-fourth of the frame's height, at least 10 pixels; what does not fit is cut off.

    Raises:
        VideoError: the frame has another shape or type.
    """
    from PIL import Image, ImageDraw, ImageFont

    _check(frame)
    image = Image.fromarray(frame)
    points = max(10, frame.shape[0] // 24)
    font = ImageFont.load_default(points)
    margin = points // 2
    bottom = ImageDraw.Draw(image).multiline_textbbox((margin, margin), text, font=font)[3] + margin
    strip = np.array(frame)
    top = strip[: int(np.ceil(bottom))]
    top[...] = (top * 0.35).round().astype(np.uint8)
    image = Image.fromarray(strip)
    ImageDraw.Draw(image).multiline_text((margin, margin), text, fill=(255, 255, 255), font=font)
    return np.array(image)


def _check(frame: NDArray[np.uint8]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise VideoError(
            f"overlay: the frame is {frame.dtype} {tuple(frame.shape)}; expected uint8 (H, W, 3) RGB"
        )
