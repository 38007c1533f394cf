"""Regions whose pixels follow from the same pixel of what they read; the import of masks made elsewhere."""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.device import (
    all_pixels,
    announce,
    block_columns,
    commit,
    count_pixels,
    length,
    pixels,
    plain_site,
)
from videoeff.kernels.triton.epilogue import epilogue


@triton.jit(do_not_specialize=["full", "counting"])
def pointwise(
    site, worklist, out, test, args, edges, full, counting, channels,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """An epilogue without a producer: arithmetic, activations, norms over channels.

    Args:
        channels: of the value.
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
        value = epilogue(None, args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        value = tl.broadcast_to(value, [BM, BN])
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


@triton.jit(do_not_specialize=["full"])
def imported(
    site, frame, mask, told, edges, full, U: tl.constexpr, BM: tl.constexpr, EDGES: tl.constexpr
):  # fmt: skip
    """Stamp and announce the pixels of a mask (R, H, W) of bytes that other code made.

    Args:
        frame: pointer to the frame's number.
        mask: pointer to the stamps.
        told: pointer to the bytes.
    """
    number = tl.load(frame)
    site = plain_site(site)
    chunks = tl.cdiv(site.tiles, BM // (U * U))
    for chunk in tl.range(tl.program_id(0), chunks, tl.num_programs(0)):
        r, y, x, valid = all_pixels(chunk, site, U, BM)
        changed = tl.load(told + (r * site.height + y) * site.width + x, mask=valid, other=0) != 0
        announce(changed & valid, full, number, r, y, x, site, mask, edges, U, BM, EDGES)


@triton.jit
def begin(frame, counts, number, BLOCK: tl.constexpr):
    """Open a frame: its number, and empty lists."""
    if tl.program_id(0) == 0:
        tl.store(frame, tl.load(frame) + 1)
    for first in tl.range(tl.program_id(0) * BLOCK, number, tl.num_programs(0) * BLOCK):
        place = first + tl.arange(0, BLOCK)
        tl.store(counts + place, tl.zeros([BLOCK], tl.int32), mask=place < number)


def launch(b: Binding) -> Launch:
    """The launch of a region without a producer."""
    blocks = -(-b.channels // b.config.BN)
    return b.launch(pointwise, blocks, b.channels, {"channels": b.columns(b.channels)})
