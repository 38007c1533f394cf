"""From a region to its spec, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from videoeff.kernels.call import Input as FrameInput
from videoeff.kernels.call import RegionCall
from videoeff.kernels.computation import Operand, Step, operands
from videoeff.kernels.region_spec import along_channels, arithmetic, moves, pointwise, resampling, windows
from videoeff.kernels.region_spec.codes import EpiOp, Kind, ReachKind
from videoeff.kernels.region_spec.producers import Convolution, Input, Pointwise, Producer, Stage
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import (
    Instruction,
    Unserved,
    Value,
    View,
    combined,
    dtype_name,
    side_by_side,
    view_of,
)

#: The rules by operator and overload.
RULES: dict[str, Rule] = {
    name: rule
    for part in (pointwise, arithmetic, along_channels, windows, resampling, moves)
    for name, rule in part.RULES.items()
}

_PRODUCER_REACH = {
    Kind.CONV: ReachKind.WINDOW,
    Kind.MAXPOOL: ReachKind.WINDOW,
    Kind.SEPARABLE: ReachKind.TABLE,
    Kind.TRANSPOSED: ReachKind.SPREAD,
}


@dataclass(frozen=True)
class RegionSpec:
    """A region without addresses.

    Attributes:
        dtype: of the value.
        out: the value.
        producer: how a pixel is computed before the epilogue.
        channels: of the producer's result, 0 where there is no producer.
        epilogue: the instructions; None stands for the producer's result, the last one gives the value.
        arguments: what the epilogue reads.
        reach: (mask, kind) of each cache that it follows.
        extents: (R, H, W) of those masks.
        stages: convolutions before that of the producer, of which nothing is kept; the first reads the
            producer's ``input``, each other the one before it, the producer the last.
    """

    dtype: torch.dtype
    out: View
    producer: Producer
    channels: int = 0
    epilogue: tuple[Instruction | None, ...] = ()
    arguments: tuple[View, ...] = ()
    reach: tuple[tuple[str, ReachKind], ...] = ()
    extents: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    @property
    def kind(self) -> Kind:
        """The producer's number."""
        return self.producer.kind

    @property
    def input(self) -> View | None:
        """What the producer reads, or the first stage; None where there is none, and for frames."""
        return None if isinstance(self.producer, (Input, Pointwise)) else self.producer.input


def region_spec_of(call: RegionCall) -> RegionSpec:
    """The spec of a region.

    Raises:
        Unserved: it has none; the message says why.
    """
    if 0 in call.value.shape:
        raise Unserved("its value is empty")
    out = side_by_side(view_of(call.buffers[call.value.name], call.layout, call.value.name))
    _check_out(call, out)
    dtype = call.dtype
    if isinstance(call.source, FrameInput):
        return RegionSpec(dtype, out, Input())
    if call.test.blocks:
        raise Unserved("a change test over blocks of a value that is no input")
    builder = Builder(call, call.source)
    for step in call.source.steps:
        builder.values.append(_value_of(builder, step))
    builder.begin(call.extent)
    final = _final(builder, call, call.source.result)
    if final != len(builder.epilogue) - 1:
        builder.emit(EpiOp.COPY, final)
    if builder.read_dtype != dtype:
        _check_cast(builder)
    if call.prediction is not None and not isinstance(builder.producer, Convolution):
        raise Unserved("its changes are predicted and it is no convolution")
    return RegionSpec(
        dtype, out, builder.producer, builder.channels, tuple(builder.epilogue), tuple(builder.arguments),
        _reach(builder), dict(builder.extents), tuple(builder.stages),
    )  # fmt: skip


def _check_cast(builder: Builder) -> None:
    """Whether a region that casts does nothing else."""
    (only,) = builder.epilogue if len(builder.epilogue) == 1 else (None,)
    if not isinstance(builder.producer, Pointwise) or only is None or only.op != EpiOp.COPY:
        raise Unserved(
            f"it reads {dtype_name(builder.read_dtype)}, gives {dtype_name(builder.dtype)}, and does more"
        )


def _check_out(call: RegionCall, out: View) -> None:
    extent = call.extent
    if any(size >= 2**31 for size in (*call.value.shape, *extent)):
        raise Unserved("a dimension of more than 2^31")
    for axis, size in enumerate(extent):
        if size > 1 and out.extent[axis] != size:
            raise Unserved("elements of its value share memory")


def _value_of(builder: Builder, step: Step) -> Value:
    read = operands(step.arguments)
    values = [builder.value(o) for o in read]
    if all(v.constant for v in values) and step.shape is not None and step.dtype is not None:
        return _folded(builder, step, read)
    if step.dtype is not None and step.dtype not in (builder.dtype, builder.read_dtype):
        raise Unserved(f"{step.name} gives {dtype_name(step.dtype)}")
    rule = RULES.get(step.name)
    if rule is None:
        raise Unserved(f"{step.name} has no region spec")
    result_layout(step)
    value = rule(builder, step)
    if step.shape != value.shape:
        raise Unserved(f"{step.name} gives {step.shape}")
    return value


def _folded(builder: Builder, step: Step, read: list[Operand]) -> Value:
    """A step of constants alone is computed once."""
    parts = [builder.known(o, "a constant") for o in read]

    def function(*tensors: torch.Tensor) -> Any:
        given = dict(zip([id(o) for o in read], tensors, strict=True))
        arguments = {k: _replaced(v, given) for k, v in step.arguments.items()}
        return step.function(**arguments)

    return builder.constant(combined(parts, function, step.shape or ()))


def _replaced(argument: Any, tensors: Mapping[int, Any]) -> Any:
    if isinstance(argument, Operand):
        return tensors[id(argument)]
    if isinstance(argument, (list, tuple)):
        return [_replaced(a, tensors) for a in argument]
    return argument


def _final(builder: Builder, call: RegionCall, result: Operand) -> int:
    value = builder.value(result)
    if value.constant:
        raise Unserved("its value is a constant")
    if value.shape != call.value.shape:
        raise Unserved(f"it computes {value.shape} for {call.value.shape}")
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
