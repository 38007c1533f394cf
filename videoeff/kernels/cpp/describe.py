"""From a region to the descriptor of one native op, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch

from videoeff.kernels.call import RegionCall
from videoeff.kernels.cpp.abi import MAX_ARGS, MAX_REACH, MAX_STAGES, MAX_TERMS, Dtype, EpiOp, Kind
from videoeff.kernels.cpp.numbers import MAX_STAGE_INPUTS, MAX_STAGE_STRIDE, MAX_STAGE_WINDOW
from videoeff.kernels.cpp.registers import Epilogue, assign
from videoeff.kernels.region_spec.spec import Form, form_of
from videoeff.kernels.region_spec.trace import Declined

DTYPES = {torch.float32: Dtype.F32, torch.float64: Dtype.F64, torch.bfloat16: Dtype.BF16}


@dataclass(frozen=True)
class Description(Form):
    """One native op without addresses.

    Attributes:
        epilogue: what follows the producer, in registers.
    """

    epilogue: Epilogue

    @property
    def expands(self) -> bool:
        """Whether its first stage is not depthwise: it is computed in a line buffer."""
        return bool(self.stages) and self.stages[0].window["groups"] == 1

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
    if form.stages:
        _check_stages(form, call.prediction is not None)
    if len(form.arguments) > MAX_ARGS:
        raise Declined(f"{len(form.arguments)} arguments in one region, at most {MAX_ARGS} are served")
    if len(form.reach) > MAX_REACH:
        raise Declined(f"it follows {len(form.reach)} masks, at most {MAX_REACH} are served")
    prediction = call.prediction
    if prediction is not None and max(len(prediction.sources), len(prediction.residuals)) > MAX_TERMS:
        raise Declined(f"its prediction has more than {MAX_TERMS} terms")
    given = {field.name: getattr(form, field.name) for field in fields(Form)}
    return Description(**given, epilogue=epilogue)


#: What may follow a stage.
_ACTIVATIONS = (EpiOp.CLAMP, EpiOp.LEAKY, EpiOp.HARDSWISH, EpiOp.SILU, EpiOp.GELU)

_POINT = dict.fromkeys(("kh", "kw", "sy", "sx", "dy", "dx", "groups"), 1) | {"py": 0, "px": 0}


def _check_stages(form: Form, predicted: bool) -> None:
    """Whether one native op computes these: any convolution, a depthwise one or a maximum, a 1x1 one."""
    if predicted:
        raise Declined("predicted changes of convolutions that read one another")
    if form.dtype == torch.bfloat16:
        raise Declined("convolutions that read one another in bfloat16")
    other = Declined("convolutions that read one another, of other kinds than any, depthwise, 1x1")
    last = len(form.stages)
    if last > MAX_STAGES or form.input is None or form.input.strides[3] != 1 or form.window.get("gate"):
        raise other
    sizes = [form.input.extent[1:3], *(s.extent[1:] for s in form.stages), form.out.extent[1:3]]
    channels = [form.input.extent[3], *(s.channels for s in form.stages), form.channels]
    windows = [*(s.window for s in form.stages), form.window]
    filters = [w["groups"] == channels[i] == channels[i + 1] > 1 for i, w in enumerate(windows)]
    if form.kind == Kind.MAXPOOL:
        filters[last] = True
    at = filters.index(True) if sum(filters) == 1 else -1
    if at not in (last - 1, last) or at > 1 or (form.kind == Kind.MAXPOOL and at != 1):
        raise other
    for index, window in enumerate(windows):
        _check_window(window, sizes[index], sizes[index + 1])
        if index == at:
            continue
        inputs = window["kh"] * window["kw"] * channels[index]
        point = all(window[name] == value for name, value in _POINT.items())
        if inputs > MAX_STAGE_INPUTS or window["groups"] != 1 or (index > at and not point):
            raise other
    for stage in form.stages:
        if stage.code is not None and (stage.code.op not in _ACTIVATIONS or stage.code.a != 0):
            raise Declined("an instruction between two convolutions that is no activation")


def _check_window(window: Mapping[str, int], size: Sequence[int], result: Sequence[int]) -> None:
    for axis, extent, results in zip("yx", size, result, strict=True):
        reach = (window[f"k{'h' if axis == 'y' else 'w'}"] - 1) * window[f"d{axis}"] + 1
        stride, padding = window[f"s{axis}"], window[f"p{axis}"]
        served = reach <= MAX_STAGE_WINDOW and stride <= MAX_STAGE_STRIDE and padding < reach
        if not served or (results - 1) * stride - padding >= extent:
            raise Declined("an unusual window among convolutions that read one another")
