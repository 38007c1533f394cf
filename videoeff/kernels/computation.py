"""What a region computes: operators one by one, over buffers and constants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from videoeff.ir.grids import Grid
from videoeff.ir.layout import PixelLayout
from videoeff.ops.base import bound_arguments, op_name, overload_name

#: In float64, PyTorch's rule for the pixel that these pick depends on how the map lies in memory: they get it
#: in the default memory format, which a model has whose frames have it.
_BY_LAYOUT = ("upsample_nearest2d", "_upsample_nearest_exact2d")


@dataclass(frozen=True)
class Read:
    """A buffer a call reads: a state by name, or a slice (dim, first, last + 1) of it.

    With a grid it holds numbers, which stand for values of ``dtype``.
    """

    state: str
    part: tuple[int, int, int] | None = None
    grid: Grid | None = None
    dtype: torch.dtype | None = None

    def of(self, buffers: Mapping[str, Tensor]) -> Tensor:
        """The buffer, or a view of the slice."""
        buffer = buffers[self.state]
        if self.part is None:
            return buffer
        dim, first, last = self.part
        return buffer.narrow(dim, first, last - first)

    def value(self, buffers: Mapping[str, Tensor]) -> Tensor:
        """What it holds: the same, or what its numbers stand for."""
        found = self.of(buffers)
        return found if self.grid is None else self.grid.decode(found, self.dtype or torch.float32)


@dataclass(frozen=True)
class FromRead:
    """An operand that is one of the computation's reads.

    Attributes:
        index: which.
        shape: its shape.
        dtype: its dtype.
        layout: its streams and pixels.
        masks: the caches whose masks tell which of its pixels changed.
    """

    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: PixelLayout
    masks: tuple[str, ...]


@dataclass(frozen=True)
class FromConstant:
    """An operand that is one of the computation's constants, of this shape."""

    index: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class FromStep:
    """An operand that is the result of an earlier step."""

    index: int


#: A tensor that a step takes.
Operand = FromRead | FromConstant | FromStep


@dataclass(frozen=True)
class Step:
    """One operator.

    Attributes:
        function: the overload, or an operator of our own.
        args, kwargs: as it is called; an :class:`Operand` stands for a tensor.
        shape: the result's shape, None where it is not one tensor.
        dtype: the result's dtype.
        layout: the result's streams and pixels.
        traced: whether the result's pixels are followed, so that ``layout`` is to be trusted.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    layout: PixelLayout | None
    traced: bool

    @cached_property
    def op(self) -> str:
        """The operator without its overload: ``conv2d``."""
        return op_name(self.function)

    @cached_property
    def name(self) -> str:
        """The operator with its overload: ``conv2d.default``."""
        return overload_name(self.function)

    @cached_property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments by the schema's names, defaults filled in."""
        return bound_arguments(self.function, self.args, self.kwargs)


Result = TypeVar("Result")


@dataclass(frozen=True)
class Computation(Generic[Result]):
    """Steps over buffers and constants.

    Attributes:
        steps: in order.
        result: what is computed, an operand or a tuple with operands in it.
        reads: the buffers.
        constants: the constants by name.
    """

    steps: tuple[Step, ...]
    result: Result
    reads: tuple[Read, ...]
    constants: tuple[str, ...]

    def run(self, buffers: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> Any:
        """The result, in plain PyTorch."""
        reads = (r.value(buffers) for r in self.reads)
        return self.function(*reads, *(constants[c] for c in self.constants))

    @cached_property
    def function(self) -> Callable[..., Any]:
        """``function(*reads, *constants)``, compiled when it is asked for first."""
        graph = fx.Graph()
        reads = [graph.placeholder(f"read_{i}") for i in range(len(self.reads))]
        constants = [graph.placeholder(f"constant_{i}") for i in range(len(self.constants))]
        done: list[fx.Node] = []

        def node(argument: Any) -> Any:
            match argument:
                case FromRead(index=index):
                    return reads[index]
                case FromConstant(index=index):
                    return constants[index]
                case FromStep(index=index):
                    return done[index]
            return argument

        for step in self.steps:
            args: Any = map_aggregate(step.args, node)
            kwargs: Any = map_aggregate(dict(step.kwargs), node)
            if step.op in _BY_LAYOUT and step.dtype == torch.float64:
                args = (graph.call_function(torch.ops.aten.contiguous.default, args[:1]), *args[1:])
            done.append(graph.call_function(step.function, args, kwargs))
        result: Any = self.result
        graph.output(map_aggregate(result, node))
        forward: Callable[..., Any] = fx.GraphModule(torch.nn.Module(), graph).forward
        return forward


def operands(arguments: Any) -> list[Operand]:
    """The operands in a step's arguments, in order."""
    if isinstance(arguments, Operand):
        return [arguments]
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if isinstance(arguments, (list, tuple)):
        return [o for a in arguments for o in operands(a)]
    return []
