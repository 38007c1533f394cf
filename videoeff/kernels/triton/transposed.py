"""Transposed convolution as an implicit matrix product over the pixels of a list."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.producers import TransposedConvolution
from videoeff.kernels.region_spec.values import combined
from videoeff.kernels.triton.binding import Binding, Launch
from videoeff.kernels.triton.device import block_columns, commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.programme import begin_of, programme


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
    site, work, out, test, args, edges, full, counting,
    source, weight, bias, shape, window,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr, APART: tl.constexpr,
    PRECISION: tl.constexpr, CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr,
    EDGES: tl.constexpr,
):  # fmt: skip
    """Strided, padded, dilated, grouped.

    With a stride of s only every s-th tap of a line reaches a pixel. Pixels are therefore taken APART lines
    and columns from one another, so that the taps that reach any of a chunk's pixels reach all of them. A
    chunk then holds one pixel in APART² of APART² times as many units.

    Args:
        source: the input, like ``out``.
        weight: (KH KW, inputs of a group, outputs), contiguous, its last dimension padded as ``shape`` says.
        bias: (outputs) float32, or None.
        shape: (H, W of the input, inputs of a group, outputs of a group, blocks of a group
            or None for one group, outputs padded);
            inputs in units of what they are known to divide by.
        window: (padding y, x, dilation y, x).
        SY, SX: the stride.
        APART: SY and SX, or 1 where taps that reach no pixel are masked, as with dilation.
        PRECISION: "tf32" or "ieee" for float32.
    """
    V: tl.constexpr = U // APART
    site = plain_site(site)
    units, whole = length(work, site, full)
    chunks = tl.cdiv(units, BM // (V * V)) * (APART * APART)
    inputs = shape[2] * source[5]
    steps = tl.cdiv(inputs, BK)
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        first_y = (chunk % (APART * APART)) // APART
        first_x = chunk % APART
        r, y, x, valid = pixels(chunk // (APART * APART), units, whole, work, site, V, BM)
        y = y * APART + first_y
        x = x * APART + first_x
        valid = valid & (y < site[0]) & (x < site[1])
        count_pixels(work, valid, block, counting)
        cols, exists = block_columns(block, shape[3], shape[4], BN)
        base = 0
        if shape[4] is not None:
            base = (block // shape[4]) * inputs
        first_y = (first_y + window[0]) % APART  # now of the taps
        first_x = (first_x + window[1]) % APART
        high = tl.cdiv(KH - first_y, APART)
        wide = tl.cdiv(KW - first_x, APART)
        kk = tl.arange(0, BK)
        acc = tl.zeros([BM, BN], tl.float32)
        for k in range(0, high * wide * steps):
            c = (k % steps) * BK + kk
            ky = first_y + (k // steps) // wide * APART
            kx = first_x + (k // steps) % wide * APART
            iy, above = _line(y, ky, shape[0], SY, window[0], window[2], APART)
            ix, beside = _line(x, kx, shape[1], SX, window[1], window[3], APART)
            ok = (valid & above & beside)[:, None] & (c < inputs)[None, :]
            begin = begin_of(source, r, iy, ix)
            place = begin[:, None] + tl.multiple_of(base + c, source[5])[None, :] * source[4]
            a = tl.load(source[0] + place, mask=ok, other=0.0)
            w = weight + ((ky * KW + kx) * inputs + c)[:, None] * shape[5] + cols[None, :]
            b = tl.load(w, mask=(c < inputs)[:, None] & (cols < shape[5])[None, :], other=0.0)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if bias is not None:
            acc += tl.load(bias + cols, mask=exists, other=0.0)[None, :]
        value = programme(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test[5])
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, work, out, test,
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
    together = config.BM // (config.U // apart) ** 2  # units of which a chunk holds pixels
    special = {
        "source": b.view(found.input, even),
        "weight": b.memory.constant(combined([found.weight], packed, (kh * kw, room, wide)), b.spec.dtype),
        "bias": None if found.bias is None else b.memory.constant(found.bias, torch.float32),
        "shape": (
            *found.input.extent[1:3],
            room // even,
            b.columns(per_group),
            blocks if groups > 1 else None,
            wide,
        ),
        "window": (*window.padding, *window.dilation),
        "BK": config.BK,
        "KH": kh,
        "KW": kw,
        "SY": window.stride[0],
        "SX": window.stride[1],
        "APART": apart,
        "PRECISION": "tf32" if b.memory.tf32 else "ieee",
    }
    chunks = -(-b.work.units // together) * apart**2
    return b.launch(transposed, blocks * groups, per_group, special, chunks=chunks)
