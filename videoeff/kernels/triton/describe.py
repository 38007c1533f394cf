"""Which regions the CUDA backend takes."""

from __future__ import annotations

import os

import torch

from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.codes import Kind
from videoeff.kernels.region_spec.spec import Form, form_of
from videoeff.kernels.region_spec.trace import Declined
from videoeff.kernels.triton.configs import ALONG, by_channel, by_rows, looks_along

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Most channels of a pixel that one program holds.
WIDEST = 4096


def interpreted() -> bool:
    """Whether kernels are interpreted on the CPU (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def served_device() -> str:
    """The kind of device that this backend serves."""
    return "cpu" if interpreted() else "cuda"


def describe(call: RegionCall) -> Form | str:
    """The form of a region, or why this backend does not take it."""
    if call.device != served_device():
        return f"the stream lies on {call.device}"
    if call.value.dtype not in DTYPES:
        return f"its value is {str(call.value.dtype).removeprefix('torch.')}"
    try:
        form = form_of(call)
        _check(call, form)
    except Declined as error:
        return str(error)
    return form


def _check(call: RegionCall, form: Form) -> None:
    if form.stages:
        raise Declined("convolutions that read one another in one region")
    streams = call.layout.streams
    if streams is None or len(streams) != call.extent[0]:
        raise Declined("its rows mix streams")
    for instruction in form.code:
        if instruction is not None and instruction.op in ALONG and instruction.width > WIDEST:
            raise Declined(f"it looks along {instruction.width} channels, at most {WIDEST} are served")
    if form.window.get("groups", 1) > 1 and not by_channel(form) and looks_along(form):
        raise Declined("it looks along the channels of a grouped convolution")
    if by_rows(form):
        if call.extent[1:] != (1, 1) or form.kind not in (Kind.MEAN, Kind.POINTWISE):
            raise Declined("a linear layer behind another operator")
        if form.out.extent[3] > WIDEST:
            raise Declined(f"rows of {form.out.extent[3]} channels, at most {WIDEST} are served")
    if call.prediction is not None:
        terms = (*call.prediction.sources, *call.prediction.residuals)
        if any(name not in form.extents for name, _ in terms):
            raise Declined("its changes are predicted from those of a map that it does not read")
