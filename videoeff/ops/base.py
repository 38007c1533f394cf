"""What an operator means to a stream.

An :class:`Op` says, for the ATen overloads it names, where the pixels of its result come from. The
overload itself is the reference: run on the full buffers it gives every value, so an Op only adds the
layout rule, the reach rule (which result pixels an input pixel touches) and the cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout, info
from videoeff.ops.home import Home, same_home

#: Masks by node name; each is bool of shape (R, H, W), any of them 1 where it broadcasts.
Masks = Mapping[str, Tensor]
#: The result's mask from those of its inputs.
Reach = Callable[[Masks], Tensor]

#: Roles: ``window`` computes from a neighbourhood and is worth a cache of its own; ``pixel`` computes each
#: pixel from the same pixel of its inputs and can be fused; ``layout`` only moves values.
ROLES = ("window", "pixel", "layout")


class NotLocal(Exception):
    """Raised by a layout rule: this call's pixels cannot be traced; the message says why."""


@dataclass(frozen=True)
class Case:
    """One configuration every backend is tested and timed on.

    Attributes:
        name: unique within the op.
        module: builds the module under test.
        shapes: shapes of its float inputs, batch first.
    """

    name: str
    module: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((2, 4, 11, 13),)


class Lambda(nn.Module):
    """A module around a function, for cases."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Tensor) -> Any:
        """Call the function."""
        return self.function(*args)


class Op(ABC):
    """Base of all operator declarations; one instance a class, found through :data:`REGISTRY`."""

    name: ClassVar[str]
    role: ClassVar[str] = "pixel"

    @abstractmethod
    def targets(self) -> Sequence[Any]:
        """The ATen overloads this op covers."""

    @abstractmethod
    def layout(self, node: fx.Node) -> PixelLayout:
        """The result's layout.

        Raises:
            NotLocal: pixels cannot be traced through this call.
        """

    @abstractmethod
    def reach(self, node: fx.Node) -> Reach:
        """The rule from input masks to the result's mask."""

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """Where the pixels of the result lie over those of an input, for a bound on how far changes reach.

        A pixel of a window op stands for the pixels around its window's centre, as many as the stride, so
        that the results share the input out among them; the rest of the window is only looked at.

        Args:
            node: the call.
            source: one of its inputs that change from frame to frame.

        Returns:
            The rows and the columns; None where it cannot be told.
        """
        if self.role == "window":
            return None
        sizes = _extent(source), _extent(node)
        if any(a not in (1, b) for a, b in zip(sizes[0][1:], sizes[1][1:], strict=True)):
            return None
        rows, columns = (same_home(a, b) for a, b in zip(sizes[0][1:], sizes[1][1:], strict=True))
        return rows, columns

    def macs(self, node: fx.Node) -> int:
        """Multiply-accumulates of the whole result; 0 where the op multiplies no weights."""
        return 0

    @abstractmethod
    def cases(self) -> Sequence[Case]:
        """The configurations to test; an op without any fails the tests."""


OPS: list[Op] = []
REGISTRY: dict[Any, Op] = {}


def register(op: type[Op]) -> type[Op]:
    """Add an op to the registry; the targets must be free."""
    instance = op()
    OPS.append(instance)
    for target in instance.targets():
        if target in REGISTRY:
            raise ValueError(f"{target} is declared by {REGISTRY[target].name} and {instance.name}")
        REGISTRY[target] = instance
    return op


def op_of(node: fx.Node) -> Op | None:
    """The declaration of a call, None where there is none."""
    return REGISTRY.get(node.target) if node.op == "call_function" else None


def overloads(*names: str) -> list[Any]:
    """ATen overloads by name ("relu.default"); those this PyTorch does not have are left out."""
    found = []
    for name in names:
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
        if op is not None:
            found.append(op)
    return found


def op_name(call: Any) -> str:
    """The operator of a node or function without its overload (``conv2d``), "" for other nodes than calls."""
    name = overload_name(call)
    return name.rpartition(".")[0] or name


def overload_name(call: Any) -> str:
    """The operator of a node or function with its overload (``conv2d.default``), "" for what is no call.

    Operators that are not ATen's are called by the name of their function.
    """
    if isinstance(call, fx.Node):
        if call.op != "call_function":
            return ""
        call = call.target
    if isinstance(call, torch._ops.OpOverload):
        return str(call).removeprefix("aten.")
    return str(getattr(call, "__name__", call))


def bind(node: fx.Node) -> dict[str, Any]:
    """The call's arguments by schema name, defaults filled in."""
    return bound_arguments(node.target, node.args, node.kwargs)


def bound_arguments(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of a function's schema, defaults filled in; by number where it has none."""
    if not isinstance(function, torch._ops.OpOverload):
        return {**{str(i): a for i, a in enumerate(args)}, **kwargs}
    bound: dict[str, Any] = {}
    for position, argument in enumerate(function._schema.arguments):
        if position < len(args):
            bound[argument.name] = args[position]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def stream_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs that change from frame to frame (each once), constants left out."""
    return [n for n in node.all_input_nodes if info(n).shape is not None and info(n).layout is not None]


def layout_of(node: Any) -> PixelLayout:
    """The layout of an input node.

    Raises:
        NotLocal: it has none.
    """
    layout = info(node).layout if isinstance(node, fx.Node) else None
    if layout is None:
        raise NotLocal("its input is a constant or not a tensor")
    return layout


def shape_of(node: Any) -> tuple[int, ...]:
    """The static shape of a tensor node."""
    shape = info(node).shape
    if shape is None:
        raise NotLocal(f"{node} is not a tensor")
    return shape


def pair(value: Any, count: int = 2) -> tuple[int, ...]:
    """An int or a short list as ``count`` ints."""
    if isinstance(value, int):
        return (value,) * count
    values = tuple(int(v) for v in value)
    return values * count if len(values) == 1 else values


def normal(dim: int, ndim: int) -> int:
    """A dimension as a non-negative number."""
    return dim + ndim if dim < 0 else dim


def require_channels(layout: PixelLayout, dims: Iterable[int], what: str) -> None:
    """Raise :class:`NotLocal` if one of ``dims`` is a stream or pixel dimension."""
    for dim in dims:
        if dim in (layout.rows, layout.h, layout.w):
            raise NotLocal(f"{what} runs over streams or pixels (dimension {dim})")


def require_image(layout: PixelLayout, ndim: int) -> None:
    """Raise :class:`NotLocal` unless the last two dimensions are the pixels and the first the streams."""
    if (layout.rows, layout.h, layout.w) != (0, ndim - 2, ndim - 1):
        raise NotLocal("its input's pixels are not its last two dimensions")


def require_constant(node: fx.Node, what: str) -> None:
    """Raise :class:`NotLocal` if an input after the first changes from frame to frame."""
    if any(n is not node.all_input_nodes[0] for n in stream_inputs(node)):
        raise NotLocal(f"{what} is computed from the frame")


def _extent(node: fx.Node) -> tuple[int, int, int]:
    return layout_of(node).extent(shape_of(node))


def same_mask(node: fx.Node) -> Reach:
    """Result pixels follow the same pixels of the first input."""
    name = stream_inputs(node)[0].name
    return lambda masks: masks[name]
