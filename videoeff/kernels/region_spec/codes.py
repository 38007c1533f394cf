"""Numbers that region specs are written in; the native interface uses the same."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """How a pixel is computed before the epilogue."""

    INPUT = 0
    POINTWISE = 1
    CONV = 2
    MAXPOOL = 3
    SEPARABLE = 4
    MEAN = 5
    TRANSPOSED = 6


class EpiOp(IntEnum):
    """An instruction of the epilogue."""

    COPY = 0
    ADD = 1
    SUB = 2
    MUL = 3
    DIV = 4
    MAXIMUM = 5
    MINIMUM = 6
    AFFINE = 7
    RDIV = 8
    CLAMP = 9
    LEAKY = 10
    SIGMOID = 11
    TANH = 12
    EXP = 13
    LOG = 14
    SQRT = 15
    ABS = 16
    NEG = 17
    SILU = 18
    HARDSWISH = 19
    HARDSIGMOID = 20
    GELU = 21
    GELU_TANH = 22
    ELU = 23
    SOFTPLUS = 24
    MISH = 25
    ERF = 26
    PRELU = 27
    SOFTMAX = 28
    LOG_SOFTMAX = 29
    NORMALIZE = 30
    RMS_NORMALIZE = 31
    LINEAR = 32
    POW = 33


class ReachKind(IntEnum):
    """How pixels of a result follow from a mask."""

    SAME = 0
    WHOLE = 1
    WINDOW = 2
    TABLE = 3
    SPREAD = 4


class ChangeTest(IntEnum):
    """The quantity of a change test."""

    MAX = 0
    L2 = 1
    RMS = 2
