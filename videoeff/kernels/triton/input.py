"""Frames at the door: what of a frame moved."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.configs import power_of_two
from videoeff.kernels.triton.device import (
    L2,
    MAX,
    all_pixels,
    announce,
    block_columns,
    commit,
    plain_site,
)
from videoeff.kernels.triton.epilogue import begin_of


class BlocksArgs(NamedTuple):
    """The blocks of an input: of a column, of a line, of all rows."""

    high: Any
    wide: Any
    total: Any


@triton.jit
def _frame(frames, number, like):
    """The frame's pointer and strides, which change from frame to frame."""
    at = frames + number * 5
    pointer = tl.load(at).to(like.dtype, bitcast=True)
    return pointer, tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4)


@triton.jit
def _watch(value, ok, bad, frame):
    """Note the frame's number where a value is NaN or infinite, unless an earlier frame's is noted."""
    wide = value.to(tl.float32)
    wrong = ok & ((wide != wide) | (tl.abs(wide) == float("inf")))
    if tl.max(tl.max(wrong.to(tl.int32), 1), 0) != 0:
        tl.atomic_cas(bad, 0, frame, sem="relaxed")


@triton.jit(do_not_specialize=["full", "counting", "number"])
def arrived(
    site, worklist, out, test, args, edges, full, counting, frames, number, bad, channels,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """Take over the pixels that moved, each tested for itself.

    Args:
        frames: int64 (inputs, 5): address and strides over rows, lines, columns, channels of each frame.
        number: which of them.
        bad: int32, the number of the first frame with NaN or infinity, 0 for none.
        channels: of the value.
    """
    frame = tl.load(worklist.frame)
    site = plain_site(site)
    pointer, row, line, column, channel = _frame(frames, number, out.pointer)
    chunks = tl.cdiv(site.tiles, BM // (U * U))
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = all_pixels(chunk, site, U, BM)
        cols, exists = block_columns(block, channels, None, BN)
        place = (r * row + y * line + x * column)[:, None] + cols[None, :] * channel
        here = valid[:, None] & exists[None, :]
        value = tl.load(pointer + place, mask=here, other=0.0)
        _watch(value, here, bad, frame)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


@triton.jit(do_not_specialize=["number"])
def moved_blocks(
    site, worklist, out, test, hits, frames, number, bad, channels, blocks,
    BLOCK: tl.constexpr, P: tl.constexpr, N: tl.constexpr, TEST: tl.constexpr,
):  # fmt: skip
    """Stamp the blocks whose pixels' mean distance exceeds the limit.

    Args:
        hits: int32 (R, block rows, block columns): stamps.
        blocks: ``BlocksArgs``.
        BLOCK: edge of a block.
        P: BLOCK², rounded up to a power of two.
        N: blocks tested at once.
    """
    frame = tl.load(worklist.frame)
    site = plain_site(site)
    pointer, row, line, column, channel = _frame(frames, number, out.pointer)
    inner = tl.arange(0, P)[None, :]
    for t in tl.range(tl.program_id(0), tl.cdiv(blocks.total, N), tl.num_programs(0)):
        b = t * N + tl.arange(0, N)
        r = ((b // blocks.wide) // blocks.high)[:, None]
        y = ((b // blocks.wide) % blocks.high)[:, None] * BLOCK + inner // BLOCK
        x = (b % blocks.wide)[:, None] * BLOCK + inner % BLOCK
        ok = (b < blocks.total)[:, None] & (inner < BLOCK * BLOCK) & (y < site.height) & (x < site.width)
        amount = tl.zeros([N, P], tl.float32)
        for c in range(channels):
            new = tl.load(pointer + r * row + y * line + x * column + c * channel, mask=ok, other=0.0)
            _watch(new, ok, bad, frame)
            old = tl.load(out.pointer + begin_of(out, r, y, x) + c * out.channel, mask=ok, other=0.0)
            d = new.to(tl.float32) - old.to(tl.float32)
            if TEST == MAX:
                amount = tl.maximum(amount, tl.where(d == d, tl.abs(d), float("inf")))
            else:
                amount += d * d
        if TEST == L2:
            amount = tl.sqrt(amount)
        elif TEST != MAX:
            amount = tl.sqrt(amount / channels)
        mean = tl.sum(tl.where(ok, amount, 0.0), 1) / tl.maximum(tl.sum(ok.to(tl.float32), 1), 1.0)
        limit = tl.zeros_like(mean) + test.limit
        if test.scale is not None:
            limit = limit * tl.load(
                test.scale + (b // blocks.wide) // blocks.high, mask=b < blocks.total, other=0.0
            )
        tl.store(hits + b, tl.zeros_like(b) + frame, mask=(b < blocks.total) & ((mean <= limit) == 0))


@triton.jit(do_not_specialize=["full", "number"])
def taken(
    site, worklist, out, test, edges, full, hits, frames, number, channels, blocks,
    BLOCK: tl.constexpr, DILATION: tl.constexpr, U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    """Take over the pixels of stamped blocks and of the blocks around them; parameters as above."""
    frame = tl.load(worklist.frame)
    site = plain_site(site)
    pointer, row, line, column, channel = _frame(frames, number, out.pointer)
    cols = tl.arange(0, BN)
    for chunk in tl.range(tl.program_id(0), tl.cdiv(site.tiles, BM // (U * U)), tl.num_programs(0)):
        r, y, x, valid = all_pixels(chunk, site, U, BM)
        changed = tl.load(test.fresh + r, mask=valid, other=0) != 0
        fresh = changed
        for v in tl.static_range(-DILATION, DILATION + 1):
            for h in tl.static_range(-DILATION, DILATION + 1):
                by = y // BLOCK + v
                bx = x // BLOCK + h
                ok = valid & (by >= 0) & (by < blocks.high) & (bx >= 0) & (bx < blocks.wide)
                stamp = tl.load(hits + (r * blocks.high + by) * blocks.wide + bx, mask=ok, other=0)
                changed = changed | (ok & (stamp == frame))
        squares = tl.zeros([BM], tl.float32)
        for first in range(0, channels, BN):
            c = (first + cols)[None, :]
            here = (changed & valid)[:, None] & (c < channels)
            place = (r * row + y * line + x * column)[:, None] + c * channel
            new = tl.load(pointer + place, mask=here, other=0.0)
            kept = out.pointer + begin_of(out, r, y, x)[:, None] + c * out.channel
            if test.magnitude is not None:
                d = new.to(tl.float32) - tl.load(kept, mask=here, other=0.0).to(tl.float32)
                squares += tl.sum(d * d, 1)
            tl.store(kept, new, mask=here)
        if test.magnitude is not None:
            told = tl.where(fresh, 0.0, squares / channels)
            tl.store(test.magnitude + (r * site.height + y) * site.width + x, told, mask=changed & valid)
        announce(changed & valid, full, frame, r, y, x, site, test.mask, edges, U, BM, EDGES)


def launches(b: Binding, frames: Tensor, number: int, bad: Tensor) -> list[Launch]:
    """The launches of an input; two where blocks are tested."""
    test, blocks = b.call.test, -(-b.channels // b.config.BN)
    told = {"frames": frames, "number": number, "bad": bad}
    common = b.launch(arrived, blocks, b.channels, told | {"channels": b.columns(b.channels)}).bounded()
    arguments = dict(common.arguments)
    if test.threshold == 0 or (test.block == 1 and test.dilation == 0):
        return [common]
    rows, height, width = b.worklist.extent
    grid = (-(-height // test.block), -(-width // test.block))
    area = power_of_two(test.block**2)
    hits = b.memory.keep(torch.zeros(rows * grid[0] * grid[1], dtype=torch.int32))
    shared = {n: arguments[n] for n in ("site", "worklist", "out", "test", "frames", "number")} | {
        "hits": hits,
        "channels": b.channels,
        "blocks": BlocksArgs(*grid, rows * grid[0] * grid[1]),
        "BLOCK": test.block,
    }
    together = max(1, 256 // area)
    programs = max(1, min(b.memory.processors * b.config.programs, -(-hits.numel() // together)))
    special = {"P": area, "N": together, "TEST": arguments["TEST"], "bad": bad}
    first = Launch(b.call.name, moved_blocks, programs, shared | special, common.options, ())
    rest = {n: arguments[n] for n in ("edges", "U", "BM", "BN", "EDGES")} | {"DILATION": test.dilation}
    return [first, Launch(b.call.name, taken, common.grid, shared | rest, common.options, ("full",))]
