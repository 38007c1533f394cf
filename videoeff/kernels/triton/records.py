"""What kernels take together: records that the host fills in and kernels read by name.

``...Args`` are arguments of a launch. ``...Static`` are known at compile time; Triton up to 3.7 forgets the
names of their fields, so kernels read them by places worked out from the definitions here.

A number that is *coded* is given as ``binding.coded`` makes it and read by ``device.plain``.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class SiteArgs(NamedTuple):
    """Where a region's value lies in space; all are coded numbers.

    Attributes:
        height, width: pixels of the value.
        tiles_high, tiles_wide: tiles of a column and of a line.
        tiles: of all rows.
        by_high, by_wide: how to divide by ``tiles_high`` and ``tiles_wide``, see ``binding.divisor``.
    """

    height: Any
    width: Any
    tiles_high: Any
    tiles_wide: Any
    tiles: Any
    by_high: Any
    by_wide: Any


class WorklistArgs(NamedTuple):
    """A worklist.

    Attributes:
        length: pointer to the number of tiles listed.
        listed: pointer to the tiles.
        frame: pointer to the frame's number.
        pixels: pointer to the counter of pixels computed.
        switch: the length from which on the list is not looked at and all tiles are computed in order; coded.
        ordered: whether that is so in every full frame, too (1), or the list holds then (0).
        due: pointer to the pixels that are to be computed, words (R, H, words) of a bit each; None: all are
            that are listed.
    """

    length: Any
    listed: Any
    frame: Any
    pixels: Any
    switch: Any
    ordered: Any
    due: Any = None


class ListArgs(NamedTuple):
    """A list of tiles to append to: pointers to what it consists of."""

    listed: Any
    stamps: Any
    length: Any


class ViewArgs(NamedTuple):
    """A view of a buffer or a constant.

    Attributes:
        pointer: to its first element.
        row, line, column, channel: its strides.
        even: a number known at compile time that the strides and the first channels of blocks divide by.
        row_by_even, line_by_even, column_by_even: strides divided by it.
        room_by_even: the channels that may be loaded and stored, a gap of zeros included, divided by it; None
            where they do not divide.
        vast: whether places in it take more than 32 bits; known at compile time.
    """

    pointer: Any
    row: Any
    line: Any
    column: Any
    channel: Any
    even: Any
    row_by_even: Any
    line_by_even: Any
    column_by_even: Any
    room_by_even: Any
    vast: Any


class ChangeTestArgs(NamedTuple):
    """The change test of a value.

    Attributes:
        limit: the threshold.
        scale: pointer to the rows' scales, or None.
        mask: pointer to the stamps of changed pixels.
        magnitude: pointer to their squared magnitudes, or None.
        fresh: pointer to flags of rows without a past.
        channels: of the value.
        candidates, partials, arrived: memory in which blocks of channels that decide together exchange
            values, amounts, and how many of them are done; None where each decides for itself.
        per_group, blocks_per_group: channels and blocks of a group, as ``device.block_columns`` takes them.
    """

    limit: Any
    scale: Any
    mask: Any
    magnitude: Any
    fresh: Any
    channels: Any
    candidates: Any = None
    partials: Any = None
    arrived: Any = None
    per_group: Any = None
    blocks_per_group: Any = None


class GateArgs(NamedTuple):
    """A factor for each channel of an input: a pointer and its strides over rows and channels."""

    pointer: Any
    row: Any
    channel: Any


class WindowArgs(NamedTuple):
    """How a window moves over an input."""

    stride_y: Any
    stride_x: Any
    padding_y: Any
    padding_x: Any
    dilation_y: Any
    dilation_x: Any


class OffsetArgs(NamedTuple):
    """Where the taps of a window lie whose stride is known at compile time."""

    padding_y: Any
    padding_x: Any
    dilation_y: Any
    dilation_x: Any


class EdgeArgs(NamedTuple):
    """From changed pixels to tiles of another list, see ``worklist.Edge``.

    A line y of the source reaches the lines low_y[t, y] to high_y[t, y] of the target, for each tap t.

    Attributes:
        low_y, high_y, low_x, high_x: pointers to (taps, size of the source).
        height, width: of the source; coded.
        stamps, listed, length: pointers to what the target's list consists of.
        tiles_high, tiles_wide: of the target; coded.
    """

    low_y: Any
    high_y: Any
    low_x: Any
    high_x: Any
    height: Any
    width: Any
    stamps: Any
    listed: Any
    length: Any
    tiles_high: Any
    tiles_wide: Any


class RowEdgeArgs(NamedTuple):
    """From changed pixels to all tiles of their rows.

    Attributes:
        row_stamps: pointer to the stamps of rows that are listed.
        stamps, listed, length: pointers to what the target's list consists of.
        tiles: of a row; coded.
        rows: of the target; coded.
    """

    row_stamps: Any
    stamps: Any
    listed: Any
    length: Any
    tiles: Any
    rows: Any


class EdgeStatic(NamedTuple):
    """What is known of an edge at compile time.

    Attributes:
        whole: whether it reaches all of a row; the rest is 0 then.
        taps_y, taps_x: taps along each axis.
        most_y, most_x: most tiles that one tap reaches along each axis.
        tile: edge of a tile of the target.
    """

    whole: int
    taps_y: int = 0
    most_y: int = 0
    taps_x: int = 0
    most_x: int = 0
    tile: int = 0


class InstructionStatic(NamedTuple):
    """An instruction of an epilogue.

    Attributes:
        op: an ``EpiOp``, or ``MADE``.
        a, b: its operands: values before it from 0 on, or arguments, of which -1 is the first.
        p, q: its parameters.
    """

    op: int
    a: int = 0
    b: int = 0
    p: float = 0.0
    q: float = 0.0


#: The instruction that stands for the producer's result.
MADE = InstructionStatic(-1)
