"""The C interface of ``src/videoeff.h`` in ctypes: structures and functions, under the same names.

Numbers are those of `numbers.py` and of `videoeff.kernels.region_spec.codes`, of which the header is made.

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
from typing import Any

from videoeff.kernels.cpp.numbers import (
    ABI,
    ARG,
    COUNTS,
    MAX_ARGS,
    MAX_EPI,
    MAX_REACH,
    MAX_REGS,
    MAX_STAGES,
    MAX_TERMS,
    SEEN,
    Answer,
    Dtype,
    Flag,
    GridRow,
    Held,
    Isa,
    MaskPart,
    Products,
)
from videoeff.kernels.region_spec.codes import ChangeTest, EpiOp, Kind, ReachKind

__all__ = [
    "ABI", "ARG", "COUNTS", "FUNCTIONS", "MAX_ARGS", "MAX_EPI", "MAX_REACH", "MAX_REGS", "MAX_STAGES",
    "MAX_TERMS", "SEEN", "STRUCTURES", "Answer", "ChangeTest", "Dtype", "Epi", "EpiOp", "Flag", "Frame",
    "GridRow", "Held", "Isa", "Kind", "Mask", "MaskPart", "Near", "Op", "Products", "Reach",
    "ReachKind", "Stage", "Term", "View",
]  # fmt: skip


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
        ("grid", c_void_p),
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
        *((name, c_int32) for name in ("nepi", "integer")),
        ("epi", Epi),
        *((name, c_void_p) for name in ("weight", "bias", "factors", "grid")),
    )


class Near(Structure):
    """``vf_near``: where changes come from, and what of it is near."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int32) for name in ("mask", "reserved")),
        *((name, c_void_p) for name in ("top", "bottom", "first", "last")),
    )


class Op(Structure):
    """``vf_op``: one op of a frame plan."""

    __slots__ = ()
    _fields_ = (
        *((name, c_int32) for name in ("kind", "dtype", "mask", "integer")),
        ("out", View),
        ("in_", View),
        ("input", c_int32),
        *((name, c_int32) for name in ("kh", "kw", "sy", "sx", "py", "px", "dy", "dx", "groups", "gate")),
        *((name, c_void_p) for name in ("weight", "bias", "factors")),
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
        *((name, c_int32) for name in ("grow", "reserved3")),
        ("weak", c_double),
        ("noise", c_void_p),
        ("watched", c_void_p),
        *((name, c_int32) for name in ("magnitude", "nsources", "nresiduals", "reserved2")),
        ("sources", Term * MAX_TERMS),
        ("residuals", Term * MAX_TERMS),
        ("factor", c_double),
        *((name, c_void_p) for name in ("pending", "taps")),
        ("dense_share", c_double),
        *((name, c_int32) for name in ("nbefore", "winograd")),
        ("before", Stage * MAX_STAGES),
        *((name, c_int32) for name in ("vicinity", "nnear")),
        *((name, c_void_p) for name in ("near", "deferred")),
        *((name, c_int32) for name in ("nsweep", "reserved4")),
        *((name, c_void_p) for name in ("sweep", "phase")),
    )


class Mask(Structure):
    """``vf_mask``: a mask the plan is told, or that only has an extent."""

    __slots__ = ()
    _fields_ = tuple((name, c_int32) for name in ("r", "h", "w", "magnitude"))


class Frame(Structure):
    """``vf_frame``: the caller's data of one frame; strides in elements."""

    __slots__ = ()
    _fields_ = (("data", c_void_p), *((name, c_int64) for name in ("sr", "sh", "sw", "sc")))


#: Every structure; the library says where its fields lie, and is refused where they lie otherwise.
STRUCTURES: tuple[type[Structure], ...] = (Epi, View, Reach, Term, Stage, Near, Op, Mask, Frame)

#: Result and arguments of every function.
FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "vf_abi": (c_int32, ()),
    "vf_layout": (c_int64, (c_char_p,)),
    "vf_best_isa": (c_int32, ()),
    "vf_use_openmp": (None, (c_void_p,)),
    "vf_use_products": (c_int32, (c_int32,)),
    "vf_plan_create": (
        c_void_p,
        (POINTER(Op), c_int64, POINTER(Mask), c_int64, c_int32, c_char_p, c_int64),
    ),
    "vf_plan_destroy": (None, (c_void_p,)),
    "vf_plan_run": (c_int32, (c_void_p, POINTER(Frame), c_int64, c_void_p, c_int64, c_int32, c_int32)),
    "vf_plan_invalidate": (None, (c_void_p,)),
    "vf_plan_counts": (POINTER(c_int64), (c_void_p,)),
    "vf_plan_row_blocks": (c_int64, (c_void_p,)),
    "vf_common_bytes": (c_int64, ()),
    "vf_plan_bytes": (c_int64, (c_void_p, c_int32)),
    "vf_plan_seen": (c_void_p, (c_void_p, c_int64)),
    "vf_mask_read": (c_int32, (c_void_p, c_int32, c_int32, c_void_p)),
    "vf_mask_write": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_magnitude_read": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_magnitude_write": (c_int32, (c_void_p, c_int32, c_void_p)),
    "vf_all_finite": (c_int32, (c_void_p, c_int64, c_int32)),
    "vf_planes": (None, (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int32)),
    "vf_plan_times": (POINTER(c_int64), (c_void_p, c_int32)),
}
