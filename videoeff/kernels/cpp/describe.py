"""From a region to the descriptor of one native op, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from videoeff.ir.grids import Grid
from videoeff.kernels.backend import Accepted, Declined
from videoeff.kernels.call import RegionCall
from videoeff.kernels.cpp.abi import MAX_ARGS, MAX_REACH, MAX_STAGES, MAX_TERMS, Dtype, EpiOp
from videoeff.kernels.cpp.numbers import MAX_STAGE_INPUTS, MAX_STAGE_STRIDE, MAX_STAGE_WINDOW
from videoeff.kernels.cpp.registers import Epilogue, assign
from videoeff.kernels.region_spec.producers import (
    Convolution,
    Input,
    MaxPool,
    TransposedConvolution,
    Window,
)
from videoeff.kernels.region_spec.spec import RegionSpec, region_spec_of
from videoeff.kernels.region_spec.values import Unserved, View, dtype_name

DTYPES = {torch.float32: Dtype.F32, torch.float64: Dtype.F64, torch.bfloat16: Dtype.BF16}


@dataclass(frozen=True)
class Description:
    """One native op without addresses.

    Attributes:
        spec: the region.
        epilogue: what follows the producer, in registers.
        numbers: whether its value is kept as 8-bit numbers.
        reads_numbers: whether its producer reads such.
    """

    spec: RegionSpec
    epilogue: Epilogue
    numbers: bool = False
    reads_numbers: bool = False

    @property
    def expands(self) -> bool:
        """Whether its first stage is not depthwise: it is computed in a line buffer."""
        return bool(self.spec.stages) and self.spec.stages[0].groups == 1

    @property
    def number(self) -> int:
        """The dtype's number in the native interface."""
        return Dtype.U8 if self.numbers else DTYPES[self.spec.dtype]


def describe(call: RegionCall) -> Accepted[Description] | Declined:
    """The native op of a region, or why it has none."""
    try:
        return Accepted(call, _describe(call))
    except Unserved as error:
        return Declined(str(error))


def _describe(call: RegionCall) -> Description:
    if call.device != "cpu":
        raise Unserved(f"the stream lies on {call.device}")
    if call.dtype not in DTYPES:
        raise Unserved(f"its value is {dtype_name(call.dtype)}")
    spec = region_spec_of(call)
    _check_grids(call, spec)
    if isinstance(spec.producer, Input):
        epilogue = Epilogue((), (0, 0, 0, 0))
    else:
        exact = isinstance(spec.producer, (Convolution, TransposedConvolution))
        epilogue = assign(spec.epilogue, spec.channels, spec.out.extent[3], exact)
    if spec.stages:
        _check_stages(spec, call.prediction is not None)
    if len(spec.arguments) > MAX_ARGS:
        raise Unserved(f"{len(spec.arguments)} arguments in one region, at most {MAX_ARGS} are served")
    if len(spec.reach) > MAX_REACH:
        raise Unserved(f"it follows {len(spec.reach)} masks, at most {MAX_REACH} are served")
    prediction = call.prediction
    if prediction is not None and max(len(prediction.sources), len(prediction.residuals)) > MAX_TERMS:
        raise Unserved(f"its prediction has more than {MAX_TERMS} terms")
    reads = spec.input is not None and grid_of(call, spec.input) is not None
    return Description(spec, epilogue, call.value.grid is not None, reads)


def grid_of(call: RegionCall, view: View) -> Grid | None:
    """What the numbers of a view stand for, None where it has values."""
    return call.specs[view.source].grid if isinstance(view.source, str) else None


def _check_grids(call: RegionCall, spec: RegionSpec) -> None:
    """Whether what is kept as 8-bit numbers is used in ways that are served."""
    views = [spec.out, *spec.arguments, *([] if spec.input is None else [spec.input])]
    grids = [(view, grid) for view in views if (grid := grid_of(call, view)) is not None]
    if spec.stages:
        ends = [call.value.grid, None if spec.input is None else grid_of(call, spec.input)]
        numbers = [grid is not None for grid in (*ends, *(s.grid for s in spec.stages))]
        if any(numbers) and not all(numbers):
            raise Unserved("convolutions that read one another, of 8-bit numbers and of values")
    if not grids:
        return
    if call.dtype != torch.float32:
        raise Unserved(f"8-bit numbers and {dtype_name(call.dtype)}")
    for view, grid in grids:
        whole = view.offset == 0 and view.extent[3] == len(grid.scales) and view.strides[3] == 1
        if grid.dim >= 0 and not whole:
            raise Unserved("a part of the channels of 8-bit numbers that have a scale for each")
    if spec.input is None or grid_of(call, spec.input) is None:
        return
    if isinstance(spec.producer, TransposedConvolution):
        raise Unserved("a transposed convolution of 8-bit numbers")
    if isinstance(spec.producer, Convolution) and spec.producer.gate is not None:
        raise Unserved("a convolution of 8-bit numbers times a gate")


#: What may follow a stage.
_ACTIVATIONS = (EpiOp.CLAMP, EpiOp.LEAKY, EpiOp.HARDSWISH, EpiOp.SILU, EpiOp.GELU)

_POINT = Window((1, 1))


def _check_stages(spec: RegionSpec, predicted: bool) -> None:
    """Whether one native op computes these: any convolution, a depthwise one or a maximum, a 1x1 one."""
    if predicted:
        raise Unserved("predicted changes of convolutions that read one another")
    other = Unserved("convolutions that read one another, of other kinds than any, depthwise, 1x1")
    producer, stages, last = spec.producer, spec.stages, len(spec.stages)
    if (
        last > MAX_STAGES
        or not isinstance(producer, (Convolution, MaxPool))
        or producer.input.strides[3] != 1
    ):
        raise other
    if isinstance(producer, Convolution) and producer.gate is not None:
        raise other
    sizes = [producer.input.extent[1:3], *(s.extent[1:] for s in stages), spec.out.extent[1:3]]
    channels = [producer.input.extent[3], *(s.channels for s in stages), spec.channels]
    windows = [*(s.window for s in stages), producer.window]
    groups = [*(s.groups for s in stages), producer.groups if isinstance(producer, Convolution) else 1]
    filters = [n == channels[i] == channels[i + 1] > 1 for i, n in enumerate(groups)]
    if isinstance(producer, MaxPool):
        filters[last] = True
    at = filters.index(True) if sum(filters) == 1 else -1
    if at not in (last - 1, last) or at > 1 or (isinstance(producer, MaxPool) and at != 1):
        raise other
    for index, window in enumerate(windows):
        _check_window(window, sizes[index], sizes[index + 1])
        if index == at:
            continue
        inputs = window.taps * channels[index]
        if inputs > MAX_STAGE_INPUTS or groups[index] != 1 or (index > at and window != _POINT):
            raise other
    for stage in stages:
        if stage.epilogue is not None and (stage.epilogue.op not in _ACTIVATIONS or stage.epilogue.a != 0):
            raise Unserved("an instruction between two convolutions that is no activation")


def _check_window(window: Window, size: Sequence[int], result: Sequence[int]) -> None:
    for axis, (extent, results) in enumerate(zip(size, result, strict=True)):
        reach = (window.kernel[axis] - 1) * window.dilation[axis] + 1
        stride, padding = window.stride[axis], window.padding[axis]
        served = reach <= MAX_STAGE_WINDOW and stride <= MAX_STAGE_STRIDE and padding < reach
        if not served or (results - 1) * stride - padding >= extent:
            raise Unserved("an unusual window among convolutions that read one another")
