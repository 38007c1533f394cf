"""Rows of one pixel whose epilogue holds means and linear layers: pooled heads and squeeze-excite gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.region_spec.values import Constant, Instruction, combined
from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.configs import ALONG, power_of_two
from videoeff.kernels.triton.describe import WIDEST
from videoeff.kernels.triton.device import commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.epilogue import load_argument, part_of
from videoeff.kernels.triton.records import MADE, InstructionStatic, ViewArgs

#: Elements of a matrix taken at once.
AREA = 8192

#: Weights of a linear layer from which on several programs share it.
MANY = 1 << 17

#: What a part of an epilogue begins with.
PLAIN = tl.constexpr(0)
MEAN = tl.constexpr(1)
LINEAR = tl.constexpr(2)


class MeanArgs(NamedTuple):
    """The mean over a map.

    Attributes:
        sums: pointer to the sums of tiles (tiles of all rows, channels).
        tiles: of a row.
        channels, pixels: of the map.
    """

    sums: Any
    tiles: int
    channels: int
    pixels: int


class PartStatic(NamedTuple):
    """A part of an epilogue.

    Attributes:
        head: what it begins with: ``PLAIN``, ``MEAN`` or ``LINEAR``.
        width: channels of its value.
        block: channels that are computed at once.
        inner: inputs of a linear layer, or tiles of a mean, that are looked at at once.
        inputs: of the linear layer; 0 without one, and so are the next three.
        source: the scratch argument that it reads.
        weight: the argument with its weights; that with its bias follows.
        bias: whether it has one.
        slot: the scratch argument that takes its value.
        first, behind: its first instruction, and the one behind its last.
    """

    head: int
    width: int
    block: int
    inner: int
    inputs: int
    source: int
    weight: int
    bias: int
    slot: int
    first: int
    behind: int


# Where these stand in the record.
PART_HEAD = tl.constexpr(PartStatic._fields.index("head"))
PART_WIDTH = tl.constexpr(PartStatic._fields.index("width"))
PART_BLOCK = tl.constexpr(PartStatic._fields.index("block"))
PART_INNER = tl.constexpr(PartStatic._fields.index("inner"))
PART_INPUTS = tl.constexpr(PartStatic._fields.index("inputs"))
PART_SOURCE = tl.constexpr(PartStatic._fields.index("source"))
PART_WEIGHT = tl.constexpr(PartStatic._fields.index("weight"))
PART_BIAS = tl.constexpr(PartStatic._fields.index("bias"))
PART_SLOT = tl.constexpr(PartStatic._fields.index("slot"))
PART_FIRST = tl.constexpr(PartStatic._fields.index("first"))
PART_BEHIND = tl.constexpr(PartStatic._fields.index("behind"))

BINARY = (
    EpiOp.ADD, EpiOp.SUB, EpiOp.MUL, EpiOp.DIV, EpiOp.MAXIMUM, EpiOp.MINIMUM, EpiOp.PRELU
)  # fmt: skip


@triton.jit
def _mean_of(mean, r, cols, exists, TILES: tl.constexpr, BN: tl.constexpr):
    """The mean over a row's pixels (1, BN), from the sums of its tiles in their order."""
    total = tl.zeros([TILES, BN], tl.float32)
    for first in range(0, mean.tiles, TILES):
        k = first + tl.arange(0, TILES)
        place = (r * mean.tiles + k)[:, None] * mean.channels + cols[None, :]
        total += tl.load(mean.sums + place, mask=(k < mean.tiles)[:, None] & exists[None, :], other=0.0)
    return (tl.sum(total, 0) / mean.pixels)[None, :]


@triton.jit
def _linear(
    source, weight, bias, r, cols, exists, INPUTS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """A linear layer's outputs (1, BN) of a value in scratch memory."""
    total = tl.zeros([BN, BK], tl.float32)
    for first in range(0, INPUTS, BK):
        k = first + tl.arange(0, BK)
        value = tl.load(source.pointer + r * source.row + k, mask=k < INPUTS, other=0.0)
        place = cols[:, None] * weight.column + k[None, :] * weight.channel
        factor = tl.load(
            weight.pointer + place, mask=exists[:, None] & (k < weight.column)[None, :], other=0.0
        )
        total += factor.to(tl.float32) * value[None, :]
    made = tl.sum(total, 1)
    if bias is not None:
        made += tl.load(bias + cols, mask=exists, other=0.0).to(tl.float32)
    return made[None, :]


@triton.jit
def _block(
    args, mean, first, r, y, x, valid,
    HEAD: tl.constexpr, WIDTH: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, INPUTS: tl.constexpr,
    SOURCE: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, SLOT: tl.constexpr,
    FIRST: tl.constexpr, BEHIND: tl.constexpr, CODE: tl.constexpr,
):  # fmt: skip
    """Compute the channels of a part's value from ``first`` on, into scratch memory; see ``PARTS``."""
    cols = first + tl.arange(0, BN)
    exists = cols < WIDTH
    if HEAD == LINEAR:
        bias = None
        if BIAS:
            bias = args[WEIGHT + 1].pointer
        made = _linear(args[SOURCE], args[WEIGHT], bias, r, cols, exists, INPUTS, BN, BK)
    elif HEAD == MEAN:
        made = _mean_of(mean, r, cols, exists, BK, BN)
    else:
        made = None
    value = part_of(made, args, CODE, FIRST, BEHIND, r, y, x, cols, valid, exists[None, :], WIDTH)
    slot = args[SLOT]
    place = (r * slot.row)[:, None] + cols[None, :]
    tl.store(slot.pointer + place, tl.broadcast_to(value, [1, BN]), mask=exists[None, :])


@triton.jit
def _part(
    args, mean, block, blocks, r, y, x, valid, PARTS: tl.constexpr, p: tl.constexpr, CODE: tl.constexpr
):  # fmt: skip
    """Compute some of the blocks of channels of a part's value, one after the other."""
    BN: tl.constexpr = PARTS[p][PART_BLOCK]
    for first in range(block * BN, (block + blocks) * BN, BN):
        _block(args, mean, first, r, y, x, valid, PARTS[p][PART_HEAD], PARTS[p][PART_WIDTH], BN,
               PARTS[p][PART_INNER], PARTS[p][PART_INPUTS], PARTS[p][PART_SOURCE], PARTS[p][PART_WEIGHT],
               PARTS[p][PART_BIAS], PARTS[p][PART_SLOT], PARTS[p][PART_FIRST], PARTS[p][PART_BEHIND],
               CODE)  # fmt: skip


@triton.jit(do_not_specialize=["full", "counting"])
def rows(
    site, worklist, out, test, args, edges, full, counting, mean, stale, channels,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    PARTS: tl.constexpr, CODE: tl.constexpr, LAST: tl.constexpr,
    TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """Compute parts of the epilogue for listed rows of one pixel, a program each.

    Args:
        args: behind the arguments of the epilogue, the scratch memory of each part's value.
        mean: ``MeanArgs``, or None.
        stale: a flag of the sums, which are up to date now, or None.
        channels: of the value.
        PARTS: ``PartStatic`` of each part.
        LAST: the scratch argument that is the value, or None where other kernels compute further parts.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    if stale is not None:  # noqa: SIM102 (what is known at compile time is asked first)
        if tl.program_id(0) == 0:
            tl.store(stale, 0)
    for t in tl.range(tl.program_id(0), tiles, tl.num_programs(0)):
        r, y, x, valid = pixels(t, tiles, whole, worklist, site, U, BM)
        for p in tl.static_range(len(PARTS)):
            blocks = tl.cdiv(PARTS[p][PART_WIDTH], PARTS[p][PART_BLOCK])
            _part(args, mean, 0, blocks, r, y, x, valid, PARTS, p, CODE)
            tl.debug_barrier()
        if LAST is not None:
            count_pixels(worklist, valid, 0, counting)
            cols = tl.arange(0, BN)
            exists = (cols < channels)[None, :]
            value = load_argument(args[LAST], r, y, x, cols, valid, exists)
            commit(value, t, 0, full, r, y, x, valid, cols, exists, site, worklist, out, test,
                   edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


@triton.jit(do_not_specialize=["full"])
def wide_part(
    site, worklist, args, full,
    U: tl.constexpr, BM: tl.constexpr, NB: tl.constexpr, PARTS: tl.constexpr, CODE: tl.constexpr,
):  # fmt: skip
    """Compute one part of the epilogue for listed rows, a program for each of its NB blocks of channels."""
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    for t in tl.range(tl.program_id(0), tiles * NB, tl.num_programs(0)):
        r, y, x, valid = pixels(t // NB, tiles, whole, worklist, site, U, BM)
        _part(args, None, t % NB, 1, r, y, x, valid, PARTS, 0, CODE)


# ---------------------------------------------------------------- cutting an epilogue


@dataclass(frozen=True)
class Part:
    """Instructions of one width that are computed in registers; only the last one's value is read elsewhere.

    Attributes:
        first, last: which instructions, ``last`` is the one behind them.
        width: channels.
    """

    first: int
    last: int
    width: int


def parts_of(spec: RegionSpec) -> list[Part]:
    """An epilogue cut before whatever looks along channels, and behind whatever that reads."""
    code = spec.epilogue
    widths = [spec.channels if i is None else i.width for i in code]
    cuts = {0, len(code)}
    width = 0
    for at, instruction in enumerate(code):
        begins = instruction is None or instruction.op == EpiOp.LINEAR or instruction.op in ALONG
        if begins or (width and widths[at] not in (0, width)):
            cuts.add(at)
            width = 0
        width = max(width, widths[at])
    while True:
        edges = sorted(cuts)
        of = {at: p for p in range(len(edges) - 1) for at in range(edges[p], edges[p + 1])}
        read = {a for at, i in enumerate(code) for a in _operands(i) if a >= 0 and of[a] != of[at]}
        if {a + 1 for a in read} <= cuts:
            break
        cuts |= {a + 1 for a in read}
    return [Part(a, b, max(1, *widths[a:b])) for a, b in pairwise(edges)]


def _operands(instruction: Instruction | None) -> tuple[int, ...]:
    if instruction is None:
        return ()
    return (instruction.a, instruction.b) if instruction.op in BINARY else (instruction.a,)


def _told(spec: RegionSpec, parts: Sequence[Part], number: int, tiles: int) -> PartStatic:
    """A part as kernels read it."""
    part, scratch = parts[number], len(spec.arguments)
    head = spec.epilogue[part.first]
    wide = power_of_two(min(part.width, WIDEST))
    beginning, inner, rest = PLAIN.value, 1, (0, 0, 0, 0)
    if head is None:
        beginning, inner = MEAN.value, power_of_two(min(tiles, max(1, AREA // wide)))
    elif head.op == EpiOp.LINEAR:
        inputs = spec.arguments[-1 - head.b].extent[3]
        inner = power_of_two(min(inputs, AREA // min(wide, 16 if is_wide(spec, part) else 64)))
        wide = min(wide, AREA // inner)
        source = next(p for p, other in enumerate(parts) if other.last == head.a + 1)
        beginning, rest = LINEAR.value, (inputs, scratch + source, -1 - head.b, int(head.q))
    return PartStatic(beginning, part.width, wide, inner, *rest, scratch + number, part.first, part.last)


def _code(b: Binding, parts: Sequence[Part]) -> tuple[InstructionStatic, ...]:
    """The instructions as kernels read them: values of other parts are arguments, linear layers are made."""
    scratch = len(b.spec.arguments)
    of = {at: p for p, part in enumerate(parts) for at in range(part.first, part.last)}

    def moved(operand: int, part: int) -> int:
        if operand < 0:
            return operand
        return operand - parts[part].first if of[operand] == part else -1 - scratch - of[operand]

    told: list[InstructionStatic] = []
    for at, (op, first, second, p, q) in enumerate(b.code()):
        if op in (MADE.op, EpiOp.LINEAR):
            told.append(MADE)
        else:
            other = moved(second, of[at]) if op in BINARY else 0
            told.append(InstructionStatic(op, moved(first, of[at]), other, p, q))
    return tuple(told)


def _padded(spec: RegionSpec) -> RegionSpec:
    """With each output's weights at multiples of 16 elements, zeros between them."""
    arguments = list(spec.arguments)
    for instruction in spec.epilogue:
        if instruction is None or instruction.op != EpiOp.LINEAR:
            continue
        view = arguments[-1 - instruction.b]
        assert isinstance(view.source, Constant)  # weights
        _, _, outputs, inputs = view.extent
        wide = -(-inputs // 16) * 16
        pad = partial(F.pad, pad=(0, wide - inputs))
        source = combined([view.source], pad, (outputs, wide))
        strides = (0, 0, wide, 1)
        arguments[-1 - instruction.b] = replace(view, source=source, size=outputs * wide, strides=strides)
    return replace(spec, arguments=tuple(arguments))


def _slot(memory: Tensor, row: int, many: bool) -> ViewArgs:
    """Scratch memory as a view of kernels, ``row`` elements a row."""
    even = 8 if many else 1
    return ViewArgs(
        pointer=memory,
        row=row,
        line=0,
        column=0,
        channel=int(many),
        even=tl.constexpr(even),
        row_by_even=row // even,
        line_by_even=0,
        column_by_even=0,
        room_by_even=None,
        vast=tl.constexpr(False),
    )


def is_wide(spec: RegionSpec, part: Part) -> bool:
    """Whether a part is a linear layer of so many weights that programs share it."""
    head = spec.epilogue[part.first]
    if head is None or head.op != EpiOp.LINEAR:
        return False
    _, _, outputs, inputs = spec.arguments[-1 - head.b].extent
    return outputs * inputs >= MANY


def launches(b: Binding, mean: MeanArgs | None = None, stale: Tensor | None = None) -> Iterator[Launch]:
    """The launches of rows, with the sums of their tiles if they hold a mean: a program for each row.

    Between them, those of linear layers of many weights, which several programs share.
    """
    b = replace(b, spec=_padded(b.spec))
    parts = parts_of(b.spec)
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + -(-part.width // 16) * 16)
    scratch = b.memory.scratch("rows", b.worklist.extent[0] * starts[-1], torch.float32)
    slots = [_slot(scratch[s:], starts[-1], p.width > 1) for s, p in zip(starts, parts, strict=False)]
    special = {"mean": mean, "stale": stale, "channels": b.channels}
    made = b.launch(rows, 1, b.channels, special).bounded()
    args = (*(made.arguments["args"] or ()), *slots)
    told = [_told(b.spec, parts, p, mean.tiles if mean else 1) for p in range(len(parts))]
    shared = {"args": args, "CODE": _code(b, parts)}
    waiting: list[PartStatic] = []
    for part, own in zip(parts, told, strict=True):
        if not is_wide(b.spec, part):
            waiting.append(own)
            continue
        if waiting:
            yield replace(made, arguments={**made.arguments, **shared, "PARTS": tuple(waiting), "LAST": None})
            waiting = []
        blocks = -(-part.width // own.block)
        given = {n: made.arguments[n] for n in ("site", "worklist", "U", "BM")}
        programs = min(b.memory.processors * b.config.programs, b.worklist.tiles * blocks)
        given |= {**shared, "NB": blocks, "PARTS": (own,)}
        yield Launch(b.call.name, wide_part, programs, given, made.options, ("full",))
    last = len(args) - 1
    yield replace(made, arguments={**made.arguments, **shared, "PARTS": tuple(waiting), "LAST": last})
