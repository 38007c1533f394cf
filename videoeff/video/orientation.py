"""Turning and mirroring frames as their file says they are to be shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from videoeff.errors import VideoError
from videoeff.video.clip import Frame

if TYPE_CHECKING:
    from PIL.Image import Image

_SLACK = 0.02  # of the matrix's larger numbers: what is smaller counts as 0
_ORIENTATION = 0x0112  # the EXIF tag
_ON_THEIR_SIDE = (5, 6, 7, 8)  # its values for pictures of which rows are shown as columns


def shown(frame: Frame, matrix: bytes | None, source: str) -> Frame:
    """A decoded frame (H, W, C) as the display matrix of its stream wants it shown.

    Args:
        frame: as decoded.
        matrix: nine int32 of the machine's byte order, row by row, as FFmpeg keeps them: a pixel at column p
            and row q is shown at column a·p + c·q and row b·p + d·q, where the rows of the matrix begin with
            (a, b), (c, d). None for a stream without one.
        source: where the frame comes from, for the error.

    Raises:
        VideoError: the matrix turns by something else than quarter turns.
    """
    turn = quarter_turn(matrix, source)
    if turn is None:
        return frame
    if turn.across:
        frame = frame.transpose(1, 0, 2)
    rows, columns = slice(None, None, -1 if turn.down else 1), slice(None, None, -1 if turn.left else 1)
    return np.ascontiguousarray(frame[rows, columns])


@dataclass(frozen=True)
class Turn:
    """What a display matrix does to a frame.

    Attributes:
        across: rows are shown as columns; done first.
        down: then the last row is shown first.
        left: then the last column is shown first.
    """

    across: bool
    down: bool
    left: bool


def quarter_turn(matrix: bytes | None, source: str) -> Turn | None:
    """What a display matrix does, as :func:`shown` does it; None where a frame stays as it is.

    Raises:
        VideoError: the matrix turns by something else than quarter turns.
    """
    if matrix is None:
        return None
    a, b, _, c, d = (float(v) for v in np.frombuffer(matrix, np.int32)[:5])
    straight, across = max(abs(a), abs(d)), max(abs(b), abs(c))
    if not straight and not across:
        return None  # a matrix nobody filled in
    if min(straight, across) > _SLACK * max(straight, across):
        angle = math.degrees(math.atan2(b, a))
        raise VideoError(
            f"{source}: is to be shown turned by {angle:.0f} degrees; only quarter turns and mirrors are "
            "followed. Write it anew with ffmpeg, which turns the pixels, or take the display matrix away"
        )
    if across > straight:
        a, d = c, b
    return Turn(across > straight, d < 0, a < 0)


def shown_size(image: Image) -> tuple[int, int]:
    """(H, W) of an opened picture once it is turned as its EXIF data say; its pixels are not read."""
    turned = image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE
    # Pillow has the size of a turned TIFF the right way round from the beginning.
    if turned and image.format != "TIFF":
        return image.width, image.height
    return image.height, image.width
