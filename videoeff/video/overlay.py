"""Drawing on frames: where a model computed, what it ignores, a legend to both, and text.

Frames are uint8 RGB (H, W, 3).
"""

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
# Ignored regions are dimmed to so much of their light, with stripes of a lighter grey so many pixels apart.
_DIMMED, _STRIPE = 0.45, (150, 150, 150)
_STRIPES = (
    48,
    6,
    10,
)  # a stripe for each so many pixels of the frame's height; at least, at most so many apart
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


def overlay_ignored(frame: NDArray[np.uint8], watched: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Dim and hatch the ignored regions of a frame. Watched pixels keep their colours exactly.

    Args:
        frame: (H, W, 3), uint8 RGB.
        watched: (h, w), at any resolution; taken to the frame's by nearest neighbour.

    Raises:
        VideoError: the frame or the mask has another shape.
    """
    _check(frame)
    if watched.ndim != 2 or 0 in watched.shape or watched.dtype != np.bool_:
        raise VideoError(
            f"overlay: the watched pixels are {watched.dtype} {tuple(watched.shape)}; expected bool (h, w)"
        )
    height, width = frame.shape[:2]
    rows = np.arange(height) * watched.shape[0] // height
    columns = np.arange(width) * watched.shape[1] // width
    ignored = ~watched[rows[:, None], columns]
    drawn = np.array(frame)
    drawn[ignored] = _hatched(frame, height)[ignored]
    return drawn


def _hatched(frame: NDArray[np.uint8], height: int) -> NDArray[np.uint8]:
    """All of a picture dimmed, under stripes as they suit a frame of a height."""
    each, least, most = _STRIPES
    apart = min(most, max(least, height // each))
    rows, columns = np.ogrid[: frame.shape[0], : frame.shape[1]]
    dimmed = (frame * _DIMMED).round().astype(np.uint8)
    dimmed[(rows + columns) % apart < max(1, apart // 5)] = _STRIPE
    return dimmed


def legend(
    frame: NDArray[np.uint8], text: str, *, low: str = "0 %", high: str = "100 %", ignored: str = ""
) -> NDArray[np.uint8]:
    """Return a copy of the frame with a bar of the heat colours on a dark strip along its bottom.

    Without a ``text`` there is no bar of the heat.

    The letters are a thirtieth of the frame's height, at least 10 pixels; what does not fit is cut off. A
    frame of less than 96 x 160 pixels has no room and is only copied.

    Args:
        frame: (H, W, 3), uint8 RGB.
        text: what the heat means, written behind the bar; "" where there is none.
        low: written at the end of no heat.
        high: written at the end of full heat.
        ignored: what is hatched, written behind a hatched field; "" where nothing is.

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

    left = end = margin
    bar = field = slice(0, 0)
    if text:
        left = write(margin, low) + margin
        bar = slice(left, left + min(8 * points, width // 4))
        end = write(write(bar.stop + margin, high) + margin, text) + 2 * margin
    if ignored:
        field = slice(end, end + 2 * points)
        write(field.stop + margin, ignored)
    drawn = np.array(image)
    strip = drawn[height - margin - points : height - margin]
    ramp = np.linspace(0.0, 1.0, bar.stop - bar.start, dtype=np.float32)
    strip[:, bar] = _blend(strip[:, bar], np.broadcast_to(ramp, strip[:, bar].shape[:2]), 1.0)
    strip[:, field] = _hatched(np.full_like(strip[:, field], 130), height)
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
