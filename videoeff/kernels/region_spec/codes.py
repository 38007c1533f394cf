"""Numbers that region specs are written in.

The native interface and the kernels on the device use the same. `videoeff/kernels/cpp/build.py` reads this
file by its path and makes the C++ header ``numbers.h`` of it: it may import nothing but the standard library,
and no number is written a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class Kind(IntEnum):
    """How a pixel of the result is computed before the epilogue."""

    #: The caller's frame; no epilogue.
    INPUT = 0
    #: Nothing: the epilogue loads its arguments.
    POINTWISE = 1
    #: Convolution with weights (O, I / groups, kh, kw), bias inside.
    CONV = 2
    #: Maximum over a window; NaN wins.
    MAXPOOL = 3
    #: Sum over taps wy[y][i] wx[x][j] in[iy[y][i]][ix[x][j]]: resampling and average pooling.
    SEPARABLE = 4
    #: Mean over all pixels; the result has one.
    MEAN = 5
    #: Transposed convolution with weights (I, O / groups, kh, kw).
    TRANSPOSED = 6


class EpiOp(IntEnum):
    """An instruction of the epilogue: op(a, b) for each channel of a pixel, or what is said here.

    p and q are scalars.
    """

    COPY = 0
    ADD = 1
    SUB = 2
    MUL = 3
    DIV = 4
    MAXIMUM = 5
    MINIMUM = 6
    #: p a + q.
    AFFINE = 7
    #: p / a.
    RDIV = 8
    #: max(min(a, q), p); NaN stays.
    CLAMP = 9
    #: p a where a < 0, else a. With p = 0 relu, but NaN stays.
    LEAKY = 10
    SIGMOID = 11
    TANH = 12
    EXP = 13
    LOG = 14
    SQRT = 15
    ABS = 16
    NEG = 17
    SILU = 18
    #: a clamp(a + 3, 0, 6) / 6.
    HARDSWISH = 19
    #: clamp(a + 3, 0, 6) / 6.
    HARDSIGMOID = 20
    #: With erf.
    GELU = 21
    #: With tanh.
    GELU_TANH = 22
    #: q a where a > 0, else q p (exp(a) - 1): p is alpha, q the scale.
    ELU = 23
    #: log(1 + exp(p a)) / p, but a where p a > q.
    SOFTPLUS = 24
    MISH = 25
    ERF = 26
    #: a b where a < 0, else a.
    PRELU = 27
    #: Over channels, as the next three.
    SOFTMAX = 28
    LOG_SOFTMAX = 29
    #: (a - mean) / sqrt(variance + p).
    NORMALIZE = 30
    #: a / sqrt(mean(a a) + p).
    RMS_NORMALIZE = 31
    #: W a + bias over the channels: argument b is W (O, I), argument b + 1 the bias (O) where q is not 0.
    LINEAR = 32
    #: a to the power p.
    POW = 33
    #: a rounded to the numbers of argument b's grid.
    ROUND = 34


class ReachKind(IntEnum):
    """How pixels of a result follow from a mask."""

    #: The same pixel.
    SAME = 0
    #: Any changed pixel of a stream activates all its pixels.
    WHOLE = 1
    #: The window of a convolution or maximum.
    WINDOW = 2
    #: The index ranges of tables.
    TABLE = 3
    #: The transposed window.
    SPREAD = 4


class ChangeTest(IntEnum):
    """The quantity that a change test compares with its threshold; of a pixel, over its channels."""

    #: Any difference: what is asked at threshold 0, whatever the test is.
    ANY = 0
    #: The largest difference.
    MAX = 1
    #: The root of the sum of squares.
    L2 = 2
    #: The root of the mean of squares.
    RMS = 3
    #: That of the differences over the noise's standard deviation; of a block, over all its pixels.
    NOISE = 4


#: Change tests by the words of cache markers; whether a threshold is relative is told apart from them.
CHANGE_TESTS: Mapping[str, ChangeTest] = {
    "max": ChangeTest.MAX,
    "l2": ChangeTest.L2,
    "rms": ChangeTest.RMS,
    "rms-relative": ChangeTest.RMS,
    "noise": ChangeTest.NOISE,
}
