"""Numbers of the native interface beside those of `videoeff.kernels.region_spec.codes`.

`build.py` reads this file by its path and makes the C++ header ``numbers.h`` of it: it may import nothing but
the standard library, and no number is written a second time.
"""

from __future__ import annotations

from enum import IntEnum

#: Of the interface. Whoever changes a structure, a function or the meaning of a number counts it up.
ABI = 12

# Sizes of the arrays in a descriptor, which is how many of each an op may have.
MAX_ARGS = 6
MAX_EPI = 24
MAX_REGS = 4
MAX_REACH = 40
MAX_TERMS = 8
MAX_STAGES = 2

#: In an instruction of an epilogue, arguments are named from this number on; below it are registers.
ARG = 16

#: Counters of an op: pixels that were active, and pixels computed; of its stage in a line buffer the pixels
#: that a change reached, and those computed.
COUNTS = 4

#: Rows of a view's grid: `GridRow`.
GRID_ROWS = 5

#: What is told of an input's test, of each row of it.
SEEN = 4

# What convolutions before an op may be: inputs of the sums of one that is not depthwise, rows and columns
# that a window covers, and its stride.
MAX_STAGE_INPUTS = 1024
MAX_STAGE_WINDOW = 64
MAX_STAGE_STRIDE = 8

# What minimal filtering serves.
MAX_WINOGRAD_DILATION = 16
MAX_WINOGRAD_INPUTS = 2048


class Dtype(IntEnum):
    """What a value in memory is made of."""

    F32 = 0
    F64 = 1
    BF16 = 2
    #: Numbers of a grid, which a view has with them.
    U8 = 3


class GridRow(IntEnum):
    """The rows of a view's grid, each with a number for every channel.

    A number q stands for (q - ZERO) SCALE; a value x becomes the nearest of LOW .. HIGH to x INVERSE, and
    ZERO more.
    """

    SCALE = 0
    ZERO = 1
    INVERSE = 2
    LOW = 3
    HIGH = 4


class Isa(IntEnum):
    """Instruction sets, from the oldest to the newest."""

    PORTABLE = 0
    #: With FMA.
    AVX2 = 1
    #: F, BW, DQ and VL.
    AVX512 = 2


class Products(IntEnum):
    """How products of 8-bit numbers and of bfloat16 are computed, from the slowest to the fastest."""

    #: By instructions that every processor of the instruction set has.
    PLAIN = 0
    #: By instructions that multiply and add up several inputs in each lane (AVX-512 VNNI, AVX-VNNI, AVX-512
    #: BF16).
    DOT = 1
    #: By matrix tiles (AMX).
    TILE = 2


class Flag(IntEnum):
    """Bits of what a run is to do."""

    #: Add to the counters.
    COUNT = 1
    #: Refuse a frame with NaN or infinity before anything is changed.
    FINITE = 2
    #: Compute the whole map of an op before the next op.
    OP_BY_OP = 4


class Answer(IntEnum):
    """How a run ended."""

    DONE = 0
    #: No plan, or no thread to run it.
    NO_CALL = 1
    #: An input whose frame was not given.
    NO_FRAME = 2
    #: A stream of which nothing was told.
    NO_STREAM = 3
    NO_MEMORY = 4
    #: From here on: this plus the number of a frame that is not finite.
    NOT_FINITE = 16


class MaskPart(IntEnum):
    """Which pixels of an op a mask is read of."""

    CHANGED = 0
    ACTIVE = 1


class Held(IntEnum):
    """What a plan holds beside the state."""

    #: Packed for the kernels.
    WEIGHTS = 0
    #: With the sums of means.
    MASKS = 1
    #: The memory of the workers.
    SCRATCH = 2
