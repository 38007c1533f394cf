"""Convolution as an implicit matrix product over the pixels of a list."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.producers import Convolution
from videoeff.kernels.region_spec.values import combined
from videoeff.kernels.triton.binding import Binding, Launch, coded, divisor
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
from videoeff.kernels.triton.programme import begin_of, programme


@triton.jit(do_not_specialize=["full", "counting", "many"])
def convolution(
    site, work, out, test, args, edges, full, counting,
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
        source: the input, like ``out``.
        weight: (KH KW, inputs of a group, outputs), contiguous, its last dimension padded as ``shape`` says.
        bias: (outputs) float32, or None.
        gate: a factor (pointer, row, channel) for each channel of the input, or None.
        shape: (H, W of the input, inputs of a group, outputs of a group as ``block_columns`` takes them,
            blocks of a group or None for one group, outputs padded, blocks of BK inputs, how to divide by
            them, the last two as ``plain`` takes them); inputs in units of what they are known to divide by,
            or, where FLAT, known at compile time.
        window: (stride y, x, padding y, x, dilation y, x).
        many: units from which on a list is long.
        LONG: (BM, BN, NB) of long lists, or None.
        FLAT: whether taps and channels are walked as one dimension, for few channels.
        EVEN: whether BK divides the inputs.
        PRECISION: "tf32" or "ieee" for float32.
    """
    site = plain_site(site)
    units, whole = length(work, site, full)
    if LONG is None:  # noqa: SIM114 (known at compile time, the other is not)
        _blocks(site, work, out, test, args, edges, full, counting, source, weight, bias, gate, shape, window,
                units, whole, U, BM, BN, BK, NB, KH, KW, FLAT, EVEN, PRECISION,
                CODE, TEST, TOGETHER, EDGES)  # fmt: skip
    elif units < many:
        _blocks(site, work, out, test, args, edges, full, counting, source, weight, bias, gate, shape, window,
                units, whole, U, BM, BN, BK, NB, KH, KW, FLAT, EVEN, PRECISION,
                CODE, TEST, TOGETHER, EDGES)  # fmt: skip
    else:
        _blocks(site, work, out, test, args, edges, full, counting, source, weight, bias, gate, shape, window,
                units, whole, U, LONG[0], LONG[1], BK, LONG[2], KH, KW, FLAT, EVEN, PRECISION,
                CODE, TEST, TOGETHER, EDGES)  # fmt: skip


@triton.jit
def _blocks(
    site, work, out, test, args, edges, full, counting,
    source, weight, bias, gate, shape, window, units, whole,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, FLAT: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """A program's share of the blocks of BM pixels and BN channels."""
    chunks = tl.cdiv(units, BM // (U * U))
    inputs = shape[2]
    if not FLAT:
        inputs = shape[2] * source[5]
    # Moved ahead of the loop, what threads know of their places would occupy registers all along.
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0), disable_licm=True):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, units, whole, work, site, U, BM)
        count_pixels(work, valid, block, counting)
        cols, exists = block_columns(block, shape[3], shape[4], BN)
        base = 0
        if shape[4] is not None:
            base = (block // shape[4]) * inputs
        top = y * window[0] - window[2]
        left = x * window[1] - window[3]
        kk = tl.arange(0, BK)
        acc = tl.zeros([BM, BN], tl.float32)
        if FLAT:
            for k0 in range(0, KH * KW * inputs, BK):
                k = k0 + kk
                tap = k // inputs
                c = k % inputs
                iy = top[:, None] + (tap // KW)[None, :] * window[4]
                ix = left[:, None] + (tap % KW)[None, :] * window[5]
                ok = valid[:, None] & (iy >= 0) & (iy < shape[0]) & (ix >= 0) & (ix < shape[1])
                ok = ok & (k < KH * KW * inputs)[None, :]
                begin = begin_of(source, r[:, None], iy, ix)
                place = begin + (base + c)[None, :] * source[4]
                a = tl.load(source[0] + place, mask=ok, other=0.0)
                if gate is not None:
                    factor = gate[0] + (r * gate[1])[:, None] + (base + c)[None, :] * gate[2]
                    a = (a.to(tl.float32) * tl.load(factor, mask=ok, other=0.0).to(tl.float32)).to(a.dtype)
                w = weight + k[:, None] * shape[5] + cols[None, :]
                inside = (k < KH * KW * inputs)[:, None] & (cols < shape[5])[None, :]
                b = tl.load(w, mask=inside, other=0.0)
                acc = tl.dot(a, b, acc, input_precision=PRECISION)
        else:
            steps, how = plain(shape[6]), plain(shape[7])
            for k in range(0, KH * KW * steps):
                if KH * KW == 1:
                    tap, part = 0, k
                else:
                    tap, part = divided(k, steps, how)
                c = part * BK + kk
                iy = top + (tap // KW) * window[4]
                ix = left + (tap % KW) * window[5]
                ok = valid & within(iy, shape[0]) & within(ix, shape[1])
                begin = begin_of(source, r, iy, ix)
                place = begin[:, None] + tl.multiple_of(base + c, source[5])[None, :] * source[4]
                held = ok[:, None]
                if not EVEN:
                    held = held & (c < inputs)[None, :]
                a = tl.load(source[0] + place, mask=held, other=0.0)
                if gate is not None:
                    factor = gate[0] + (r * gate[1])[:, None] + (base + c)[None, :] * gate[2]
                    a = (a.to(tl.float32) * tl.load(factor, mask=held, other=0.0).to(tl.float32)).to(a.dtype)
                w = weight + (tap * inputs + c)[:, None] * shape[5] + cols[None, :]
                if EVEN and shape[3] is None:
                    b = tl.load(w)
                else:
                    b = tl.load(w, mask=(c < inputs)[:, None] & (cols < shape[5])[None, :], other=0.0)
                acc = tl.dot(a, b, acc, input_precision=PRECISION)
        if bias is not None:
            acc += tl.load(bias + cols, mask=exists, other=0.0)[None, :]
        value = programme(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test[5])
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, work, out, test,
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
    if config.long_BM and many <= b.work.units:  # otherwise no list is long
        long = (config.long_BM, config.long_BN, -(-per_group // config.long_BN))
    gate = None
    if found.gate is not None:
        view = b.spec.arguments[found.gate]
        gate = (b.memory.tensor_of(view, b.call), view.strides[0], view.strides[3])
    special = {
        "source": b.view(found.input, even),
        "weight": b.memory.constant(combined([found.weight], packed, (kh * kw, room, wide)), b.spec.dtype),
        "bias": None if found.bias is None else b.memory.constant(found.bias, torch.float32),
        "gate": gate,
        "shape": (
            *found.input.extent[1:3],
            tl.constexpr(room) if flat else room // even,
            b.columns(per_group),
            blocks if groups > 1 else None,
            wide,
            coded(steps),
            coded(divisor(steps)),
        ),
        "window": (*window.stride, *window.padding, *window.dilation),
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
