"""From a region to the descriptor of one native op, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from videoeff.kernels.cpp.abi import MAX_ARGS, MAX_REACH, MAX_TERMS, Kind
from videoeff.kernels.cpp.registers import Epilogue, assign
from videoeff.kernels.forms.form import Form, form_of
from videoeff.kernels.forms.trace import Declined
from videoeff.ops.call import RegionCall

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
TESTS = {"max": 0, "l2": 1, "rms": 2, "rms-relative": 2}


@dataclass(frozen=True)
class Description(Form):
    """One native op without addresses.

    Attributes:
        epilogue: the programme after the producer, in registers.
    """

    epilogue: Epilogue

    @property
    def number(self) -> int:
        """The dtype's number in the native interface."""
        return DTYPES[self.dtype]


def describe(call: RegionCall) -> Description | str:
    """The native form of a region, or why it has none."""
    try:
        return _describe(call)
    except Declined as error:
        return str(error)


def _describe(call: RegionCall) -> Description:
    if call.device != "cpu":
        raise Declined(f"the stream lies on {call.device}")
    if call.value.dtype not in DTYPES:
        raise Declined(f"its value is {str(call.value.dtype).removeprefix('torch.')}")
    form = form_of(call)
    if form.kind == Kind.INPUT:
        epilogue = Epilogue((), (0, 0, 0, 0))
    else:
        exact = form.kind in (Kind.CONV, Kind.TRANSPOSED)
        epilogue = assign(form.code, form.channels, form.out.extent[3], exact)
    if len(form.arguments) > MAX_ARGS:
        raise Declined(f"{len(form.arguments)} arguments in one region, at most {MAX_ARGS} are served")
    if len(form.reach) > MAX_REACH:
        raise Declined(f"it follows {len(form.reach)} masks, at most {MAX_REACH} are served")
    prediction = call.prediction
    if prediction is not None and max(len(prediction.sources), len(prediction.residuals)) > MAX_TERMS:
        raise Declined(f"its prediction has more than {MAX_TERMS} terms")
    given = {field.name: getattr(form, field.name) for field in fields(Form)}
    return Description(**given, epilogue=epilogue)
