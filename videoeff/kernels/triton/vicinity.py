"""Bounded reach: which pixels lie near what changed, and which of those that changes reach are put off.

Three kernels. ``pack`` makes bits of what changed in a source, 64 pixels a word; ``gather`` makes those of
the pixels near it, once for all maps of one size; ``put_off`` decides before each region what of it is due.
What is due is kept as bits, too: where a tile holds pixels that are not, ``device.pixels`` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.bounded import WORD
from videoeff.kernels.bounded import words as words_of
from videoeff.kernels.call import Bound, RegionCall, Vicinity
from videoeff.kernels.triton.binding import Binding, Launch, Memory, coded, site_of
from videoeff.kernels.triton.configs import power_of_two
from videoeff.kernels.triton.device import divided, plain, plain_site
from videoeff.kernels.triton.order import Step
from videoeff.kernels.triton.worklist import Worklist
from videoeff.ops.home import Near

#: Edge of a source's squares in which it is told whether anything changed.
SQUARE = WORD

#: Lines packed at once, and lines of a map whose surroundings are gathered at once.
PACKED, GATHERED = 16, 4

#: Most words of a line that are gathered at once.
WIDE = 32

#: Lines of a source that are loaded before the first of them is needed.
AHEAD = 4

#: Strips, each a tile high and a word wide, that are decided about at once.
STRIPS = 8

#: Programs of each kernel per multiprocessor.
PROGRAMS = 8


def reached(layer: str) -> str:
    """The name of the list of what is to be decided about."""
    return f"{layer}/unbounded"


def changed(layer: str) -> str:
    """The name of the list of a source's squares, a word wide, in which something changed."""
    return f"{layer}/changed"


@dataclass(frozen=True, eq=False)
class Source:
    """What changes come from: its list, and that of its squares in which something changed."""

    worklist: Worklist
    squares: Worklist

    @property
    def step(self) -> Step:
        """What its kernel reads and writes."""
        name = self.worklist.name
        return Step(
            frozenset({"frame", f"mask {name}", f"list {self.squares.name}"}), frozenset({f"packed {name}"})
        )


def step_of_vicinity(vicinity: Vicinity) -> Step:
    """What the kernel of a vicinity reads and writes."""
    reads = {"frame", *(f"packed {near.layer}" for near in vicinity.near)}
    return Step(frozenset(reads), frozenset({f"vicinity {vicinity.name}"}))


# ---------------------------------------------------------------- what changed


@triton.jit
def _word_of(found, BITS: tl.constexpr):
    """Truth values (N, BITS) as words (N)."""
    return tl.sum(found.to(tl.int64) << tl.arange(0, BITS)[None, :].to(tl.int64), 1)


@triton.jit
def pack(
    site, frame, squares, mask, packed, rows, LINES: tl.constexpr, PARTS: tl.constexpr, BITS: tl.constexpr
):  # fmt: skip
    """The stamps of a source as bits; squares that are not stamped hold none.

    Args:
        site: ``SiteArgs`` of the source, in squares of 64 x 64 pixels.
        frame: pointer to the frame's number.
        squares: pointer to the squares' stamps.
        mask: pointer to the pixels' stamps.
        packed: pointer to the words (R, H, words).
        rows: pointer to a stamp for each row in which anything changed.
        LINES: taken at once.
        PARTS: LINES of a square.
        BITS: of a word.
    """
    number = tl.load(frame)
    site = plain_site(site)
    for t in tl.range(tl.program_id(0), site.tiles * PARTS, tl.num_programs(0)):
        square = t // PARTS
        above, k = divided(square, site.tiles_wide, site.by_wide)
        r, down = divided(above, site.tiles_high, site.by_high)
        y = down * BITS + t % PARTS * LINES + tl.arange(0, LINES)
        x = k * BITS + tl.arange(0, BITS)
        some = tl.load(squares + square) == number
        line = r * site.height + y
        ok = (y < site.height)[:, None] & (x < site.width)[None, :] & some
        stamps = tl.load(mask + line[:, None] * site.width + x[None, :], mask=ok, other=0)
        words = _word_of(ok & (stamps == number), BITS)
        tl.store(packed + line * site.tiles_wide + k, words, mask=y < site.height)
        if tl.max((words != 0).to(tl.int32), 0) != 0:
            tl.store(rows + r, number)


def pack_launch(source: Source, memory: Memory) -> Launch:
    """The launch that packs a source."""
    squares, (rows, height, _) = source.squares, source.squares.extent
    tensors = squares.tensors
    with torch.no_grad():
        tensors["words"] = torch.zeros(
            rows * height * squares.grid[1], dtype=torch.int64, device=memory.device
        )
        tensors["moved"] = torch.zeros(rows, dtype=torch.int32, device=memory.device)
    given = {
        "site": site_of(squares),
        "frame": memory.frame,
        "squares": tensors["stamps"],
        "mask": source.worklist.tensors["mask"],
        "packed": tensors["words"],
        "rows": tensors["moved"],
        "LINES": PACKED,
        "PARTS": WORD // PACKED,
        "BITS": WORD,
    }
    programs = min(memory.processors * PROGRAMS, squares.tiles * (WORD // PACKED))
    return Launch(squares.name, pack, programs, given, {"num_warps": 4}, ()).bounded()


# ---------------------------------------------------------------- what lies near


class NearArgs(NamedTuple):
    """A source, and which of its pixels are near each pixel of a map.

    Attributes:
        packed: pointer to its words (R, H, words).
        rows: pointer to the stamps of rows in which anything changed.
        height, words: of the source; coded.
        top, bottom: pointers to the first and the last line that are near each line of the map; None, and so
            are the rest, where all of it is near.
        first, last: the same of columns.
        most_lines, most_words: of any line, and of any column; coded.
        lines: memory for (lines of the map, words of the source).
    """

    packed: Any
    rows: Any
    height: Any = None
    words: Any = None
    top: Any = None
    bottom: Any = None
    first: Any = None
    last: Any = None
    most_lines: Any = None
    most_words: Any = None
    lines: Any = None


class MapArgs(NamedTuple):
    """A map of which pixels are near: lines of all rows, lines, pixels of a line, words of a line; coded."""

    lines: Any
    height: Any
    width: Any
    words: Any


@triton.jit
def _lines_near(near, n, r, y, ok, WORDS: tl.constexpr, AHEAD: tl.constexpr):
    """Keep for each line n of a map which columns of the source changed in the lines near it."""
    height, words, most = plain(near.height), plain(near.words), plain(near.most_lines)
    top = tl.load(near.top + y, mask=ok, other=0)
    bottom = tl.load(near.bottom + y, mask=ok, other=-1)
    for begin in range(0, words, WORDS):
        k = begin + tl.arange(0, WORDS)
        total = tl.zeros([n.shape[0], WORDS], tl.int64)
        for first in range(0, most, AHEAD):
            for j in tl.static_range(AHEAD):
                v = top + first + j
                here = (v <= bottom)[:, None] & (k < words)[None, :]
                total |= tl.load(
                    near.packed + ((r * height + v) * words)[:, None] + k[None, :], mask=here, other=0
                )
        tl.store(
            near.lines + (n * words)[:, None] + k[None, :], total, mask=ok[:, None] & (k < words)[None, :]
        )


@triton.jit
def _columns_near(near, n, x, ok, inside, BITS: tl.constexpr):
    """Whether anything changed in the columns near columns x of a map, in lines that were kept (N, 64)."""
    words = plain(near.words)
    first = tl.load(near.first + x, mask=inside, other=0)
    last = tl.load(near.last + x, mask=inside, other=-1)
    found = tl.zeros([n.shape[0], x.shape[0]], tl.int64)
    ones = tl.full([x.shape[0]], -1, tl.int64)
    for j in range(0, plain(near.most_words)):
        k = first // BITS + j
        here = k * BITS <= last
        low = tl.where(here, tl.maximum(first - k * BITS, 0), 0).to(tl.int64)
        high = tl.where(here, tl.minimum(last - k * BITS, BITS - 1), 0).to(tl.int64)
        bits = ~((ones << (high - low)) << 1) << low
        word = tl.load(
            near.lines + (n * words)[:, None] + k[None, :], mask=ok[:, None] & here[None, :], other=0
        )
        found |= word & bits[None, :]
    return found != 0


@triton.jit
def gather(
    frame, near, found, map,
    LINES: tl.constexpr, WORDS: tl.constexpr, AHEAD: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The pixels of a map that lie near what changed, as bits.

    Args:
        frame: pointer to the frame's number.
        near: ``NearArgs`` of each source, or None.
        found: pointer to the words (R, H, words).
        map: ``MapArgs``.
        LINES: of the map, taken at once.
        WORDS: of a source's line, taken at once.
        AHEAD: lines of a source that are loaded before the first of them is needed.
        BITS: of a word.
    """
    number = tl.load(frame)
    lines, height, width, words = plain(map.lines), plain(map.height), plain(map.width), plain(map.words)
    for t in tl.range(tl.program_id(0), tl.cdiv(lines, LINES), tl.num_programs(0)):
        n = t * LINES + tl.arange(0, LINES)
        ok = n < lines
        r = n // height
        if near is not None:
            for i in tl.static_range(len(near)):
                if near[i].top is not None:
                    _lines_near(near[i], n, r, n % height, ok, WORDS, AHEAD)
            tl.debug_barrier()
        for k in range(0, words):
            x = k * BITS + tl.arange(0, BITS)
            inside = x < width
            some = tl.zeros([LINES, BITS], tl.int1)
            if near is not None:
                for i in tl.static_range(len(near)):
                    if near[i].top is None:
                        moved = tl.load(near[i].rows + r, mask=ok, other=0) == number
                        some = some | (moved[:, None] & inside[None, :])
                    else:
                        some = some | _columns_near(near[i], n, x, ok, inside, BITS)
            tl.store(found + n * words + k, _word_of(some, BITS), mask=ok)


def gather_launch(vicinity: Vicinity, lists: dict[str, Worklist], memory: Memory) -> Launch:
    """The launch that finds the pixels of a vicinity.

    Args:
        vicinity: which.
        lists: the plan's lists by name, those of its sources' squares among them.
        memory: where the result goes.
    """
    rows, height, width = vicinity.extent
    words = words_of(width)
    apart = [rows * height * words_of(near.extent[2]) for near in vicinity.near]
    scratch = memory.scratch("vicinity", sum(apart), torch.int64)
    starts = [sum(apart[:i]) for i in range(len(apart))]
    near = [
        _near_args(n, lists[changed(n.layer)].tensors, scratch[at:], memory)
        for n, at in zip(vicinity.near, starts, strict=True)
    ]
    with torch.no_grad():
        found = torch.zeros(rows * height * words, dtype=torch.int64, device=memory.device)
    memory.vicinities[vicinity.name] = found
    given = {
        "frame": memory.frame,
        "near": tuple(near) or None,
        "found": found,
        "map": MapArgs(coded(rows * height), coded(height), coded(width), coded(words)),
        "LINES": GATHERED,
        "WORDS": min(WIDE, max((power_of_two(words_of(n.extent[2])) for n in vicinity.near), default=1)),
        "AHEAD": AHEAD,
        "BITS": WORD,
    }
    programs = min(memory.processors * PROGRAMS, -(-rows * height // GATHERED))
    return Launch(vicinity.name, gather, programs, given, {"num_warps": 4}, ()).bounded()


def _near_args(near: Near, tensors: dict[str, Tensor], lines: Tensor, memory: Memory) -> NearArgs:
    packed, rows = tensors["words"], tensors["moved"]
    if near.rows is None or near.columns is None:
        return NearArgs(packed, rows)
    (top, bottom), (first, last) = near.rows, near.columns
    return NearArgs(
        packed=packed,
        rows=rows,
        height=coded(near.extent[1]),
        words=coded(words_of(near.extent[2])),
        top=memory.keep(top.to(torch.int32)),
        bottom=memory.keep(bottom.to(torch.int32)),
        first=memory.keep(first.to(torch.int32)),
        last=memory.keep(last.to(torch.int32)),
        most_lines=coded(int((bottom - top).max()) + 1),
        most_words=coded(int((last // WORD - first // WORD).max()) + 1),
        lines=lines,
    )


# ---------------------------------------------------------------- what is due


class SweepArgs(NamedTuple):
    """Whose turn it is.

    Attributes:
        phase: pointer to the frames that each stream has seen; negative: nothing is refreshed.
        streams: pointer to the stream of each row.
        starts: pointer to the lines at which each frame of a sweep begins, and the last one ends.
        frames: of a sweep; coded.
    """

    phase: Any
    streams: Any
    starts: Any
    frames: Any


@triton.jit
def put_off(
    site, frame, reached, near, deferred, due, worklist, fresh, sweep, words,
    U: tl.constexpr, S: tl.constexpr, P: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """Of the tiles that changes reach, and the pixels put off before: list what is due, put off the rest.

    All of rows without a past is due.

    Args:
        site: ``SiteArgs`` of the region.
        frame: pointer to the frame's number.
        reached: pointer to the stamps of tiles that are reached.
        near: pointer to the words (R, H, words) of what lies near.
        deferred: of what was put off, and is put off now.
        due: of what is to be computed.
        worklist: ``ListArgs`` of the region.
        fresh: pointer to flags of rows without a past.
        sweep: ``SweepArgs``, or None.
        words: of a line; coded.
        S: strips of U lines and BITS columns, taken at once.
        P: tiles of a strip.
        BITS: of a word.
    """
    ONES: tl.constexpr = (1 << U) - 1
    number = tl.load(frame)
    site = plain_site(site)
    words = plain(words)
    strips = site.tiles // site.tiles_wide * words
    j = tl.arange(0, P)
    shift = (j * U).to(tl.int64)
    for t in tl.range(tl.program_id(0), tl.cdiv(strips, S), tl.num_programs(0)):
        s = t * S + tl.arange(0, S)
        exists = s < strips
        above = s // words
        k = s % words
        r, down = divided(above, site.tiles_high, site.by_high)
        y = (down * U)[:, None] + tl.arange(0, U)[None, :]
        ok = exists[:, None] & (y < site.height)
        place = ((r * site.height)[:, None] + y) * words + k[:, None]
        across = (k * P)[:, None] + j[None, :]
        tile = (above * site.tiles_wide)[:, None] + across
        there = exists[:, None] & (across < site.tiles_wide)
        stamps = tl.load(reached + tile, mask=there, other=0)
        arrived = there & (stamps == number)
        wanted = tl.sum(tl.where(arrived, ONES, 0).to(tl.int64) << shift[None, :], 1)[:, None]
        wanted = wanted | tl.load(deferred + place, mask=ok, other=0)
        rest = site.width - k * BITS
        ones = tl.full([S], -1, tl.int64)
        inside = tl.where(rest < BITS, ~(ones << tl.minimum(rest, BITS - 1).to(tl.int64)), ones)[:, None]
        allowed = tl.load(near + place, mask=ok, other=0)
        if sweep is not None:
            frames = plain(sweep.frames)
            stream = tl.load(sweep.streams + r, mask=exists, other=0)
            seen = tl.load(sweep.phase + stream, mask=exists, other=0)
            phase = tl.where(seen < 0, 0, seen) % frames
            first = tl.load(sweep.starts + phase)[:, None]
            stop = tl.load(sweep.starts + phase + 1)[:, None]
            allowed = tl.where((y >= first) & (y < stop) & (seen >= 0)[:, None], ones[:, None], allowed)
        begins = (tl.load(fresh + r, mask=exists, other=0) != 0)[:, None]
        wanted = tl.where(begins, inside, wanted & inside)
        allowed = tl.where(begins, ones[:, None], allowed)
        now = tl.where(ok, wanted & allowed, 0)
        tl.store(deferred + place, wanted & ~allowed, mask=ok)
        tl.store(due + place, now, mask=ok)
        held = (now[:, :, None] >> shift[None, None, :]) & ONES
        new = tl.reshape(tl.max((held != 0).to(tl.int32), 1), [S * P])
        count = tl.sum(new, 0)
        if count > 0:
            slot = tl.atomic_add(worklist.length, count, sem="relaxed") + tl.cumsum(new, 0) - 1
            tiles = tl.reshape(tile, [S * P])
            tl.store(worklist.listed + slot, tiles, mask=new != 0)
            tl.store(worklist.stamps + tiles, tl.zeros_like(tiles) + number, mask=new != 0)


def launch(b: Binding, bound: Bound) -> Launch:
    """What runs before the kernels of a region whose reach is bounded."""
    memory, worklist, reached = b.memory, b.worklist, b.unbounded
    assert reached is not None  # what is reached
    sweep = None
    if bound.sweep:
        sweep = SweepArgs(
            memory.state[bound.phase],
            memory.keep(torch.tensor(b.streams, dtype=torch.int32)),
            memory.keep(torch.tensor(bound.sweep, dtype=torch.int32)),
            coded(len(bound.sweep) - 1),
        )
    words = words_of(worklist.extent[2])
    given = {
        "site": site_of(worklist),
        "frame": memory.frame,
        "reached": reached.tensors["stamps"],
        "near": memory.vicinities[bound.vicinity.name],
        "deferred": memory.state[bound.deferred],
        "due": worklist.tensors["due"],
        "worklist": memory.list_of(worklist),
        "fresh": memory.fresh[b.streams],
        "sweep": sweep,
        "words": coded(words),
        "U": worklist.tile,
        "S": STRIPS,
        "P": WORD // worklist.tile,
        "BITS": WORD,
    }
    strips = worklist.extent[0] * worklist.grid[0] * words
    programs = min(memory.processors * PROGRAMS, -(-strips // STRIPS))
    return Launch(b.call.name, put_off, programs, given, {"num_warps": 4}, ()).bounded()


def ahead(calls: tuple[RegionCall, ...]) -> Iterator[tuple[RegionCall, tuple[str, ...], Vicinity | None]]:
    """The calls, each with the sources to pack and the vicinity to find before it."""
    packed: set[str] = set()
    found: set[str] = set()
    for call in calls:
        if call.bound is None or call.bound.vicinity.name in found:
            yield call, (), None
            continue
        vicinity = call.bound.vicinity
        new = tuple(dict.fromkeys(n.layer for n in vicinity.near if n.layer not in packed))
        packed.update(new)
        found.add(vicinity.name)
        yield call, new, vicinity
