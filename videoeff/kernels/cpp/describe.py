"""From a region to the descriptor of one native op, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from videoeff.kernels.cpp import pointwise, windows
from videoeff.kernels.cpp.abi import MAX_ARGS, MAX_REACH, MAX_TERMS, EpiOp, Kind, ReachKind
from videoeff.kernels.cpp.registers import Epilogue, assign
from videoeff.kernels.cpp.tables import Table
from videoeff.kernels.cpp.trace import (
    Builder,
    Constant,
    Declined,
    Value,
    View,
    combined,
    result_layout,
    short,
    side_by_side,
)
from videoeff.ops.call import Operand, RegionCall, Step

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
TESTS = {"max": 0, "l2": 1, "rms": 2, "rms-relative": 2}
RULES = {**pointwise.RULES, **windows.RULES}

_PRODUCER_REACH = {
    Kind.CONV: ReachKind.WINDOW,
    Kind.MAXPOOL: ReachKind.WINDOW,
    Kind.SEPARABLE: ReachKind.TABLE,
    Kind.TRANSPOSED: ReachKind.SPREAD,
}


@dataclass(frozen=True)
class Description:
    """One native op without addresses; the fields are those of ``vf_op``.

    Attributes:
        kind: how a pixel is computed.
        dtype: number of the dtype.
        out: the value.
        input: what the producer reads, None where there is none and for frames.
        window: kernel, stride, padding, dilation and groups by their names in ``vf_op``.
        weight, bias: of a convolution.
        tables: of the rows and columns.
        epilogue: the programme after the producer.
        arguments: what it reads.
        reach: (mask, kind) of each cache that it follows.
        extents: (R, H, W) of those masks.
    """

    kind: Kind
    dtype: int
    out: View
    input: View | None
    window: Mapping[str, int]
    weight: Constant | None
    bias: Constant | None
    tables: tuple[Table, Table] | None
    epilogue: Epilogue
    arguments: tuple[View, ...]
    reach: tuple[tuple[str, ReachKind], ...]
    extents: Mapping[str, tuple[int, int, int]]


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
    if 0 in call.value.shape:
        raise Declined("its value is empty")
    builder = Builder(call)
    out = side_by_side(builder.view(call.buffers[call.value.name], call.layout, call.value.name))
    _check_out(call, out)
    if call.kind == "input":
        return _input(call, out)
    if call.test.block != 1 or call.test.dilation:
        raise Declined("a change test over blocks of a value that is no input")
    for step in call.steps:
        builder.steps.append(_value_of(builder, step))
    final = _final(builder, call)
    producer = builder.producer
    if final != len(builder.code) - 1:
        final = builder.emit(EpiOp.COPY, final)
    channels = out.extent[3]
    exact = producer.kind in (Kind.CONV, Kind.TRANSPOSED)
    epilogue = assign(builder.code, producer.channels, channels, exact)
    if len(builder.arguments) > MAX_ARGS:
        raise Declined(f"{len(builder.arguments)} arguments in one region, at most {MAX_ARGS} are served")
    reach = _reach(builder)
    if call.prediction is not None:
        _check_prediction(call, producer.kind)
    return Description(
        producer.kind, DTYPES[call.value.dtype], out, producer.input, producer.window, producer.weight,
        producer.bias, producer.tables, epilogue, tuple(builder.arguments), reach, dict(builder.extents),
    )  # fmt: skip


def _input(call: RegionCall, out: View) -> Description:
    nothing = Epilogue((), (0, 0, 0, 0))
    return Description(
        Kind.INPUT, DTYPES[call.value.dtype], out, None, {}, None, None, None, nothing, (), (), {}
    )


def _check_out(call: RegionCall, out: View) -> None:
    extent = call.extent
    if any(size >= 2**31 for size in (*call.value.shape, *extent)):
        raise Declined("a dimension of more than 2^31")
    for axis, size in enumerate(extent):
        if size > 1 and out.extent[axis] != size:
            raise Declined("elements of its value share memory")


def _value_of(builder: Builder, step: Step) -> Value:
    operands = _operands(step.arguments)
    values = [builder.value(o) for o in operands]
    if all(v.constant for v in values) and step.shape is not None and step.dtype is not None:
        return _folded(builder, step, operands)
    if step.dtype is not None and step.dtype != builder.dtype:
        raise Declined(f"{short(step)} gives {str(step.dtype).removeprefix('torch.')}")
    rule = RULES.get(step.target.removeprefix("aten."))
    if rule is None:
        raise Declined(f"{short(step)} has no native form")
    result_layout(step)
    value = rule(builder, step)
    if step.shape != value.shape:
        raise Declined(f"{short(step)} gives {step.shape}")
    return value


def _folded(builder: Builder, step: Step, operands: list[Operand]) -> Value:
    """A step of constants alone is computed once."""
    parts = [builder.known(o, "a constant") for o in operands]

    def function(*tensors: torch.Tensor) -> Any:
        given = dict(zip([id(o) for o in operands], tensors, strict=True))
        arguments = {k: _replaced(v, given) for k, v in step.arguments.items()}
        return step.function(**arguments)

    return builder.constant(combined(parts, function, step.shape or ()))


def _operands(arguments: Any) -> list[Operand]:
    if isinstance(arguments, Operand):
        return [arguments]
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if isinstance(arguments, (list, tuple)):
        return [o for a in arguments for o in _operands(a)]
    return []


def _replaced(argument: Any, tensors: Mapping[int, Any]) -> Any:
    if isinstance(argument, Operand):
        return tensors[id(argument)]
    if isinstance(argument, (list, tuple)):
        return [_replaced(a, tensors) for a in argument]
    return argument


def _final(builder: Builder, call: RegionCall) -> int:
    if call.result is None:
        raise Declined("it computes nothing")
    value = builder.value(call.result)
    if value.constant:
        raise Declined("its value is a constant")
    if value.shape != call.value.shape:
        raise Declined(f"it computes {value.shape} for {call.value.shape}")
    at = builder.operand(value, call.value.shape, call.layout)
    if at < 0:
        return builder.emit(EpiOp.COPY, at)
    return at


def _reach(builder: Builder) -> tuple[tuple[str, ReachKind], ...]:
    found: dict[tuple[str, ReachKind], None] = {}
    whole = {mask for mask, how in builder.reach if how == "whole"}
    for mask, how in builder.reach:
        if how == "whole" or mask in whole:
            found[(mask, ReachKind.WHOLE)] = None
        elif how == "same":
            found[(mask, ReachKind.SAME)] = None
        else:
            found[(mask, _PRODUCER_REACH[builder.producer.kind])] = None
    if len(found) > MAX_REACH:
        raise Declined(f"it follows {len(found)} masks, at most {MAX_REACH} are served")
    return tuple(found)


def _check_prediction(call: RegionCall, kind: Kind) -> None:
    prediction = call.prediction
    assert prediction is not None  # asked by the caller
    if kind != Kind.CONV:
        raise Declined("its changes are predicted and it is no convolution")
    if len(prediction.sources) > MAX_TERMS or len(prediction.residuals) > MAX_TERMS:
        raise Declined(f"its prediction has more than {MAX_TERMS} terms")
