"""Pictures without a decoder, for tests of what carries them."""

from __future__ import annotations

import functools

from tests.support.clips import Frame, numbered
from videoeff.video.clip import Decoded
from videoeff.video.live import Picture


def decoded(index: int, size: tuple[int, int] = (48, 64), *, damaged: bool = False) -> Decoded:
    """A flat frame with a number."""
    return Decoded(size, functools.partial(_frame, index, size), damaged)


def _frame(index: int, size: tuple[int, int]) -> Frame:
    return numbered(index, size)


def picture(number: int) -> Picture:
    """A picture of that number, 25 a second."""
    return Picture.of(decoded(number), number=number, time=number / 25, arrived=number / 25, wall=number / 25)
