"""Convolutions with one input channel a group: every channel by itself, without matrix products."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from videoeff.kernels.region_spec.producers import Convolution, TransposedConvolution
from videoeff.kernels.region_spec.values import combined
from videoeff.kernels.triton.binding import Binding, Launch, offsets_of
from videoeff.kernels.triton.device import block_columns, commit, count_pixels, length, pixels, plain_site
from videoeff.kernels.triton.epilogue import epilogue, load_argument

#: Most columns of a window that are unrolled.
UNROLLED = tl.constexpr(7)


class ShapeArgs(NamedTuple):
    """The sizes of a convolution by channel.

    Attributes:
        height, width: of the input.
        per_group: outputs, as ``block_columns`` takes them.
        padded: outputs, rounded up.
    """

    height: Any
    width: Any
    per_group: Any
    padded: Any


@triton.jit
def _line(y, k, size, padding, dilation, STRIDE: tl.constexpr, SPREAD: tl.constexpr):
    """The line of the input that lies under tap k of lines y of the value, and whether there is one."""
    if SPREAD:
        at = y + padding - k * dilation
        line = at // STRIDE
        return line, (at >= 0) & (at % STRIDE == 0) & (line < size)
    else:
        line = y * STRIDE - padding + k * dilation
        return line, (line >= 0) & (line < size)


@triton.jit
def _tap(
    acc, source, weight, r, iy, inside, x, kx, tap, cols, channel, exists, shape, window,
    SX: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Add one tap."""
    ix, beside = _line(x, kx, shape.width, window.padding_x, window.dilation_x, SX, SPREAD)
    a = load_argument(source, r, iy, ix, channel, inside & beside, exists[None, :])
    w = tl.load(weight + tap * shape.padded + cols, mask=cols < shape.padded, other=0.0)
    return acc + a * w[None, :]


@triton.jit(do_not_specialize=["full", "counting"])
def depthwise(
    site, worklist, out, test, args, edges, full, counting,
    source, weight, bias, gate, shape, window,
    U: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, NB: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, SY: tl.constexpr, SX: tl.constexpr,
    MULTIPLIER: tl.constexpr, SPREAD: tl.constexpr,
    CODE: tl.constexpr, TEST: tl.constexpr, TOGETHER: tl.constexpr, EDGES: tl.constexpr,
):  # fmt: skip
    """Strided, dilated; padding with zeros.

    Args:
        source: ``ViewArgs`` of the input.
        weight: (KH KW, outputs) float32, contiguous, its last dimension padded as ``shape`` says.
        bias: (outputs) float32, or None.
        gate: ``GateArgs`` of the input, or None.
        shape: ``ShapeArgs``.
        window: ``OffsetArgs``.
        SY, SX: the stride.
        MULTIPLIER: outputs of each channel of the input.
        SPREAD: whether the convolution is transposed.
    """
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    chunks = tl.cdiv(tiles, BM // (U * U))
    for t in tl.range(tl.program_id(0), chunks * NB, tl.num_programs(0)):
        chunk = t // NB
        block = t % NB
        r, y, x, valid = pixels(chunk, tiles, whole, worklist, site, U, BM)
        count_pixels(worklist, valid, block, counting)
        cols, exists = block_columns(block, shape.per_group, None, BN)
        channel = cols // MULTIPLIER
        acc = tl.zeros([BM, BN], tl.float32)
        for ky in range(KH):
            iy, inside = _line(y, ky, shape.height, window.padding_y, window.dilation_y, SY, SPREAD)
            inside = inside & valid
            if KW <= UNROLLED and MULTIPLIER == 1:
                for kx in tl.static_range(KW):
                    acc = _tap(acc, source, weight, r, iy, inside, x, kx, ky * KW + kx, cols, channel, exists,
                               shape, window, SX, SPREAD)  # fmt: skip
            else:
                for kx in range(KW):
                    acc = _tap(acc, source, weight, r, iy, inside, x, kx, ky * KW + kx, cols, channel, exists,
                               shape, window, SX, SPREAD)  # fmt: skip
        if gate is not None:  # the same for all taps
            factor = gate.pointer + (r * gate.row)[:, None] + channel[None, :] * gate.channel
            acc *= tl.load(factor, mask=valid[:, None] & exists[None, :], other=0.0).to(tl.float32)
        if bias is not None:
            acc += tl.load(bias + cols, mask=exists, other=0.0)[None, :]
        value = epilogue(acc, args, CODE, r, y, x, cols, valid, exists[None, :], test.channels)
        commit(value, chunk, block, full, r, y, x, valid, cols, exists[None, :], site, worklist, out, test,
               edges, U, BM, BN, NB, TEST, TOGETHER, EDGES)  # fmt: skip


def launch(b: Binding, found: Convolution | TransposedConvolution) -> Launch:
    """The launch of a convolution by channel, also of a transposed one."""
    window = found.window
    kh, kw = window.kernel
    spread = isinstance(found, TransposedConvolution)
    multiplier = found.weight.shape[1 if spread else 0] // (1 if spread else found.groups)
    outputs = found.groups * multiplier
    blocks = -(-outputs // b.config.BN)
    wide = -(-outputs // 16) * 16

    def packed(weight: Tensor) -> Tensor:
        return F.pad(weight.reshape(outputs, kh * kw).t(), (0, wide - outputs))

    special = {
        "source": b.view(found.input, 1 if multiplier > 1 else 0),
        "weight": b.memory.constant(combined([found.weight], packed, (kh * kw, wide)), torch.float32),
        "bias": None if found.bias is None else b.memory.constant(found.bias, torch.float32),
        "gate": b.gate(found.gate if isinstance(found, Convolution) else None),
        "shape": ShapeArgs(found.input.extent[1], found.input.extent[2], b.columns(outputs), wide),
        "window": offsets_of(window),
        "KH": kh,
        "KW": kw,
        "SY": window.stride[0],
        "SX": window.stride[1],
        "MULTIPLIER": multiplier,
        "SPREAD": spread,
    }
    return b.launch(depthwise, blocks, outputs, special).bounded()
