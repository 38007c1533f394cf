"""Transposed convolution as an implicit matrix product over the pixels of a list."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.producers import TransposedConvolution
from videoeff.kernels.region_spec.values import combined
from videoeff.kernels.triton.binding import Binding, Launch, offsets_of
from videoeff.kernels.triton.device import (
    block_columns,
    commit,
    count_pixels,
    is_due,
    length,
    listed_pixels,
    plain_site,
)
from videoeff.kernels.triton.epilogue import begin_of, epilogue


class ShapeArgs(NamedTuple):
    """The sizes of a transposed convolution.

    Attributes:
        height, width: of the input.
        inputs: of a group, divided by what they are known to divide by.
        per_group: outputs of a group, as ``block_columns`` takes them.
        blocks: of a group's outputs, or None for one group.
        padded: outputs, rounded up.
    """

    height: Any
    width: Any
    inputs: Any
    per_group: Any
    blocks: Any
    padded: Any


@triton.jit
def _line(y, k, size, stride: tl.constexpr, padding, dilation, APART: tl.constexpr):
    """The line of the input that reaches lines y of the value by tap k, and whether there is one."""
    at = y + padding - k * dilation
    line = at // stride
    there = (at >= 0) & (line < size)
    if stride != APART:
        there = there & (at % stride == 0)
    return line, there


@triton.jit(do_not_specialize=["full", "counting"])
def transposed(
    site, worklist, out, test, args, edges, full, counting,
    source, weight, bias, shape, window,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, APART: tl.constexpr,
    PRECISION: tl.constexpr, CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    """Strided, padded, dilated, grouped.

    With a stride of s only every s-th tap of a line reaches a pixel. Pixels are therefore taken APART lines
    and columns from one another, so that the taps that reach any of a chunk's pixels reach all of them. A
    chunk then holds one pixel in APART² of APART² times as many tiles.

    Args:
        source: ``ViewArgs`` of the input.
        weight: (KH KW, inputs of a group, outputs), contiguous, its last dimension padded as ``shape`` says.
        bias: (outputs) float32, or None.
        shape: ``ShapeArgs``.
        window: ``OffsetArgs``.
        SY, SX: the stride.
        APART: SY and SX, or 1 where taps that reach no pixel are masked, as with dilation.
        PRECISION: "tf32" or "ieee" for float32.
    """
    V: tl.constexpr = U // APART
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    chunks = tl.cdiv(tiles, BM // (V * V)) * (APART * APART)
    inputs = shape.inputs * source.even
    steps = tl.cdiv(inputs, BK)
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        first_y = (chunk % (APART * APART)) // APART
        first_x = chunk % APART
        r, y, x, valid = listed_pixels(chunk // (APART * APART), tiles, whole, worklist, site, V, BM)
        y = y * APART + first_y
        x = x * APART + first_x
        valid = valid & (y < site.height) & (x < site.width)
        valid = valid & is_due(r, y, x, valid, worklist, site)
        count_pixels(worklist, valid, block, counting)
        cols, exists = block_columns(block, shape.per_group, shape.blocks, BN)
        base = 0
        if shape.blocks is not None:
            base = (block // shape.blocks) * inputs
        first_y = (first_y + window.padding_y) % APART  # now of the taps
        first_x = (first_x + window.padding_x) % APART
        high = tl.cdiv(KH - first_y, APART)
        wide = tl.cdiv(KW - first_x, APART)
        kk = tl.arange(0, BK)
        acc = tl.zeros([BM, BN], tl.float32)
        for k in range(0, high * wide * steps):
            c = (k % steps) * BK + kk
            ky = first_y + (k // steps) // wide * APART
            kx = first_x + (k // steps) % wide * APART
            iy, above = _line(y, ky, shape.height, SY, window.padding_y, window.dilation_y, APART)
            ix, beside = _line(x, kx, shape.width, SX, window.padding_x, window.dilation_x, APART)
            ok = (valid & above & beside)[:, None] & (c < inputs)[None, :]
            begin = begin_of(source, r, iy, ix)
            place = begin[:, None] + tl.multiple_of(base + c, source.even)[None, :] * source.channel
            a = tl.load(source.pointer + place, mask=ok, other=0.0)
            w = weight + ((ky * KW + kx) * inputs + c)[:, None] * shape.padded + cols[None, :]
            b = tl.load(w, mask=(c < inputs)[:, None] & (cols < shape.padded)[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if bias is not None:
            acc += tl.load(bias + cols, mask=exists, other=0.0)[None, :]
        value = epilogue(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, V, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def launch(b: Binding, found: TransposedConvolution) -> Launch:
    """A transposed convolution's launch."""
    window, groups, config = found.window, found.groups, b.config
    per_group, kh, kw = found.weight.shape[1:]
    inputs, outputs = found.weight.shape[0] // groups, per_group * groups
    blocks = -(-per_group // config.BN)
    wide = -(-outputs // 16) * 16
    even = b.even(found.input, inputs)
    room = b.room(found.input) if groups == 1 else inputs
    if room % even:
        even, room = 1, inputs

    def packed(weight: Tensor) -> Tensor:
        taps = weight.reshape(groups, inputs, per_group, kh * kw).permute(3, 1, 0, 2)
        return F.pad(taps.reshape(kh * kw, inputs, outputs), (0, wide - outputs, 0, room - inputs))

    apart = window.stride[0]
    if (window.stride[1], *window.dilation) != (apart, 1, 1) or config.U % apart:
        apart = 1
    together = config.BM // (config.U // apart) ** 2  # tiles of which a chunk holds pixels
    special = {
        "source": b.view(found.input, even),
        "weight": b.memory.constant(combined([found.weight], packed, (kh * kw, room, wide)), b.spec.dtype),
        "bias": None if found.bias is None else b.memory.constant(found.bias, torch.float32),
        "shape": ShapeArgs(
            *found.input.extent[1:3],
            room // even,
            b.columns(per_group),
            blocks if groups > 1 else None,
            wide,
        ),
        "window": offsets_of(window),
        "BK": config.BK,
        "KH": kh,
        "KW": kw,
        "SY": window.stride[0],
        "SX": window.stride[1],
        "APART": apart,
        "PRECISION": "tf32" if b.memory.tf32 else "ieee",
    }
    chunks = -(-b.worklist.tiles // together) * apart**2
    return b.launch(transposed, blocks * groups, per_group, special, chunks=chunks)
