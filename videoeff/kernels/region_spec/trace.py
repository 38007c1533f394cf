"""From a region's operators to a producer and a short programme, before registers are given out.

Values are followed symbolically: a buffer or a constant is a tensor without memory ("meta") whose strides say
where its elements lie; layout operators are run on it as they are. What is computed is the number of the
instruction that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videoeff.ir.layout import PixelLayout
from videoeff.kernels.call import Operand, RegionCall, Step
from videoeff.kernels.region_spec.codes import EpiOp, Kind
from videoeff.kernels.region_spec.tables import picked
from videoeff.kernels.region_spec.values import (
    Constant,
    Declined,
    Extent,
    Instruction,
    Producer,
    Stage,
    Value,
    View,
    argument,
)


class Builder:
    """The region under construction."""

    def __init__(self, call: RegionCall) -> None:
        self.call = call
        self.extent: Extent = call.extent
        self.dtype = call.value.dtype
        self.producer = Producer()
        self.code: list[Instruction | None] = []  # None: the producer's result
        self.stages: list[Stage] = []
        self.input: View | None = None  # what the first of the stages reads
        self.arguments: list[View] = []
        self.reach: dict[tuple[str, str], None] = {}  # (mask, what)
        self.extents: dict[str, Extent] = {}
        self.steps: list[Value] = []
        self.constants: dict[str, Value] = {}
        names = ("aten.linear.", "aten.conv2d.")
        #: Whether several operators with a window follow one another in the region.
        self.several = sum(s.target.startswith(("aten.conv2d.", "aten.max_pool2d.")) for s in call.steps) > 1
        #: Whether several linear layers follow one another in the region.
        self.more_linear = sum(s.target.startswith(names) for s in call.steps) > 1

    # -- values ------------------------------------------------------------------------------------------

    def value(self, operand: Any) -> Value:
        """What stands for an operand of a step."""
        if not isinstance(operand, Operand):
            raise Declined(f"{operand!r} stands where a tensor should")
        if operand.source == "step":
            return self.steps[operand.index]
        if operand.source == "constant":
            name = self.call.constants[operand.index]
            if name not in self.constants:
                self.constants[name] = self.constant(Constant((name,), _same, operand.shape))
            return self.constants[name]
        if operand.dtype != self.dtype:
            raise Declined(f"it reads {_dtype(operand.dtype)} and gives {_dtype(self.dtype)}")
        read, layout = self.call.reads[operand.index], operand.layout
        assert layout is not None  # what is read streams
        tensor = read.of(self.call.buffers)
        extent = layout.extent(operand.shape)
        crop = (range(extent[1]), range(extent[2]))
        return Value(operand.shape, layout, tensor, read.state, operand.masks, extent, crop)

    def constant(self, constant: Constant) -> Value:
        """A constant as a value, in the region's dtype where it is used."""
        return Value(constant.shape, tensor=torch.empty(constant.shape, device="meta"), source=constant)

    def known(self, operand: Any, what: str) -> Constant:
        """An operand that must be a constant, such as a weight."""
        value = self.value(operand)
        if not isinstance(value.source, Constant):
            raise Declined(f"{what} is computed from the frame")
        return value.source

    def map_of(self, value: Value, what: str) -> View:
        """The view of a buffer that a producer reads, with all its pixels."""
        if value.gate is not None:
            raise Declined(f"{what} reads a map times a gate")
        if value.tensor is None or value.constant:
            raise Declined(f"{what} reads a value that is not kept: two such operators in one region")
        if value.pixels[0] != self.extent[0]:
            raise Declined(f"{what} reads other rows than it writes")
        return side_by_side(self.view(value.tensor, value.layout, value.source))

    def view(self, tensor: Tensor, layout: PixelLayout, source: str | Constant) -> View:
        """A tensor without memory as strides over rows, pixels and channels."""
        roles = (layout.rows, layout.h, layout.w)
        strides, extent = [], []
        for role in roles:
            spread = role is not None and tensor.shape[role] > 1 and tensor.stride(role) != 0
            strides.append(tensor.stride(role) if role is not None and spread else 0)
            extent.append(tensor.shape[role] if role is not None and spread else 1)
        rest = [d for d in range(tensor.ndim) if d not in roles and tensor.shape[d] > 1]
        step, count = (tensor.stride(rest[-1]) if rest else 0), 1
        for d in reversed(rest):
            if tensor.stride(d) != step * count:
                raise Declined("its channels do not lie at even steps in memory")
            count *= tensor.shape[d]
        if step == 0:
            count = 1
        whole = tensor.untyped_storage().nbytes() // tensor.element_size()
        offset = int(tensor.storage_offset())
        if whole >= 2**31:
            raise Declined(f"a buffer has {whole} elements, more than 2^31")
        return View(
            source,
            offset,
            whole - offset,
            (strides[0], strides[1], strides[2], step),
            (extent[0], extent[1], extent[2], count),
        )

    # -- reach -------------------------------------------------------------------------------------------

    def reached(self, value: Value, how: str) -> None:
        """The region's pixels follow those of a value: "same", "whole", or by the producer."""
        if value.constant:
            return
        if not value.extent[0] == value.pixels[0] == self.extent[0]:
            raise Declined("it reads other rows than it writes")
        if value.extent[1:] == (1, 1) or self.call.dense:
            how = "whole"
        elif how == "producer":
            if value.cropped or value.pixels != value.extent:
                raise Declined("it reads a cut-out of a map")
        elif how == "same":
            if value.cropped and self.extent[1:] != (1, 1):
                raise Declined("it reads a cut-out of a map")
            if value.extent != self.extent and self.extent[1:] != (1, 1):
                raise Declined("it follows the pixels of a map of another size")
            if value.pixels != self.extent:
                how = "whole"
        for mask in value.masks:
            self.extents[mask] = value.extent
            self.reach[(mask, how)] = None

    # -- instructions ------------------------------------------------------------------------------------

    def produce(self, producer: Producer, value: Value) -> int:
        """Set the producer, which reads ``value``; returns its number."""
        if self.producer.kind != Kind.POINTWISE:
            raise Declined("two operators that look at a neighbourhood in one region")
        self.producer = producer
        if not value.computed:  # a stage's masks are noted already
            self.reached(value, "whole" if producer.kind == Kind.MEAN else "producer")
        self.code.append(None)
        return len(self.code) - 1

    def end_stage(self, value: Value, what: str) -> None:
        """What was built so far is ``value``, which a convolution reads next and nothing else."""
        self._check_here(value)
        producer, after = self.producer, self.code[1:]
        if producer.kind != Kind.CONV or producer.weight is None or producer.window["gate"]:
            raise Declined(f"{what} reads a value that is not kept and no plain convolution")
        if self.arguments or len(after) > 1 or value.number != len(self.code) - 1 or self.code[0] is not None:
            raise Declined(f"{what} reads a value that is not kept: of more than a convolution and one step")
        if not self.stages:
            self.input = producer.input
        code = after[0] if after else None
        self.stages.append(
            Stage(value.pixels, producer.channels, producer.window, producer.weight, producer.bias, code)
        )
        self.producer, self.code = Producer(), []

    def emit(
        self, op: EpiOp, a: int, b: int | None = None, p: float = 0.0, q: float = 0.0, width: int = -1
    ) -> int:
        """Append an instruction; its width is that of its operands unless given."""
        operands = (a,) if b is None else (a, b)
        if width < 0:
            known = {w for o in operands if (w := self.width(o))}
            if len(known) > 1:
                raise Declined(f"values of {min(known)} and {max(known)} channels meet")
            width = max(known, default=0)
        self.code.append(Instruction(op, a, 0 if b is None else b, p, q, width))
        return len(self.code) - 1

    def width(self, operand: int) -> int:
        """Channels of an operand, 0 for a broadcast one."""
        if operand < 0:
            view = self.arguments[-1 - operand]
            return view.extent[3] if view.strides[3] else 0
        found = self.code[operand]
        return self.producer.channels if found is None else found.width

    def add_argument(self, view: View) -> int:
        """The operand of a view; the same view is one argument."""
        if view not in self.arguments:
            self.arguments.append(view)
        return argument(self.arguments.index(view))

    def add_weights(self, weight: Constant, bias: Constant | None) -> int:
        """The operand of a linear layer's weights (O, I), with the bias (O) as the argument behind them."""
        outputs, inputs = weight.shape
        self.arguments.append(View(weight, 0, outputs * inputs, (0, 0, inputs, 1), (1, 1, outputs, inputs)))
        if bias is not None:
            self.arguments.append(View(bias, 0, outputs, (0, 0, 0, 1), (1, 1, 1, outputs)))
        return argument(len(self.arguments) - 1 - (bias is not None))

    def operand(self, value: Value, shape: tuple[int, ...], layout: PixelLayout) -> int:
        """A value as operand of an instruction whose result has ``shape`` and ``layout``."""
        if layout.extent(shape) != self.extent:
            raise Declined(f"its pixels are {layout.extent(shape)}, those of its value {self.extent}")
        if value.unrolled is not None or value.gate is not None:
            what = "a scaled map" if value.gate is not None else "a flattened map"
            raise Declined(f"{what} is used other than by its convolution or linear layer")
        if value.tensor is None:
            self._check_here(value)
            self._check_aligned(value, shape, layout)
            return value.number
        if value.cropped and not value.constant and self.extent[1:] != (1, 1):
            return self._crop(value)
        self.reached(value, "same")
        try:
            expanded = value.tensor.expand(shape)
        except RuntimeError as error:
            raise Declined(f"{value.shape} does not broadcast to {shape}") from error
        view = self.view(expanded, layout, value.source)
        if view.extent[3] not in (1, _channels(shape, layout)):
            raise Declined("it is broadcast along some of the channels")
        return self.add_argument(view)

    def rows(self, value: Value, shape: tuple[int, ...], layout: PixelLayout) -> int:
        """A value in a register with all its channels, for what looks along them."""
        found = self.operand(value, shape, layout)
        channels = _channels(shape, layout)
        if self.width(found) not in (channels, 0) or (self.width(found) == 0 and channels > 1):
            raise Declined("it looks along channels of a broadcast value")
        return found if found >= 0 else self.emit(EpiOp.COPY, found, width=channels)

    def _check_here(self, value: Value) -> None:
        if value.stage != len(self.stages):
            raise Declined("a value that is not kept is read by a convolution and by something else")

    def _check_aligned(self, value: Value, shape: tuple[int, ...], layout: PixelLayout) -> None:
        if value.pixels != self.extent:
            raise Declined(f"a value of {value.pixels} pixels is used for one of {self.extent} in one region")
        for own, common in zip(_roles(value.layout), _roles(layout), strict=True):
            if own is None or value.shape[own] == 1:
                continue
            if common is None or own - len(value.shape) != common - len(shape):
                raise Declined("its operands keep their pixels in different dimensions")
        if _channels(value.shape, value.layout) not in (1, _channels(shape, layout)):
            raise Declined("it is broadcast along some of the channels")
        if (
            _channels(value.shape, value.layout) == 1
            and _channels(shape, layout) > 1
            and self.width(value.number)
        ):
            raise Declined("one channel that is computed meets several in one region")

    def _crop(self, value: Value) -> int:
        """A cut-out of a map, by tables that pick its pixels."""
        view = self.map_of(value, "a cut-out")
        if value.layout.h is None or value.layout.w is None or value.pixels != self.extent:
            raise Declined("it reads a cut-out of a map")
        strides, extent, offset = list(view.strides), list(view.extent), view.offset
        for axis, rows in ((1, value.crop[0]), (2, value.crop[1])):
            role = (value.layout.h, value.layout.w)[axis - 1]
            assert role is not None  # checked above
            assert value.tensor is not None
            strides[axis] = value.tensor.stride(role) // rows.step
            offset -= rows.start * strides[axis]
            extent[axis] = value.extent[axis]
        whole = View(
            view.source, offset, view.size + view.offset - offset,
            (strides[0], strides[1], strides[2], strides[3]), (extent[0], extent[1], extent[2], extent[3]),
        )  # fmt: skip
        tables = picked(value.crop[0]), picked(value.crop[1])
        producer = Producer(Kind.SEPARABLE, max(1, view.extent[3]), whole, tables=tables)
        full = (range(value.extent[1]), range(value.extent[2]))
        reader = replace(value, crop=full, shape=_with(value, value.extent))
        return self.produce(producer, reader)

    def result(self, step: Step, number: int) -> Value:
        """The value of a step that an instruction computes."""
        assert step.shape is not None  # checked before its rule ran
        assert step.layout is not None
        return Value(step.shape, step.layout, number=number, stage=len(self.stages))


def side_by_side(view: View) -> View:
    """A map's view: a single channel is no broadcast."""
    if view.extent[3] > 1:
        return view
    return replace(view, strides=(*view.strides[:3], 1))


def _with(value: Value, extent: Extent) -> tuple[int, ...]:
    shape = list(value.shape)
    for role, size in zip(_roles(value.layout), extent, strict=True):
        if role is not None:
            shape[role] = size
    return tuple(shape)


def _roles(layout: PixelLayout) -> tuple[int | None, int | None, int | None]:
    return layout.rows, layout.h, layout.w


def _channels(shape: tuple[int, ...], layout: PixelLayout) -> int:
    count = 1
    for d, size in enumerate(shape):
        if d not in _roles(layout):
            count *= size
    return count


def channels(value: Value) -> int:
    """Channels of a value."""
    return _channels(value.shape, value.layout)


def channel_dims(value: Value) -> list[int]:
    """The dimensions of a value that hold more than one channel."""
    return [d for d, n in enumerate(value.shape) if d not in _roles(value.layout) and n > 1]


def result_layout(step: Step) -> tuple[tuple[int, ...], PixelLayout]:
    """A step's shape and layout, which it must have.

    Raises:
        Declined: it has none to rely on.
    """
    if step.shape is None or step.layout is None:
        raise Declined(f"{short(step)} gives no map")
    if not step.traced:
        raise Declined(f"pixels cannot be followed through {short(step)}")
    return step.shape, step.layout


def short(step: Step) -> str:
    """A step's name for messages."""
    return step.target.removeprefix("aten.")


def combined(parts: Sequence[Constant], function: Callable[..., Tensor], shape: tuple[int, ...]) -> Constant:
    """A constant computed from others."""
    counts = [len(part.names) for part in parts]

    def make(*tensors: Tensor) -> Tensor:
        rest, made = list(tensors), []
        for part, count in zip(parts, counts, strict=True):
            made.append(part.make(*rest[:count]))
            rest = rest[count:]
        return function(*made)

    return Constant(tuple(name for part in parts for name in part.names), make, shape)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _dtype(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


#: A rule: the value of a step.
Rule = Callable[[Builder, Step], Value]
Rules = Mapping[str, Rule]

__all__ = [
    "Builder",
    "Constant",
    "Declined",
    "Instruction",
    "Producer",
    "Rule",
    "Stage",
    "Value",
    "View",
    "argument",
    "channel_dims",
    "channels",
    "combined",
    "result_layout",
    "short",
    "side_by_side",
]
