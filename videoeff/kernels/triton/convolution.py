"""Convolution as an implicit matrix product over the pixels of a list."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.producers import Convolution
from videoeff.kernels.region_spec.values import combined
from videoeff.kernels.triton.binding import Binding, Launch, coded, divisor, window_of
from videoeff.kernels.triton.device import (
    block_columns,
    commit,
    count_pixels,
    divided,
    length,
    pixels,
    plain,
    plain_site,
    within,
)
from videoeff.kernels.triton.epilogue import begin_of, epilogue


class ShapeArgs(NamedTuple):
    """The sizes of a convolution.

    Attributes:
        height, width: of the input.
        inputs: of a group; divided by what they are known to divide by, or, where FLAT, known at compile
            time.
        per_group: outputs of a group, as ``block_columns`` takes them.
        blocks: of a group's outputs, or None for one group.
        padded: outputs, rounded up.
        steps, by_steps: blocks of BK inputs, and how to divide by their number; coded.
    """

    height: Any
    width: Any
    inputs: Any
    per_group: Any
    blocks: Any
    padded: Any
    steps: Any
    by_steps: Any


class LongStatic(NamedTuple):
    """Blocks of long lists, see ``convolution``."""

    BM: int
    BN: int
    NB: int


LONG_BM = tl.constexpr(LongStatic._fields.index("BM"))
LONG_BN = tl.constexpr(LongStatic._fields.index("BN"))
LONG_NB = tl.constexpr(LongStatic._fields.index("NB"))


@triton.jit(do_not_specialize=["full", "counting", "many"])
def convolution(
    site, worklist, out, test, args, edges, full, counting,
    source, weight, bias, gate, shape, window, many,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NB: tl.constexpr,
    LONG: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, FLAT: tl.constexpr, EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """Any convolution: 1x1 to large, strided, dilated, grouped; padding with zeros.

    Small blocks let a short list fill the device; large ones load less for each product, which bounds a long
    one. Where a layer has both, the list's length decides.

    Args:
        source: ``ViewArgs`` of the input.
        weight: (KH KW, inputs of a group, outputs), contiguous, its last dimension padded as ``shape`` says.
        bias: (outputs) float32, or None.
        gate: ``GateArgs`` of the input, or None.
        shape: ``ShapeArgs``.
        window: ``WindowArgs``.
        many: tiles from which on a list is long.
        LONG: ``LongStatic``, or None.
        FLAT: whether taps and channels are walked as one dimension, for few channels.
        EVEN: whether BK divides the inputs.
        PRECISION: "tf32" or "ieee" for float32.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    if LONG is None:  # noqa: SIM114 (known at compile time, the other is not)
        _blocks(site, worklist, out, test, args, edges, full, counting, source, weight, bias, gate, shape,
                window, tiles, whole, U, BM, BN, BK, NB, KH, KW, FLAT, EVEN, PRECISION,
                CODE, TEST, TOGETHER, EDGES)  # fmt: skip
    elif tiles < many:
        _blocks(site, worklist, out, test, args, edges, full, counting, source, weight, bias, gate, shape,
                window, tiles, whole, U, BM, BN, BK, NB, KH, KW, FLAT, EVEN, PRECISION,
                CODE, TEST, TOGETHER, EDGES)  # fmt: skip
    else:
        _blocks(site, worklist, out, test, args, edges, full, counting, source, weight, bias, gate, shape,
                window, tiles, whole, U, LONG[LONG_BM], LONG[LONG_BN], BK, LONG[LONG_NB], KH, KW, FLAT, EVEN,
                PRECISION, CODE, TEST, TOGETHER, EDGES)  # fmt: skip


@triton.jit
def _blocks(
    site, worklist, out, test, args, edges, full, counting,
    source, weight, bias, gate, shape, window, tiles, whole,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, FLAT: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """A program's share of the blocks of BM pixels and BN channels."""
    chunks = tl.cdiv(tiles, BM // (U * U))
    inputs = shape.inputs
    if not FLAT:
        inputs = shape.inputs * source.even
    # Moved ahead of the loop, what threads know of their places would occupy registers all along.
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0), disable_licm=True):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, tiles, whole, worklist, site, U, BM)
        count_pixels(worklist, valid, block, counting)
        cols, exists = block_columns(block, shape.per_group, shape.blocks, BN)
        base = 0
        if shape.blocks is not None:
            base = (block // shape.blocks) * inputs
        top = y * window.stride_y - window.padding_y
        left = x * window.stride_x - window.padding_x
        kk = tl.arange(0, BK)
        acc = tl.zeros([BM, BN], tl.float32)
        if FLAT:
            for k0 in range(0, KH * KW * inputs, BK):
                k = k0 + kk
                tap = k // inputs
                c = k % inputs
                iy = top[:, None] + (tap // KW)[None, :] * window.dilation_y
                ix = left[:, None] + (tap % KW)[None, :] * window.dilation_x
                ok = valid[:, None] & (iy >= 0) & (iy < shape.height) & (ix >= 0) & (ix < shape.width)
                ok = ok & (k < KH * KW * inputs)[None, :]
                begin = begin_of(source, r[:, None], iy, ix)
                place = begin + (base + c)[None, :] * source.channel
                a = tl.load(source.pointer + place, mask=ok, other=0.0)
                if gate is not None:
                    factor = gate.pointer + (r * gate.row)[:, None] + (base + c)[None, :] * gate.channel
                    a = (a.to(tl.float32) * tl.load(factor, mask=ok, other=0.0).to(tl.float32)).to(a.dtype)
                w = weight + k[:, None] * shape.padded + cols[None, :]
                inside = (k < KH * KW * inputs)[:, None] & (cols < shape.padded)[None, :]
                b = tl.load(w, mask=inside, other=0.0)
                acc = tl.dot(a, b, acc, input_precision=PRECISION)
        else:
            steps, how = plain(shape.steps), plain(shape.by_steps)
            for k in range(0, KH * KW * steps):
                if KH * KW == 1:
                    tap, part = 0, k
                else:
                    tap, part = divided(k, steps, how)
                c = part * BK + kk
                iy = top + (tap // KW) * window.dilation_y
                ix = left + (tap % KW) * window.dilation_x
                ok = valid & within(iy, shape.height) & within(ix, shape.width)
                begin = begin_of(source, r, iy, ix)
                place = begin[:, None] + tl.multiple_of(base + c, source.even)[None, :] * source.channel
                held = ok[:, None]
                if not EVEN:
                    held = held & (c < inputs)[None, :]
                a = tl.load(source.pointer + place, mask=held, other=0.0)
                if gate is not None:
                    factor = gate.pointer + (r * gate.row)[:, None] + (base + c)[None, :] * gate.channel
                    a = (a.to(tl.float32) * tl.load(factor, mask=held, other=0.0).to(tl.float32)).to(a.dtype)
                w = weight + (tap * inputs + c)[:, None] * shape.padded + cols[None, :]
                if EVEN and shape.per_group is None:
                    b = tl.load(w)
                else:
                    b = tl.load(w, mask=(c < inputs)[:, None] & (cols < shape.padded)[None, :], other=0.0)
                acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if bias is not None:
            acc += tl.load(bias + cols, mask=exists, other=0.0)[None, :]
        value = epilogue(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def launch(b: Binding, found: Convolution) -> Launch:
    """A convolution's launch."""
    window, groups, config = found.window, found.groups, b.config
    outputs, inputs, kh, kw = found.weight.shape
    per_group = outputs // groups
    blocks = -(-per_group // config.BN)
    wide = -(-outputs // 16) * 16

    even = b.even(found.input, inputs)
    room = b.room(found.input) if groups == 1 and found.gate is None else inputs
    flat = inputs < config.BK and kh * kw > 1
    if not flat and room % even:
        even, room = 1, inputs

    def packed(weight: Tensor) -> Tensor:
        taps = weight.permute(2, 3, 1, 0).reshape(kh * kw, inputs, outputs)
        return F.pad(taps, (0, wide - outputs, 0, room - inputs))

    steps = -(-room // config.BK)
    many = b.memory.processors * config.programs * config.BM // (blocks * config.U**2) + 1
    long = None
    if config.long_BM and many <= b.worklist.tiles:  # otherwise no list is long
        long = LongStatic(config.long_BM, config.long_BN, -(-per_group // config.long_BN))
    special = {
        "source": b.view(found.input, even),
        "weight": b.memory.constant(combined([found.weight], packed, (kh * kw, room, wide)), b.spec.dtype),
        "bias": None if found.bias is None else b.memory.constant(found.bias, torch.float32),
        "gate": b.gate(found.gate),
        "shape": ShapeArgs(
            *found.input.extent[1:3],
            tl.constexpr(room) if flat else room // even,
            b.columns(per_group),
            blocks if groups > 1 else None,
            wide,
            coded(steps),
            coded(divisor(steps)),
        ),
        "window": window_of(window),
        "many": many,
        "BK": config.BK,
        "LONG": long,
        "KH": kh,
        "KW": kw,
        "FLAT": flat,
        "EVEN": not flat and room % config.BK == 0,
        "PRECISION": "tf32" if b.memory.tf32 else "ieee",
    }
    return b.launch(convolution, blocks * groups, per_group, special).bounded()
