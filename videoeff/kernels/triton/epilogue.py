"""The arithmetic behind a producer, on the device; and where the elements of a view lie.

Views come as ``ViewArgs``, see ``records.py``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.triton.records import MADE, InstructionStatic

# Where an instruction's fields stand in its record.
CODE_OP = tl.constexpr(InstructionStatic._fields.index("op"))
CODE_A = tl.constexpr(InstructionStatic._fields.index("a"))
CODE_B = tl.constexpr(InstructionStatic._fields.index("b"))
CODE_P = tl.constexpr(InstructionStatic._fields.index("p"))
CODE_Q = tl.constexpr(InstructionStatic._fields.index("q"))

# Instructions, as kernels compare them.
RESULT = tl.constexpr(MADE.op)
COPY = tl.constexpr(int(EpiOp.COPY))
ADD = tl.constexpr(int(EpiOp.ADD))
SUB = tl.constexpr(int(EpiOp.SUB))
MUL = tl.constexpr(int(EpiOp.MUL))
DIV = tl.constexpr(int(EpiOp.DIV))
MAXIMUM = tl.constexpr(int(EpiOp.MAXIMUM))
MINIMUM = tl.constexpr(int(EpiOp.MINIMUM))
AFFINE = tl.constexpr(int(EpiOp.AFFINE))
RDIV = tl.constexpr(int(EpiOp.RDIV))
CLAMP = tl.constexpr(int(EpiOp.CLAMP))
LEAKY = tl.constexpr(int(EpiOp.LEAKY))
SIGMOID = tl.constexpr(int(EpiOp.SIGMOID))
TANH = tl.constexpr(int(EpiOp.TANH))
EXP = tl.constexpr(int(EpiOp.EXP))
LOG = tl.constexpr(int(EpiOp.LOG))
SQRT = tl.constexpr(int(EpiOp.SQRT))
ABS = tl.constexpr(int(EpiOp.ABS))
NEG = tl.constexpr(int(EpiOp.NEG))
SILU = tl.constexpr(int(EpiOp.SILU))
HARDSWISH = tl.constexpr(int(EpiOp.HARDSWISH))
HARDSIGMOID = tl.constexpr(int(EpiOp.HARDSIGMOID))
GELU = tl.constexpr(int(EpiOp.GELU))
GELU_TANH = tl.constexpr(int(EpiOp.GELU_TANH))
ELU = tl.constexpr(int(EpiOp.ELU))
SOFTPLUS = tl.constexpr(int(EpiOp.SOFTPLUS))
MISH = tl.constexpr(int(EpiOp.MISH))
ERF = tl.constexpr(int(EpiOp.ERF))
PRELU = tl.constexpr(int(EpiOp.PRELU))
SOFTMAX = tl.constexpr(int(EpiOp.SOFTMAX))
LOG_SOFTMAX = tl.constexpr(int(EpiOp.LOG_SOFTMAX))
NORMALIZE = tl.constexpr(int(EpiOp.NORMALIZE))
RMS_NORMALIZE = tl.constexpr(int(EpiOp.RMS_NORMALIZE))
POW = tl.constexpr(int(EpiOp.POW))


@triton.jit
def _tanh(x):
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _softplus(x):
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _unary(op: tl.constexpr, x, cmask, channels, p: tl.constexpr, q: tl.constexpr):
    if op == COPY:
        return x
    elif op == AFFINE:
        return x * p + q
    elif op == RDIV:
        return p / x
    elif op == CLAMP:  # Comparisons let NaN through, as PyTorch does
        low = x
        if p != float("-inf"):
            low = tl.where(x < p, p, x)
        high = low
        if q != float("inf"):
            high = tl.where(low > q, q, low)
        return high
    elif op == LEAKY:
        if p == 0.0:
            return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)
        else:
            return tl.where(x < 0, x * p, x)
    elif op == SIGMOID:
        return tl.sigmoid(x)
    elif op == TANH:
        return _tanh(x)
    elif op == EXP:
        return tl.exp(x)
    elif op == LOG:
        return tl.log(x)
    elif op == SQRT:
        return tl.sqrt(x)
    elif op == ABS:
        return tl.abs(x)
    elif op == NEG:
        return -x
    elif op == SILU:
        return x * tl.sigmoid(x)
    elif op == HARDSWISH:
        t = tl.where(x + 3.0 < 0.0, 0.0, x + 3.0)
        return x * tl.where(t > 6.0, 6.0, t) / 6.0
    elif op == HARDSIGMOID:
        t = tl.where(x + 3.0 < 0.0, 0.0, x + 3.0)
        return tl.where(t > 6.0, 6.0, t) / 6.0
    elif op == GELU:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    elif op == GELU_TANH:
        return 0.5 * x * (1.0 + _tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))
    elif op == ELU:
        return q * tl.where(x > 0, x, p * (tl.exp(tl.minimum(x, 0.0)) - 1.0))
    elif op == SOFTPLUS:
        return tl.where(x * p > q, x, _softplus(x * p) / p)
    elif op == MISH:
        return x * _tanh(_softplus(x))
    elif op == ERF:
        return tl.erf(x)
    elif op == SOFTMAX:
        top = tl.max(tl.where(cmask, x, float("-inf")), 1)
        e = tl.where(cmask, tl.exp(x - top[:, None]), 0.0)
        return e / tl.sum(e, 1)[:, None]
    elif op == LOG_SOFTMAX:
        top = tl.max(tl.where(cmask, x, float("-inf")), 1)
        e = tl.where(cmask, tl.exp(x - top[:, None]), 0.0)
        return x - top[:, None] - tl.log(tl.sum(e, 1))[:, None]
    elif op == NORMALIZE:
        mean = tl.sum(tl.where(cmask, x, 0.0), 1) / channels
        d = tl.where(cmask, x - mean[:, None], 0.0)
        return d * tl.rsqrt(tl.sum(d * d, 1) / channels + p)[:, None]
    elif op == RMS_NORMALIZE:
        d = tl.where(cmask, x, 0.0)
        return x * tl.rsqrt(tl.sum(d * d, 1) / channels + p)[:, None]
    else:  # POW
        tl.static_assert(op == POW, "an instruction that this kernel has not")
        if p == 0.5:
            return tl.sqrt(x)
        elif p == -0.5:
            return tl.rsqrt(x)
        elif p == 2.0:
            return x * x
        else:
            return x * x * x


@triton.jit
def _binary(op: tl.constexpr, x, y):
    if op == ADD:
        return x + y
    elif op == SUB:
        return x - y
    elif op == MUL:
        return x * y
    elif op == DIV:
        return x / y
    elif op == MAXIMUM:  # NaN of either
        return tl.where((x > y) | (x != x), x, y)
    elif op == MINIMUM:
        return tl.where((x < y) | (x != x), x, y)
    else:  # PRELU
        tl.static_assert(op == PRELU, "an instruction that this kernel has not")
        return tl.where(x < 0, x * y, x)


@triton.jit
def begin_of(view, r, y, x):
    """Where the first channels of pixels lie."""
    if view.vast:
        r = r.to(tl.int64)
    return (r * view.row_by_even + y * view.line_by_even + x * view.column_by_even) * view.even


@triton.jit
def place_of(view, r, y, x, cols):
    """Where channels ``cols`` of pixels lie (BM, BN)."""
    return begin_of(view, r, y, x)[:, None] + tl.multiple_of(cols, view.even)[None, :] * view.channel


@triton.jit
def room_of(view, cols, cmask):
    """Which channels may be loaded and stored: those that exist and the gap behind them."""
    if view.room_by_even is None:
        return cmask
    else:
        return (tl.multiple_of(cols, view.even) < view.room_by_even * view.even)[None, :]


@triton.jit
def load_argument(arg, r, y, x, cols, valid, cmask):
    """An argument's block (BM, BN) as float32."""
    held = tl.load(
        arg.pointer + place_of(arg, r, y, x, cols), mask=valid[:, None] & room_of(arg, cols, cmask), other=0.0
    )
    return held.to(tl.float32)


@triton.jit
def _operand(values, args, a: tl.constexpr, r, y, x, cols, valid, cmask):
    if a >= 0:
        return values[a]
    else:
        return load_argument(args[-1 - a], r, y, x, cols, valid, cmask)


@triton.jit
def _instruction(
    values, args, made, op: tl.constexpr, a: tl.constexpr, b: tl.constexpr, p: tl.constexpr, q: tl.constexpr,
    r, y, x, cols, valid, cmask, channels
):  # fmt: skip
    if op == RESULT:
        return made
    else:
        first = _operand(values, args, a, r, y, x, cols, valid, cmask)
        if op == PRELU or (op >= ADD and op <= MINIMUM):
            second = _operand(values, args, b, r, y, x, cols, valid, cmask)
            return _binary(op, first, second)
        else:
            return _unary(op, first, cmask, channels, p, q)


@triton.jit
def epilogue(made, args, CODE: tl.constexpr, r, y, x, cols, valid, cmask, channels):
    """The last value of the epilogue; ``made`` is the producer's result (BM, BN) in float32."""
    return part_of(made, args, CODE, 0, len(CODE), r, y, x, cols, valid, cmask, channels)


@triton.jit
def part_of(
    made, args, CODE: tl.constexpr, FIRST: tl.constexpr, BEHIND: tl.constexpr,
    r, y, x, cols, valid, cmask, channels
):  # fmt: skip
    """The last value of some of an epilogue's instructions, which count each other from the first of them."""
    values = ()
    for i in tl.static_range(FIRST, BEHIND):
        new = _instruction(values, args, made, CODE[i][CODE_OP], CODE[i][CODE_A], CODE[i][CODE_B],
                           CODE[i][CODE_P], CODE[i][CODE_Q],
                           r, y, x, cols, valid, cmask, channels)  # fmt: skip
        values = values + (new,)  # type: ignore[assignment]  # noqa: RUF005 (Triton knows no stars)
    return values[BEHIND - FIRST - 1]
