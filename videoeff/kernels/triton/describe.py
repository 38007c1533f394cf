"""Which regions the CUDA backend takes."""

from __future__ import annotations

import os

import torch

from videoeff.kernels.backend import Accepted, Declined
from videoeff.kernels.call import RegionCall
from videoeff.kernels.computation import Computation
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.producers import Mean, Pointwise
from videoeff.kernels.region_spec.spec import RegionSpec, region_spec_of
from videoeff.kernels.region_spec.values import Unserved, dtype_name
from videoeff.kernels.triton.configs import ALONG, by_channel, by_rows, groups_of, looks_along

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Most channels of a pixel that one program holds.
WIDEST = 4096


def interpreted() -> bool:
    """Whether kernels are interpreted on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def served_device() -> str:
    """The kind of device that this backend serves."""
    return "cpu" if interpreted() else "cuda"


_NUMBERS = "values of 8-bit numbers"


def describe(call: RegionCall) -> Accepted[RegionSpec] | Declined:
    """The spec of a region, or why this backend does not take it."""
    if call.device != served_device():
        return Declined(f"the stream lies on {call.device}")
    if call.value.grid is not None:
        return Declined(_NUMBERS)
    if call.value.dtype not in DTYPES:
        return Declined(f"its value is {dtype_name(call.value.dtype)}")
    try:
        spec = region_spec_of(call)
        _check(call, spec)
    except Unserved as error:
        return Declined(str(error))
    return Accepted(call, spec)


def _check(call: RegionCall, spec: RegionSpec) -> None:
    if spec.stages:
        raise Unserved("convolutions that read one another in one region")
    reads = call.source.reads if isinstance(call.source, Computation) else ()
    rounds = any(i is not None and i.op == EpiOp.ROUND for i in spec.epilogue)
    if rounds or any(r.grid is not None for r in reads):
        raise Unserved(_NUMBERS)
    if (cast := next((d for r in reads if (d := r.of(call.buffers).dtype) != call.dtype), None)) is not None:
        raise Unserved(f"it reads {dtype_name(cast)} and gives {dtype_name(call.dtype)}")
    streams = call.layout.streams
    if streams is None or len(streams) != call.extent[0]:
        raise Unserved("its rows mix streams")
    if call.test.noise:
        raise Unserved("its change test knows the camera's noise")
    if call.test.grow:
        raise Unserved("its change test lets hits grow to their neighbours")
    if call.test.watched:
        raise Unserved("its change test ignores some pixels")
    for instruction in spec.epilogue:
        if instruction is not None and instruction.op in ALONG and instruction.width > WIDEST:
            raise Unserved(f"it looks along {instruction.width} channels, at most {WIDEST} are served")
    if groups_of(spec) > 1 and not by_channel(spec) and looks_along(spec):
        raise Unserved("it looks along the channels of a grouped convolution")
    if by_rows(spec):
        if call.extent[1:] != (1, 1) or not isinstance(spec.producer, (Mean, Pointwise)):
            raise Unserved("a linear layer behind another operator")
        if spec.out.extent[3] > WIDEST:
            raise Unserved(f"rows of {spec.out.extent[3]} channels, at most {WIDEST} are served")
    if call.bound is not None and isinstance(spec.producer, Mean):
        raise Unserved("its reach is bounded, and it is a mean")
    if call.prediction is not None and any(name not in spec.extents for name in call.prediction.layers):
        raise Unserved("its changes are predicted from those of a map that it does not read")
