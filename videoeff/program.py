"""Program: the graph every part of the compiler reads and rewrites.

A :class:`Program` wraps one ``torch.fx.GraphModule`` of ATen operators over static shapes, as
``torch.export`` writes it, plus a handful of operators of our own (``videoeff.ops.markers``). Read as
plain PyTorch, a Program at any stage *is* the dense model: the markers are identities. What they mean
for a stream is given to them by ``videoeff.lower``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

STAGES = ("captured", "planned")


class Argument(Enum):
    """What stands in ``Program.literals`` for an argument that is no literal."""

    TENSOR = "tensor"


@dataclass(frozen=True)
class PixelLayout:
    """Which dimensions of a tensor are its streams and its pixels.

    A change mask has one bit per pixel and stream, shape ``(R, H, W)``; every other dimension of the
    tensor counts as channels.

    Attributes:
        rows: dimension whose entries belong to streams (the batch), or None.
        h: dimension of the pixel rows, or None where the value has no vertical extent.
        w: dimension of the pixel columns, or None.
        streams: for each entry of ``rows`` the stream it belongs to; None where entries of several
            streams are mixed, or where there is no ``rows`` dimension.
    """

    rows: int | None = None
    h: int | None = None
    w: int | None = None
    streams: tuple[int, ...] | None = None

    def extent(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The mask shape ``(R, H, W)`` of a tensor of ``shape``; 1 where a role has no dimension."""
        return (
            1 if self.rows is None else int(shape[self.rows]),
            1 if self.h is None else int(shape[self.h]),
            1 if self.w is None else int(shape[self.w]),
        )

    def is_spatial(self, shape: Sequence[int]) -> bool:
        """Whether the value has more than one pixel."""
        _, height, width = self.extent(shape)
        return height * width > 1


@dataclass(frozen=True)
class ValueInfo:
    """Shape, dtype and layout of one node's value.

    Attributes:
        shape: the static shape, None for a value that is not a tensor.
        dtype: its dtype, None for a value that is not a tensor.
        layout: which dimensions are streams and pixels; None for constants and non-tensors.
        dense: why the value's pixels cannot be traced to input pixels, "" where they can.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    layout: PixelLayout | None = None
    dense: str = ""

    @property
    def numel(self) -> int:
        """Number of elements, 0 for a value that is not a tensor."""
        if self.shape is None:
            return 0
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def is_spatial(self) -> bool:
        """Whether the value is a map of more than one pixel."""
        return self.layout is not None and self.shape is not None and self.layout.is_spatial(self.shape)


@dataclass(frozen=True)
class PassRecord:
    """What one pass did: its text (with options), whether it changed anything, and its notes."""

    name: str
    text: str
    changed: bool
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {"name": self.name, "text": self.text, "changed": self.changed, "notes": list(self.notes)}


@dataclass(frozen=True)
class StateSpec:
    """One buffer of a stream's state.

    Attributes:
        name: unique name, ``<cache>.value``, ``<cache>.scale`` or ``<cache>.pending``.
        shape: its shape.
        dtype: its dtype.
        rows: the dimension indexed by stream rows, None where streams share it.
        parent: name of the buffer this one is a channel slice of, None for a buffer of its own.
        channels: (dimension, start, step) of that slice.
        channels_last: whether a (B, C, H, W) buffer lies channels-last in memory.
        pixel: of such a buffer, elements from one pixel to the next where they are more than its channels;
            what lies between is zero and never written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int | None = None
    parent: str | None = None
    channels: tuple[int, int, int] | None = None
    channels_last: bool = False
    pixel: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, gaps included; 0 for a slice of another buffer."""
        if self.parent is not None:
            return 0
        if self.pixel:
            return self.dtype.itemsize * math.prod(self.shape) // self.shape[1] * self.pixel
        return self.dtype.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, the state schema of an artefact."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "parent": self.parent,
            "channels": None if self.channels is None else list(self.channels),
        }


@dataclass
class Program:
    """A captured or planned network.

    Attributes:
        module: the graph and the tensors it names.
        in_spec: pytree of ``(args, kwargs)`` of the model's call.
        out_spec: pytree of its outputs.
        streams: how many independent streams one call carries (the batch size).
        name: what the model is called in reports.
        stage: "captured" or "planned".
        history: what each pass did, in order.
        literals: for each flattened input, ``Argument.TENSOR`` or the constant it was captured with.
    """

    module: fx.GraphModule
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    streams: int
    name: str = "model"
    stage: str = "captured"
    history: tuple[PassRecord, ...] = ()
    literals: tuple[Any, ...] = field(default=())

    @property
    def graph(self) -> fx.Graph:
        """The fx graph."""
        return self.module.graph

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The graph's nodes in order."""
        return iter(self.module.graph.nodes)

    @property
    def placeholders(self) -> list[fx.Node]:
        """The tensor inputs in call order."""
        return [n for n in self.module.graph.nodes if n.op == "placeholder"]

    @property
    def output(self) -> fx.Node:
        """The output node; its one argument is the flat tuple of outputs."""
        return self.module.graph.output_node()

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The constant a ``get_attr`` node names."""
        value = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{node.name}: {node.target} is not a tensor")
        return value

    def clone(self) -> Program:
        """A copy whose graph can be rewritten freely; the constants are shared, not copied."""
        graph = fx.Graph()
        mapping: dict[fx.Node, fx.Node] = {}
        output = graph.graph_copy(self.module.graph, mapping)
        graph.output(output)
        for old, new in mapping.items():
            new.meta = dict(old.meta)
        root = nn.Module()
        for path, tensor in self.module.named_buffers(remove_duplicate=False):
            set_tensor(root, path, tensor)
        return replace(self, module=fx.GraphModule(root, graph))

    def recorded(self, record: PassRecord) -> Program:
        """This Program with one more entry in its history."""
        return replace(self, history=(*self.history, record))

    def run(self, *flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The dense model on flattened tensor inputs; markers are identities."""
        result = self.module(*flat)
        return tuple(result)

    def __str__(self) -> str:
        from videoeff.text import program_to_text

        return program_to_text(self)


def info(node: fx.Node) -> ValueInfo:
    """The node's shape, dtype and layout, as the analyses left them."""
    value = node.meta.get("value")
    if not isinstance(value, ValueInfo):
        raise KeyError(f"{node.name}: not analysed; call videoeff.analysis.annotate(program) first")
    return value


def module_path(node: fx.Node) -> str:
    """Dotted path of the module the node came from, "" where there is none."""
    return str(node.meta.get("module", ""))


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """A call's positional arguments; fx types them as a union too wide to work with."""
    return tuple(node.args)


def input_node(node: fx.Node, position: int = 0) -> fx.Node:
    """A positional argument that is another node.

    Raises:
        TypeError: it is a literal, or not there.
    """
    value = node.args[position] if position < len(node.args) else None
    if not isinstance(value, fx.Node):
        raise TypeError(f"{node.name}: argument {position} of {node.target} is {value!r}, not a node")
    return value


def is_const(node: fx.Node) -> bool:
    """Whether the node is a constant of the Program."""
    return node.op == "get_attr"


def set_tensor(root: torch.nn.Module, path: str, tensor: torch.Tensor) -> None:
    """Register a constant under a dotted path, making the modules between."""
    *parents, leaf = path.split(".")
    module = root
    for part in parents:
        child = getattr(module, part, None)
        if not isinstance(child, torch.nn.Module):
            child = torch.nn.Module()
            module.add_module(part, child)
        module = child
    if leaf in module._buffers or leaf in module._parameters:
        return
    module.register_buffer(leaf, tensor.detach())
