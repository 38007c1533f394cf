"""From a region's operators to a producer and a short epilogue, before registers are given out.

Values are followed symbolically: a buffer or a constant is a tensor without memory ("meta") whose strides say
where its elements lie; layout operators are run on it as they are. What is computed is the number of the
instruction that computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from videoeff.ir.grids import Grid
from videoeff.ir.layout import PixelLayout
from videoeff.kernels.call import RegionCall
from videoeff.kernels.computation import (
    Computation,
    FromConstant,
    FromRead,
    FromStep,
    Operand,
    Step,
    operands,
)
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.producers import Convolution, Mean, Pointwise, Producer, Resampling, Stage
from videoeff.kernels.region_spec.tables import picked
from videoeff.kernels.region_spec.values import (
    Constant,
    Extent,
    GridTable,
    Instruction,
    Unserved,
    Value,
    View,
    argument,
    channels_of,
    dtype_name,
    roles,
    side_by_side,
    view_of,
)

#: How a region's pixels follow those of a value: each the same, all of them, or as the producer looks.
How = Literal["same", "whole", "producer"]

#: Operators that look at a window, and those that may be a linear layer.
_WINDOWS, _LINEAR = ("conv2d", "max_pool2d"), ("linear", "conv2d")


class Builder:
    """The region under construction."""

    def __init__(self, call: RegionCall, computation: Computation[Operand]) -> None:
        self.call, self.computation = call, computation
        self.extent: Extent = call.extent
        self.dtype = call.dtype
        #: Of the buffers it reads.
        self.read_dtype = cast_from(computation, call.dtype)
        self.producer: Producer = Pointwise()
        self.channels = 0  # of the producer's result
        self.epilogue: list[Instruction | None] = []  # None: the producer's result
        self.stages: list[Stage] = []
        self.arguments: list[View] = []
        self.reach: dict[tuple[str, How], None] = {}  # by mask
        self.extents: dict[str, Extent] = {}
        self.values: list[Value] = []  # of the steps so far
        self.constants: dict[str, Value] = {}
        #: Whether several operators with a window follow one another in the region.
        self.several = sum(s.op in _WINDOWS for s in computation.steps) > 1
        #: Whether several linear layers follow one another in the region.
        self.more_linear = sum(s.op in _LINEAR for s in computation.steps) > 1

    def begin(self, extent: Extent) -> None:
        """What follows computes rows and pixels of this extent."""
        self.extent = extent

    # -- values ------------------------------------------------------------------------------------------

    def value(self, operand: Any) -> Value:
        """What stands for an operand of a step."""
        if not isinstance(operand, Operand):
            raise Unserved(f"{operand!r} stands where a tensor should")
        if isinstance(operand, FromStep):
            return self.values[operand.index]
        if isinstance(operand, FromConstant):
            name = self.computation.constants[operand.index]
            if name not in self.constants:
                self.constants[name] = self.constant(Constant((name,), _same, operand.shape))
            return self.constants[name]
        if operand.dtype != self.read_dtype:
            raise Unserved(f"it reads {dtype_name(operand.dtype)} and gives {dtype_name(self.dtype)}")
        read, layout = self.computation.reads[operand.index], operand.layout
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
            raise Unserved(f"{what} is computed from the frame")
        return value.source

    def map_of(self, value: Value, what: str) -> View:
        """The view of a buffer that a producer reads, with all its pixels."""
        if value.gate is not None:
            raise Unserved(f"{what} reads a map times a gate")
        if value.tensor is None or value.constant:
            raise Unserved(f"{what} reads a value that is not kept: two such operators in one region")
        if value.pixels[0] != self.extent[0]:
            raise Unserved(f"{what} reads other rows than it writes")
        return side_by_side(view_of(value.tensor, value.layout, value.source))

    # -- reach -------------------------------------------------------------------------------------------

    def reached(self, value: Value, how: How) -> None:
        """The region's pixels follow those of a value: "same", "whole", or by the producer."""
        if value.constant:
            return
        if not value.extent[0] == value.pixels[0] == self.extent[0]:
            raise Unserved("it reads other rows than it writes")
        if value.extent[1:] == (1, 1) or self.call.dense:
            how = "whole"
        elif how == "producer":
            if value.cropped or value.pixels != value.extent:
                raise Unserved("it reads a cut-out of a map")
        elif how == "same":
            if value.cropped and self.extent[1:] != (1, 1):
                raise Unserved("it reads a cut-out of a map")
            if value.extent != self.extent and self.extent[1:] != (1, 1):
                raise Unserved("it follows the pixels of a map of another size")
            if value.pixels != self.extent:
                how = "whole"
        for mask in value.masks:
            self.extents[mask] = value.extent
            self.reach[(mask, how)] = None

    # -- instructions ------------------------------------------------------------------------------------

    def produce(self, producer: Producer, channels: int, value: Value) -> int:
        """Set the producer, which reads ``value``; returns its number."""
        if not isinstance(self.producer, Pointwise):
            raise Unserved("two operators that look at a neighbourhood in one region")
        self.producer, self.channels = producer, channels
        if not value.computed:  # a stage's masks are noted already
            self.reached(value, "whole" if isinstance(producer, Mean) else "producer")
        self.epilogue.append(None)
        return len(self.epilogue) - 1

    def end_stage(self, value: Value, what: str) -> View:
        """What was built so far is ``value``, which a convolution reads next and nothing else.

        Returns:
            What the first stage reads.
        """
        self._check_here(value)
        producer, after = self.producer, self.epilogue[1:]
        if not isinstance(producer, Convolution) or producer.gate is not None:
            raise Unserved(f"{what} reads a value that is not kept and no plain convolution")
        last = value.number == len(self.epilogue) - 1
        grid = self._rounded(after)
        if grid is not None:
            after, self.arguments = after[:-1], []
        if self.arguments or len(after) > 1 or not last or self.epilogue[0] is not None:
            raise Unserved(f"{what} reads a value that is not kept: of more than a convolution and one step")
        self.stages.append(
            Stage(
                value.pixels, self.channels, producer.window, producer.groups, producer.weight,
                producer.bias, after[0] if after else None, grid,
            )
        )  # fmt: skip
        self.producer, self.channels, self.epilogue = Pointwise(), 0, []
        return producer.input

    def _rounded(self, after: list[Instruction | None]) -> Grid | None:
        """The grid that the last of these instructions rounds to, if a stage may end so."""
        final = after[-1] if after else None
        if final is None or final.op != EpiOp.ROUND or final.a != len(after) - 1 or len(self.arguments) != 1:
            return None
        table = self.arguments[0].source
        return table.grid if isinstance(table, GridTable) else None

    def emit(
        self, op: EpiOp, a: int, b: int | None = None, p: float = 0.0, q: float = 0.0, width: int = -1
    ) -> int:
        """Append an instruction; its width is that of its operands unless given."""
        operands = (a,) if b is None else (a, b)
        if width < 0:
            known = {w for o in operands if (w := self.width(o))}
            if len(known) > 1:
                raise Unserved(f"values of {min(known)} and {max(known)} channels meet")
            width = max(known, default=0)
        self.epilogue.append(Instruction(op, a, 0 if b is None else b, p, q, width))
        return len(self.epilogue) - 1

    def width(self, operand: int) -> int:
        """Channels of an operand, 0 for a broadcast one."""
        if operand < 0:
            view = self.arguments[-1 - operand]
            return view.extent[3] if view.strides[3] else 0
        found = self.epilogue[operand]
        return self.channels if found is None else found.width

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
            raise Unserved(f"its pixels are {layout.extent(shape)}, those of its value {self.extent}")
        if value.unrolled is not None or value.gate is not None:
            what = "a scaled map" if value.gate is not None else "a flattened map"
            raise Unserved(f"{what} is used other than by its convolution or linear layer")
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
            raise Unserved(f"{value.shape} does not broadcast to {shape}") from error
        view = view_of(expanded, layout, value.source)
        if view.extent[3] not in (1, channels_of(shape, layout)):
            raise Unserved("it is broadcast along some of the channels")
        return self.add_argument(view)

    def rows(self, value: Value, shape: tuple[int, ...], layout: PixelLayout) -> int:
        """A value in a register with all its channels, for what looks along them."""
        found = self.operand(value, shape, layout)
        channels = channels_of(shape, layout)
        if self.width(found) not in (channels, 0) or (self.width(found) == 0 and channels > 1):
            raise Unserved("it looks along channels of a broadcast value")
        return found if found >= 0 else self.emit(EpiOp.COPY, found, width=channels)

    def _check_here(self, value: Value) -> None:
        if value.stage != len(self.stages):
            raise Unserved("a value that is not kept is read by a convolution and by something else")

    def _check_aligned(self, value: Value, shape: tuple[int, ...], layout: PixelLayout) -> None:
        if value.pixels != self.extent:
            raise Unserved(f"a value of {value.pixels} pixels is used for one of {self.extent} in one region")
        for own, common in zip(roles(value.layout), roles(layout), strict=True):
            if own is None or value.shape[own] == 1:
                continue
            if common is None or own - len(value.shape) != common - len(shape):
                raise Unserved("its operands keep their pixels in different dimensions")
        if channels_of(value.shape, value.layout) not in (1, channels_of(shape, layout)):
            raise Unserved("it is broadcast along some of the channels")
        if (
            channels_of(value.shape, value.layout) == 1
            and channels_of(shape, layout) > 1
            and self.width(value.number)
        ):
            raise Unserved("one channel that is computed meets several in one region")

    def _crop(self, value: Value) -> int:
        """A cut-out of a map, by tables that pick its pixels."""
        view = self.map_of(value, "a cut-out")
        tensor, height, width = value.tensor, value.layout.h, value.layout.w
        if tensor is None or height is None or width is None or value.pixels != self.extent:
            raise Unserved("it reads a cut-out of a map")
        strides, extent, offset = list(view.strides), list(view.extent), view.offset
        for axis, role, rows in ((1, height, value.crop[0]), (2, width, value.crop[1])):
            strides[axis] = tensor.stride(role) // rows.step
            offset -= rows.start * strides[axis]
            extent[axis] = value.extent[axis]
        whole = View(
            view.source, offset, view.size + view.offset - offset,
            (strides[0], strides[1], strides[2], strides[3]), (extent[0], extent[1], extent[2], extent[3]),
        )  # fmt: skip
        producer = Resampling(whole, picked(value.crop[0]), picked(value.crop[1]))
        full = (range(value.extent[1]), range(value.extent[2]))
        reader = replace(value, crop=full, shape=_with(value, value.extent))
        return self.produce(producer, max(1, view.extent[3]), reader)

    def result(self, step: Step, number: int) -> Value:
        """The value of a step that an instruction computes."""
        shape, layout = result_layout(step)
        return Value(shape, layout, number=number, stage=len(self.stages))


def _with(value: Value, extent: Extent) -> tuple[int, ...]:
    shape = list(value.shape)
    for role, size in zip(roles(value.layout), extent, strict=True):
        if role is not None:
            shape[role] = size
    return tuple(shape)


def result_layout(step: Step) -> tuple[tuple[int, ...], PixelLayout]:
    """A step's shape and layout, which it must have.

    Raises:
        Unserved: it has none to rely on.
    """
    if step.shape is None or step.layout is None:
        raise Unserved(f"{step.name} gives no map")
    if not step.traced:
        raise Unserved(f"pixels cannot be followed through {step.name}")
    return step.shape, step.layout


#: Between which dtypes a region may cast, and what does.
_CAST_DTYPES, _CASTS = {torch.float32, torch.bfloat16}, ("to.dtype", "_to_copy.default")


def cast_from(computation: Computation[Operand], dtype: torch.dtype) -> torch.dtype:
    """The dtype of the buffers that a region reads: another than its value's where one of its steps casts."""
    read = {o.dtype for s in computation.steps for o in operands(s.arguments) if isinstance(o, FromRead)}
    casts = sum(s.name in _CASTS for s in computation.steps)
    if casts == 1 and len(read) == 1 and read | {dtype} == _CAST_DTYPES:
        return read.pop()
    return dtype


def _same(tensor: Tensor) -> Tensor:
    return tensor


#: A rule: the value of a step.
Rule = Callable[[Builder, Step], Value]
