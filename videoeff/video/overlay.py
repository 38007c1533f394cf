"""Drawing on frames: where a model computed, a legend to it, and text. Frames are uint8 RGB (H, W, 3)."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError

# Violet to yellow with lightness rising evenly, so that more always looks like more.
_ANCHORS = ((100, 20, 130), (160, 25, 125), (210, 50, 90), (238, 100, 40), (250, 165, 25), (255, 235, 90))
# Below 1, so that a little heat is seen too: an eighth of the layers gets a fifth of the full opacity.
_GROWTH = 0.8
# A legend on a smaller frame would hide more than it says.
_LEGEND_ROOM = (96, 160)


@functools.cache
def colour_table() -> NDArray[np.uint8]:
    """The heat colours as (256, 3), uint8 RGB, from no heat to full heat."""
    at = np.linspace(0.0, len(_ANCHORS) - 1.0, 256)
    table = [np.interp(at, np.arange(len(_ANCHORS)), channel) for channel in zip(*_ANCHORS, strict=True)]
    return np.stack(table, axis=1).round().astype(np.uint8)


def overlay_heat(
    frame: NDArray[np.uint8], heat: NDArray[np.floating[Any]], *, opacity: float = 0.65
) -> NDArray[np.uint8]:
    """Draw a heat map over a frame. The more heat, the lighter and the more opaque its colour.

    Where the heat is 0 the frame keeps its own colours exactly.

    Args:
        frame: (H, W, 3), uint8 RGB.
        heat: (h, w), 0..1, at any resolution; taken to the frame's by nearest neighbour, clipped, NaN as 0.
        opacity: of the colour of full heat, 0..1.

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
    return _blend(frame, level, opacity)


def _blend(frame: NDArray[np.uint8], level: NDArray[np.float32], opacity: float) -> NDArray[np.uint8]:
    """The colours of ``level`` (H, W), 0..1, over a frame of that size."""
    colour = colour_table()[(level * 255.0).round().astype(np.intp)]
    share = (opacity * level**_GROWTH)[..., None]
    return (frame * (1.0 - share) + colour * share).round().astype(np.uint8)


def legend(
    frame: NDArray[np.uint8], text: str, *, low: str = "0 %", high: str = "100 %"
) -> NDArray[np.uint8]:
    """Return a copy of the frame with a bar of the heat colours on a dark strip along its bottom.

    The letters are a thirtieth of the frame's height, at least 10 pixels; what does not fit is cut off. A
    frame of less than 96 x 160 pixels has no room and is only copied.

    Args:
        frame: (H, W, 3), uint8 RGB.
        text: what the heat means, written behind the bar.
        low: written at the end of no heat.
        high: written at the end of full heat.

    Raises:
        VideoError: the frame has another shape or type.
    """
    from PIL import Image, ImageDraw, ImageFont

    _check(frame)
    drawn = np.array(frame)
    height, width = frame.shape[:2]
    if height < _LEGEND_ROOM[0] or width < _LEGEND_ROOM[1]:
        return drawn
    points = max(10, height // 30)
    font = ImageFont.load_default(points)
    margin = points // 2
    top = height - points - 2 * margin
    drawn[top:] = (drawn[top:] * 0.35).round().astype(np.uint8)
    image = Image.fromarray(drawn)
    pen = ImageDraw.Draw(image)

    def write(left: int, words: str) -> int:
        """Write words and return where they end."""
        pen.text((left, height - margin - points // 2), words, fill=(255, 255, 255), font=font, anchor="lm")
        return left + round(pen.textlength(words, font=font))

    left = write(margin, low) + margin
    right = left + min(8 * points, width // 4)
    write(write(right + margin, high) + margin, text)
    drawn = np.array(image)
    bar = drawn[height - margin - points : height - margin, left:right]
    ramp = np.linspace(0.0, 1.0, right - left, dtype=np.float32)
    bar[...] = _blend(bar, np.broadcast_to(ramp, bar.shape[:2]), 1.0)
    return drawn


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
