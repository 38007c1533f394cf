"""What all kernels share on the device: worklists, and the commit; arithmetic is in ``epilogue.py``.

Work is listed in tiles: squares of U x U pixels of a region's value. A kernel is launched with a fixed
number of programs; each takes chunks of BM pixels (BM / U² tiles) off its region's list, whose length it
reads from memory. What it computes is tested against the value kept; a pixel that moved is stored, stamped
with the frame's number in the region's mask, and the tiles of other regions that it reaches are appended to
their lists, once a frame.

Kernels share these parameters, which ``records.py`` describes:

- ``site``: ``SiteArgs`` of the value.
- ``worklist``: ``WorklistArgs`` of what is to be computed.
- ``out``: ``ViewArgs`` of the value.
- ``test``: ``ChangeTestArgs``.
- ``args``: ``ViewArgs`` for each argument of the epilogue.
- ``edges``: ``EdgeArgs`` or ``RowEdgeArgs`` for each list that the region feeds.
- ``EDGES``: ``EdgeStatic`` of each of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.region_spec.codes import ChangeTest
from videoeff.kernels.triton.epilogue import place_of, room_of
from videoeff.kernels.triton.records import EdgeStatic, SiteArgs

# Where what is known of an edge at compile time stands in its record.
EDGE_WHOLE = tl.constexpr(EdgeStatic._fields.index("whole"))
EDGE_TAPS_Y = tl.constexpr(EdgeStatic._fields.index("taps_y"))
EDGE_MOST_Y = tl.constexpr(EdgeStatic._fields.index("most_y"))
EDGE_TAPS_X = tl.constexpr(EdgeStatic._fields.index("taps_x"))
EDGE_MOST_X = tl.constexpr(EdgeStatic._fields.index("most_x"))
EDGE_TILE = tl.constexpr(EdgeStatic._fields.index("tile"))

#: Kinds of tests: any difference, largest difference, root of the sum of squares, root of their mean.
ANY = tl.constexpr(int(ChangeTest.ANY))
MAX = tl.constexpr(int(ChangeTest.MAX))
L2 = tl.constexpr(int(ChangeTest.L2))
RMS = tl.constexpr(int(ChangeTest.RMS))


# ---------------------------------------------------------------- worklists


@triton.jit
def plain(number):
    """A number given as 2 n + 1: neither 1 nor a multiple of 16, for which Triton would compile anew."""
    return number >> 1


@triton.jit
def plain_site(site):
    """``site`` as plain numbers."""
    return SiteArgs(
        plain(site.height), plain(site.width), plain(site.tiles_high), plain(site.tiles_wide),
        plain(site.tiles), plain(site.by_high), plain(site.by_wide),
    )  # fmt: skip


@triton.jit
def length(worklist, site, full):
    """Tiles to compute, and whether they are all tiles in order."""
    listed = tl.load(worklist.length)
    whole = tl.where(listed >= plain(worklist.switch), 1, full * worklist.ordered)
    return tl.where(whole != 0, site.tiles, listed), whole


@triton.jit
def divided(number, by, how):
    """Quotient and rest of numbers from 0 to 2^30, by a product instead of a division; see ``divisor``."""
    factor = tl.cast(how >> 5, tl.uint32)
    twice = tl.cast(number, tl.uint32) * 2
    quotient = (tl.umulhi(twice, factor) >> tl.cast(how & 31, tl.uint32)).to(tl.int32)
    return quotient, number - quotient * by


@triton.jit
def within(number, size):
    """Whether numbers are among 0 to size - 1."""
    return tl.cast(number, tl.uint32) < tl.cast(size, tl.uint32)


@triton.jit
def flags(flag, BM: tl.constexpr):
    """A number as BM truth values."""
    return (tl.zeros([BM], tl.int32) + flag) != 0


@triton.jit
def pixels(chunk, tiles, whole, worklist, site, U: tl.constexpr, BM: tl.constexpr):
    """Row, line and column of a chunk's pixels, and which of them are to be computed."""
    r, y, x, valid = listed_pixels(chunk, tiles, whole, worklist, site, U, BM)
    return r, y, x, valid & is_due(r, y, x, valid, worklist, site)


@triton.jit
def is_due(r, y, x, valid, worklist, site):
    """Which pixels of listed tiles are to be computed."""
    if worklist.due is None:
        return valid
    else:
        word = (r * site.height + y) * ((site.width + 63) // 64) + x // 64
        held = tl.load(worklist.due + word, mask=valid, other=0)
        return ((held >> (x % 64).to(tl.int64)) & 1) != 0


@triton.jit
def listed_pixels(chunk, tiles, whole, worklist, site, U: tl.constexpr, BM: tl.constexpr):
    """Row, line and column of the pixels of a chunk's tiles, and which of them exist."""
    slot = chunk * (BM // (U * U)) + tl.arange(0, BM) // (U * U)
    inside = slot < tiles
    listed = tl.load(worklist.listed + slot, mask=inside, other=0)
    return _pixels_of(listed + (slot - listed) * whole, inside, site, U, BM)


@triton.jit
def all_pixels(chunk, site, U: tl.constexpr, BM: tl.constexpr):
    """The same where every tile is looked at."""
    slot = chunk * (BM // (U * U)) + tl.arange(0, BM) // (U * U)
    return _pixels_of(slot, slot < site.tiles, site, U, BM)


@triton.jit
def _pixels_of(tile, inside, site, U: tl.constexpr, BM: tl.constexpr):
    above, across = divided(tile, site.tiles_wide, site.by_wide)
    r, down = divided(above, site.tiles_high, site.by_high)
    inner = tl.arange(0, BM) % (U * U)
    x = across * U + inner % U
    y = down * U + inner // U
    valid = inside & (y < site.height) & (x < site.width)
    return r, y, x, valid


@triton.jit
def count_pixels(worklist, valid, block, counting):
    """Add a chunk to the counter, once for all its blocks of channels."""
    if (counting != 0) & (block == 0):
        tl.atomic_add(worklist.pixels, tl.sum(valid.to(tl.int64)), sem="relaxed")


# ---------------------------------------------------------------- the commit


@triton.jit
def commit(
    value, chunk, block, full, r, y, x, valid, cols, cmask, site, worklist, out, test, edges,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr, TEST: tl.constexpr,
    TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """Store a block (BM, BN) of new values where they moved, and tell the lists that follow.

    Args:
        value: the values in float32.
        block: which of the NB blocks of channels it is.
        cols, cmask: its channels (BN), and which exist.
        TOGETHER: whether the blocks of channels of a pixel decide together; the last one to arrive does.
    """
    frame = tl.load(worklist.frame)
    place = place_of(out, r, y, x, cols)
    room = room_of(out, cols, cmask)
    here = valid[:, None] & room
    old = tl.load(out.pointer + place, mask=here, other=0.0)
    new = tl.where(cmask, value, 0.0).to(out.pointer.dtype.element_ty)
    fresh = tl.load(test.fresh + r, mask=valid, other=0) != 0
    if TEST == ANY and not TOGETHER:
        moved = tl.max((new != old).to(tl.int32), 1) != 0  # what is not here is 0 in both
        changed = valid & (moved | fresh)
        tl.store(out.pointer + place, new, mask=room & changed[:, None])
        if test.magnitude is not None:
            _magnitude(_squares(new, old, here), changed, fresh, r, y, x, site, test)
        announce(changed, full, frame, r, y, x, site, test.mask, edges, U, BM, EDGES)
    else:
        if TEST == MAX:
            amount = _largest(new, old, here)
        elif TEST == ANY:
            amount = tl.max((new != old).to(tl.float32), 1)
        else:
            amount = _squares(new, old, here)
        if not TOGETHER:
            changed = valid & (_exceeds(amount, r, valid, test, TEST) | fresh)
            tl.store(out.pointer + place, new, mask=room & changed[:, None])
            if test.magnitude is not None:
                _magnitude(_squares(new, old, here), changed, fresh, r, y, x, site, test)
            announce(changed, full, frame, r, y, x, site, test.mask, edges, U, BM, EDGES)
        else:
            m = tl.arange(0, BM)
            c = tl.arange(0, BN)
            kept = _kept(test.candidates, chunk * NB + block, m, c, BM, BN)
            tl.store(kept, new)
            told = test.partials + (chunk * NB).to(tl.int64) * 2 * BM
            tl.store(told + block * 2 * BM + m, amount)
            if test.magnitude is not None:
                tl.store(told + block * 2 * BM + BM + m, _squares(new, old, here))
            tl.debug_barrier()
            before = tl.atomic_add(test.arrived + chunk, 1, sem="acq_rel")
            tl.debug_barrier()
            if before == NB - 1:
                tl.store(test.arrived + chunk, 0)
                _decide(chunk, full, frame, fresh, told, r, y, x, valid, site, out, test, edges,
                        U, BM, BN, NB, TEST, EDGES)  # fmt: skip


@triton.jit
def _decide(
    chunk, full, frame, fresh, told, r, y, x, valid, site, out, test, edges,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr, TEST: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    """Of all blocks of channels of a chunk, in their order: test, store, tell."""
    m = tl.arange(0, BM)
    amount = tl.zeros([BM], tl.float32)
    squares = tl.zeros([BM], tl.float32)
    for b in range(NB):
        part = tl.load(told + b * 2 * BM + m, cache_modifier=".cg")
        if TEST == MAX or TEST == ANY:  # noqa: SIM109 (nor `in`)
            amount = tl.where((part > amount) | (part != part), part, amount)
        else:
            amount += part
        if test.magnitude is not None:
            squares += tl.load(told + b * 2 * BM + BM + m, cache_modifier=".cg")
    changed = valid & (_exceeds(amount, r, valid, test, TEST) | fresh)
    for b in range(NB):
        c = tl.arange(0, BN)
        kept = _kept(test.candidates, chunk * NB + b, m, c, BM, BN)
        new = tl.load(kept, mask=changed[:, None], other=0.0, cache_modifier=".cg")
        cols, cmask = block_columns(b, test.per_group, test.blocks_per_group, BN)
        room = room_of(out, cols, cmask[None, :])
        tl.store(out.pointer + place_of(out, r, y, x, cols), new, mask=room & changed[:, None])
    if test.magnitude is not None:
        _magnitude(squares, changed, fresh, r, y, x, site, test)
    announce(changed, full, frame, r, y, x, site, test.mask, edges, U, BM, EDGES)


@triton.jit
def _kept(candidates, number, m, c, BM: tl.constexpr, BN: tl.constexpr):
    """Where a block (BM, BN) waits for the decision."""
    return candidates + number.to(tl.int64) * (BM * BN) + (m[:, None] * BN + c[None, :])


@triton.jit
def block_columns(block, per_group, blocks_per_group, BN: tl.constexpr):
    """The channels of a block, none of which belongs to two groups (None: there is one), and which exist.

    ``per_group`` is None where there is one group, and its blocks end where it does.
    """
    if per_group is None:
        return block * BN + tl.arange(0, BN), tl.full([BN], 1, tl.int1)
    elif blocks_per_group is None:
        cols = block * BN + tl.arange(0, BN)
        return cols, cols < per_group
    else:
        group = block // blocks_per_group
        inner = (block % blocks_per_group) * BN + tl.arange(0, BN)
        return group * per_group + inner, inner < per_group


@triton.jit
def _squares(new, old, here):
    d = new.to(tl.float32) - old.to(tl.float32)
    return tl.sum(tl.where(here, d * d, 0.0), 1)


@triton.jit
def _largest(new, old, here):
    """Largest difference, infinite where one is NaN."""
    d = tl.abs(new.to(tl.float32) - old.to(tl.float32))
    return tl.max(tl.where(here, tl.where(d == d, d, float("inf")), 0.0), 1)


@triton.jit
def _exceeds(amount, r, valid, test, TEST: tl.constexpr):
    if TEST == ANY:
        return amount != 0.0
    else:
        if TEST == L2:
            measured = tl.sqrt(amount)
        elif TEST == RMS:
            measured = tl.sqrt(amount / test.channels)
        else:
            measured = amount
        limit = tl.zeros_like(amount) + test.limit
        if test.scale is not None:
            limit = limit * tl.load(test.scale + r, mask=valid, other=0.0)
        return (measured <= limit) == 0


@triton.jit
def _magnitude(squares, changed, fresh, r, y, x, site, test):
    """Mean squared change, 0 for a row's first frame; it counts where the mask is stamped."""
    told = tl.where(fresh, 0.0, squares / test.channels)
    tl.store(test.magnitude + (r * site.height + y) * site.width + x, told, mask=changed)


# ---------------------------------------------------------------- telling the lists that follow


@triton.jit
def announce(
    changed, full, frame, r, y, x, site, mask, edges, U: tl.constexpr, BM: tl.constexpr, EDGES: tl.constexpr
):
    """Stamp changed pixels (BM) and append the tiles they reach; in a full frame nothing is listed."""
    tl.store(mask + (r * site.height + y) * site.width + x, frame, mask=changed)
    if len(EDGES) > 0:
        N: tl.constexpr = BM // (U * U)
        far = 1 << 30
        last_y = tl.max(tl.reshape(tl.where(changed, y, -1), [N, U * U]), 1)
        some = (last_y >= 0) & ~flags(full, N)
        if tl.max(some.to(tl.int32), 0) != 0:
            first_y = tl.min(tl.reshape(tl.where(changed, y, far), [N, U * U]), 1)
            first_x = tl.min(tl.reshape(tl.where(changed, x, far), [N, U * U]), 1)
            last_x = tl.max(tl.reshape(tl.where(changed, x, -1), [N, U * U]), 1)
            row = tl.max(tl.reshape(tl.where(changed, r, 0), [N, U * U]), 1)
            for e in tl.static_range(len(EDGES)):
                if EDGES[e][EDGE_WHOLE]:
                    _reach_rows(edges[e], some, row, frame)
                else:
                    _reach_tiles(edges[e], some, row, first_y, last_y, first_x, last_x, frame, N,
                                 EDGES[e][EDGE_TAPS_Y], EDGES[e][EDGE_MOST_Y], EDGES[e][EDGE_TAPS_X],
                                 EDGES[e][EDGE_MOST_X], EDGES[e][EDGE_TILE])  # fmt: skip


@triton.jit
def _reach_tiles(
    edge, some, row, first_y, last_y, first_x, last_x, frame,
    N: tl.constexpr, TY: tl.constexpr, NY: tl.constexpr, TX: tl.constexpr, NX: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """Append the tiles that a rectangle of each of N tiles reaches.

    For each of TY x TX taps, what a tile reaches lies in at most NY x NX tiles of edge U.

    Args:
        edge: ``EdgeArgs``.
    """
    height, width = plain(edge.height), plain(edge.width)
    J: tl.constexpr = TY * NY * TX * NX
    P: tl.constexpr = triton.next_power_of_2(J)
    j = tl.arange(0, P)[None, :]
    jx = j % (TX * NX)
    jy = j // (TX * NX)
    ok = some[:, None] & (j < J)
    low_y = tl.load(edge.low_y + (jy // NY) * height + first_y[:, None], mask=ok, other=0)
    high_y = tl.load(edge.high_y + (jy // NY) * height + last_y[:, None], mask=ok, other=-1)
    low_x = tl.load(edge.low_x + (jx // NX) * width + first_x[:, None], mask=ok, other=0)
    high_x = tl.load(edge.high_x + (jx // NX) * width + last_x[:, None], mask=ok, other=-1)
    uy = low_y // U + jy % NY
    ux = low_x // U + jx % NX
    ok = ok & (low_y <= high_y) & (low_x <= high_x) & (uy <= high_y // U) & (ux <= high_x // U)
    tile = (row[:, None] * plain(edge.tiles_high) + uy) * plain(edge.tiles_wide) + ux
    _append(tl.reshape(tile, [N * P]), tl.reshape(ok, [N * P]), edge.stamps, edge.listed, edge.length, frame)


@triton.jit
def _reach_rows(edge, some, row, frame):
    """Append all tiles of each row in which anything changed.

    Args:
        edge: ``RowEdgeArgs``.
    """
    tiles, rows = plain(edge.tiles), plain(edge.rows)
    before = tl.atomic_xchg(edge.row_stamps + row, frame, mask=some, sem="relaxed")
    new = some & (before != frame)
    if tl.max(new.to(tl.int32), 0) != 0:
        for one in range(rows):
            if tl.max((new & (row == one)).to(tl.int32), 0) != 0:
                for first in range(0, tiles, 256):
                    inner = first + tl.arange(0, 256)
                    _append(one * tiles + inner, inner < tiles, edge.stamps, edge.listed, edge.length, frame)


@triton.jit
def _append(tile, ok, stamps, listed, count, frame):
    """Append tiles that are not yet on the list; one place counter for all of them."""
    # Volatile, as other programs exchange the stamps at the same time; one that comes late costs an exchange.
    seen = tl.load(stamps + tile, mask=ok, other=0, volatile=True)
    want = ok & (seen != frame)
    if tl.max(want.to(tl.int32), 0) != 0:
        before = tl.atomic_xchg(stamps + tile, frame, mask=want, sem="relaxed")
        new = (want & (before != frame)).to(tl.int32)
        number = tl.sum(new, 0)
        if number > 0:
            place = tl.atomic_add(count, number, sem="relaxed") + tl.cumsum(new, 0) - 1
            tl.store(listed + place, tile, mask=new != 0)
