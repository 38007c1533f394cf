"""The C interface of ``src/videoeff.h`` in ctypes: numbers, structures and functions, under the same names.

Pointers are ``c_void_p``, so that ``tensor.data_ptr()`` fits; who fills a structure keeps what it points to.
The field ``in`` is ``in_`` here. Setting a field that does not exist is an error.
"""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_int32,
    c_int64,
    c_void_p,
)
from enum import IntEnum
from typing import Any

from videoeff.kernels.forms.codes import ChangeTest as ChangeTest
from videoeff.kernels.forms.codes import EpiOp as EpiOp
from videoeff.kernels.forms.codes import Kind as Kind
from videoeff.kernels.forms.codes import ReachKind as ReachKind

ABI = 7
MAX_ARGS = 6
MAX_EPI = 24
MAX_REGS = 4
MAX_REACH = 40
MAX_TERMS = 8
MAX_STAGES = 2
#: In an `Epi`, arguments are named from this number on; below it are registers.
ARG = 16


class Dtype(IntEnum):
    """``enum vf_dtype``."""

    F32 = 0
    F64 = 1
    BF16 = 2


class Flag(IntEnum):
    """``enum vf_flags``: bits of what a run is to do."""

    COUNT = 1
    FINITE = 2
    OP_BY_OP = 4


class Answer(IntEnum):
    """``enum vf_answer``: from where on an answer holds the number of a frame."""

    NOT_FINITE = 16


class Epi(Structure):
    """``vf_epi``: one instruction of an epilogue."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int32) for name in ("op", "dst", "a", "b")),
        *((name, c_double) for name in ("p", "q")),
    )


class View(Structure):
    """``vf_view``: a value in memory; strides in elements."""

    __slots__ = ()
    _fields_ = (
        ("data", c_void_p),
        *((name, c_int64) for name in ("size", "sr", "sh", "sw", "sc")),
        *((name, c_int32) for name in ("r", "h", "w", "c", "dtype", "reserved")),
    )


class Reach(Structure):
    """``vf_reach``: a mask, and how this op's pixels follow from it."""

    __slots__ = ()
    _fields_ = (("mask", c_int32), ("kind", c_int32))


class Term(Structure):
    """``vf_term``: a mask whose squared magnitudes count, and their share."""

    __slots__ = ()
    _fields_ = (("mask", c_int32), ("reserved", c_int32), ("share", c_double))


class Stage(Structure):
    """``vf_stage``: a convolution before the op's own, of which nothing is kept."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int32) for name in ("h", "w", "c")),
        *((name, c_int32) for name in ("kh", "kw", "sy", "sx", "py", "px", "dy", "dx", "groups")),
        *((name, c_int32) for name in ("nepi", "reserved")),
        ("epi", Epi),
        *((name, c_void_p) for name in ("weight", "bias")),
    )


class Op(Structure):
    """``vf_op``: one op of a frame plan."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int32) for name in ("kind", "dtype", "mask", "reserved")),
        ("out", View),
        ("in_", View),
        ("input", c_int32),
        *((name, c_int32) for name in ("kh", "kw", "sy", "sx", "py", "px", "dy", "dx", "groups", "gate")),
        *((name, c_void_p) for name in ("weight", "bias")),
        *((name, c_int32) for name in ("ty", "tx")),
        *((name, c_void_p) for name in ("iy", "ix", "wy", "wx")),
        *((name, c_int32) for name in ("nepi", "nargs")),
        ("epi", Epi * MAX_EPI),
        ("args", View * MAX_ARGS),
        ("width", c_int32 * MAX_REGS),
        *((name, c_int32) for name in ("nreach", "dense")),
        ("reach", Reach * MAX_REACH),
        ("streams", c_void_p),
        *((name, c_int32) for name in ("test", "block", "dilation", "relative")),
        ("threshold", c_double),
        ("scale", c_void_p),
        *((name, c_int32) for name in ("magnitude", "nsources", "nresiduals", "reserved2")),
        ("sources", Term * MAX_TERMS),
        ("residuals", Term * MAX_TERMS),
        ("factor", c_double),
        *((name, c_void_p) for name in ("pending", "taps")),
        ("dense_share", c_double),
        *((name, c_int32) for name in ("nbefore", "winograd")),
        ("before", Stage * MAX_STAGES),
    )


class Mask(Structure):
    """``vf_mask``: a mask the plan is told, or that only has an extent."""

    __slots__ = ()
    _fields_ = tuple((name, c_int32) for name in ("r", "h", "w", "magnitude"))


class Frame(Structure):
    """``vf_frame``: the caller's data of one frame; strides in elements."""

    __slots__ = ()
    _fields_ = (("data", c_void_p), *((name, c_int64) for name in ("sr", "sh", "sw", "sc")))


#: What ``vf_sizeof(i)`` measures, at index i.
MEASURED: tuple[type[Structure], ...] = (Op, View, Epi, Mask, Frame, Stage)

#: Result and arguments of every function.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "vf_abi": (c_int32, ()),
    "vf_sizeof": (c_int64, (c_int32,)),
    "vf_best_isa": (c_int32, ()),
    "vf_use_openmp": (None, (c_void_p,)),
    "vf_plan_create": (
        c_void_p,
        (POINTER(Op), c_int64, POINTER(Mask), c_int64, c_int32, c_char_p, c_int64),
    ),
    "vf_plan_destroy": (None, (c_void_p,)),
    "vf_plan_run": (c_int32, (c_void_p, POINTER(Frame), c_int64, c_void_p, c_int64, c_int32, c_int32)),
    "vf_plan_invalidate": (None, (c_void_p,)),
    "vf_plan_counts": (POINTER(c_int64), (c_void_p,)),
    "vf_plan_row_blocks": (c_int64, (c_void_p,)),
    "vf_plan_bytes": (c_int64, (c_void_p, c_int32)),
    "vf_mask_read": (c_int32, (c_void_p, c_int32, c_int32, c_void_p)),
    "vf_mask_write": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_magnitude_read": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_magnitude_write": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_all_finite": (c_int32, (c_void_p, c_int64, c_int32)),
    "vf_planes": (None, (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int32)),
    "vf_plan_times": (POINTER(c_int64), (c_void_p, c_int32)),
}
