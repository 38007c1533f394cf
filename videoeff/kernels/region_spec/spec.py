"""From a region to its form, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from videoeff.kernels.call import Operand, RegionCall, Step
from videoeff.kernels.region_spec import pointwise, windows
from videoeff.kernels.region_spec.codes import EpiOp, Kind, ReachKind
from videoeff.kernels.region_spec.trace import (
    Builder,
    Constant,
    Declined,
    Instruction,
    Stage,
    Value,
    View,
    combined,
    result_layout,
    short,
    side_by_side,
)
from videoeff.ops.axis_tables import Table

RULES = {**pointwise.RULES, **windows.RULES}

_PRODUCER_REACH = {
    Kind.CONV: ReachKind.WINDOW,
    Kind.MAXPOOL: ReachKind.WINDOW,
    Kind.SEPARABLE: ReachKind.TABLE,
    Kind.TRANSPOSED: ReachKind.SPREAD,
}


@dataclass(frozen=True)
class Form:
    """A region without addresses.

    Attributes:
        kind: how a pixel is computed.
        dtype: of the value.
        out: the value.
        input: what the producer reads, None where there is none and for frames.
        window: kernel, stride, padding, dilation, groups (``kh kw sy sx py px dy dx groups``); ``gate``,
            1 + the argument that scales the input's channels, 0 for none.
        weight, bias: of a convolution.
        tables: of the rows and columns.
        code: the programme; None stands for the producer's result, the last instruction gives the value.
        channels: of the producer's result, 0 where there is no producer.
        arguments: what the programme reads.
        reach: (mask, kind) of each cache that it follows.
        extents: (R, H, W) of those masks.
        stages: convolutions before that of the producer, of which nothing is kept; the first reads ``input``,
            each other the one before it, the producer the last.
    """

    kind: Kind
    dtype: torch.dtype
    out: View
    input: View | None
    window: Mapping[str, int]
    weight: Constant | None
    bias: Constant | None
    tables: tuple[Table, Table] | None
    code: tuple[Instruction | None, ...]
    channels: int
    arguments: tuple[View, ...]
    reach: tuple[tuple[str, ReachKind], ...]
    extents: Mapping[str, tuple[int, int, int]]
    stages: tuple[Stage, ...]


def form_of(call: RegionCall) -> Form:
    """The form of a region.

    Raises:
        Declined: it has none; the message says why.
    """
    if 0 in call.value.shape:
        raise Declined("its value is empty")
    builder = Builder(call)
    out = side_by_side(builder.view(call.buffers[call.value.name], call.layout, call.value.name))
    _check_out(call, out)
    dtype = call.value.dtype
    if call.kind == "input":
        return Form(Kind.INPUT, dtype, out, None, {}, None, None, None, (), 0, (), (), {}, ())
    if call.test.block != 1 or call.test.dilation:
        raise Declined("a change test over blocks of a value that is no input")
    for step in call.steps:
        builder.steps.append(_value_of(builder, step))
    builder.extent = call.extent
    final = _final(builder, call)
    producer = builder.producer
    if final != len(builder.code) - 1:
        builder.emit(EpiOp.COPY, final)
    if call.prediction is not None and producer.kind != Kind.CONV:
        raise Declined("its changes are predicted and it is no convolution")
    source = builder.input if builder.stages else producer.input
    return Form(
        producer.kind, dtype, out, source, producer.window, producer.weight, producer.bias,
        producer.tables, tuple(builder.code), producer.channels, tuple(builder.arguments), _reach(builder),
        dict(builder.extents), tuple(builder.stages),
    )  # fmt: skip


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
    return tuple(found)
