"""Where a frame lies in a model's input of another shape, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

FITS = ("stretch", "letterbox", "letterbox-top-left")


@dataclass(frozen=True)
class Place:
    """The part of an input that shows the frame; the rest is padding. In pixels of the input.

    Attributes:
        top: first row.
        left: first column.
        height: rows.
        width: columns.
    """

    top: int
    left: int
    height: int
    width: int


def place(frame: tuple[int, int], size: tuple[int, int] | None, fit: str) -> Place:
    """Where a frame of (H, W) pixels lies in an input of ``size``.

    Args:
        frame: (H, W) of the frame.
        size: (H, W) of the input; None for the frame's own.
        fit: one of :data:`FITS`. A letterbox keeps the frame's proportions; sides are rounded to whole
            pixels, and an odd pixel of padding goes below or to the right.
    """
    if size is None:
        return Place(0, 0, *frame)
    if fit == "stretch":
        return Place(0, 0, *size)
    factor = min(size[0] / frame[0], size[1] / frame[1])
    height, width = (max(1, min(s, round(f * factor))) for f, s in zip(frame, size, strict=True))
    if fit == "letterbox-top-left":
        return Place(0, 0, height, width)
    return Place((size[0] - height) // 2, (size[1] - width) // 2, height, width)
