"""Weighted sums over rows and columns of pixels: resampling, average pooling, padding, cut-outs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from videoeff.kernels.region_spec.producers import Resampling
from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.device import block_columns, commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.epilogue import epilogue, load_argument
from videoeff.ops.axis_tables import Table

#: Most taps along a row that are unrolled.
UNROLLED = tl.constexpr(4)


class TableArgs(NamedTuple):
    """Which lines of the input a line of the value is the sum of: pointers to their places and weights."""

    lines: Any
    weights: Any


@triton.jit
def _entry(table, at, valid):
    """Line and weight of a tap; 0 where there is no pixel."""
    index = tl.load(table.lines + at, mask=valid, other=0)
    return index, tl.load(table.weights + at, mask=valid, other=0.0)


@triton.jit
def _tap(acc, source, columns, r, iy, above, at, cols, valid, exists):
    """Add one tap, unless its weight is 0: what lies there may be anything."""
    ix, beside = _entry(columns, at, valid)
    factor = above * beside
    value = load_argument(source, r, iy, ix, cols, factor != 0, exists[None, :])
    return acc + value * factor[:, None]


@triton.jit(do_not_specialize=["full", "counting"])
def resampling(
    site, worklist, out, test, args, edges, full, counting, source, rows, columns, channels,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    TY: tl.constexpr, TX: tl.constexpr, PICKED: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """A pixel as a sum over TY lines and TX columns that tables name.

    Args:
        source: ``ViewArgs`` of the input.
        rows: ``TableArgs`` of the lines, each (H, TY); where PICKED, a line of -1 is zero.
        columns: the same of the columns, (W, TX).
        channels: of the value.
        PICKED: whether each pixel is one of the input's as it is, or zero.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    chunks = tl.cdiv(tiles, BM // (U * U))
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, tiles, whole, worklist, site, U, BM)
        count_pixels(worklist, valid, block, counting)
        cols, exists = block_columns(block, channels, None, BN)
        if PICKED:
            iy = tl.load(rows.lines + y, mask=valid, other=-1)
            ix = tl.load(columns.lines + x, mask=valid, other=-1)
            acc = load_argument(source, r, iy, ix, cols, (iy >= 0) & (ix >= 0), exists[None, :])
        else:
            acc = tl.zeros([BM, BN], tl.float32)
            for a in range(TY):
                iy, above = _entry(rows, y * TY + a, valid)
                if TX <= UNROLLED:
                    for c in tl.static_range(TX):
                        acc = _tap(acc, source, columns, r, iy, above, x * TX + c, cols, valid, exists)
                else:
                    for c in range(TX):
                        acc = _tap(acc, source, columns, r, iy, above, x * TX + c, cols, valid, exists)
        value = epilogue(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def _picks(table: Table) -> bool:
    return table.index.shape[1] == 1 and bool(((table.weight == 0) | (table.weight == 1)).all())


def launch(b: Binding, found: Resampling) -> Launch:
    """The launch of a sum by tables."""
    picked = _picks(found.rows) and _picks(found.columns)

    def kept(table: Table) -> TableArgs:
        if picked:
            return TableArgs(b.memory.keep(table.index.masked_fill(table.weight == 0, -1)), None)
        return TableArgs(b.memory.keep(table.index), b.memory.keep(table.weight.to(torch.float32)))

    blocks = -(-b.channels // b.config.BN)
    special = {
        "source": b.view(found.input),
        "rows": kept(found.rows),
        "columns": kept(found.columns),
        "channels": b.columns(b.channels),
        "TY": found.rows.index.shape[1],
        "TX": found.columns.index.shape[1],
        "PICKED": picked,
    }
    return b.launch(resampling, blocks, b.channels, special).bounded()
