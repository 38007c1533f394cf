"""Program: the graph every part of the compiler reads and rewrites.

A :class:`Program` wraps one ``torch.fx.GraphModule`` of ATen operators over static shapes, as
``torch.export`` writes it, plus a handful of operators of our own (``videoeff.ir.markers``). Read as
plain PyTorch, a Program at any stage *is* the dense model: the markers are identities. What they mean
for a stream is given to them by ``videoeff.lowering.lower``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from videoeff.ir.module import LazyGraphModule
from videoeff.ir.printer import graph_to_text

STAGES = ("captured", "planned")


class Argument(Enum):
    """What stands in ``Program.literals`` for an argument that is no literal."""

    TENSOR = "tensor"


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
class Carried:
    """A buffer that the model's forward changes, and so carries from frame to frame.

    Its value before a frame is an input of the graph, its value after the frame an output; both stand behind
    the model's own, in the order of ``Program.carried``.

    Attributes:
        name: the buffer's dotted path in the model.
        initial: the constant of the Program that holds the value it begins with.
        shared: whether all entries of the batch share it, so that no entry can be reset alone.
    """

    name: str
    initial: str
    shared: bool


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
        carried: the buffers that the model's forward changes.
    """

    module: fx.GraphModule
    in_spec: pytree.TreeSpec
    out_spec: pytree.TreeSpec
    streams: int
    name: str = "model"
    stage: str = "captured"
    history: tuple[PassRecord, ...] = ()
    literals: tuple[Any, ...] = field(default=())
    carried: tuple[Carried, ...] = ()

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
        """The tensor inputs in call order, then the carried buffers."""
        return [n for n in self.module.graph.nodes if n.op == "placeholder"]

    @property
    def carriers(self) -> dict[fx.Node, Carried]:
        """The inputs that are carried buffers."""
        count = len(self.carried)
        return dict(zip(self.placeholders[-count:], self.carried, strict=True)) if count else {}

    @property
    def output(self) -> fx.Node:
        """The output node; its one argument is the flat tuple of outputs, then of carried buffers."""
        return self.module.graph.output_node()

    def tensor(self, node: fx.Node) -> torch.Tensor:
        """The constant a ``get_attr`` node names."""
        return self._constant(str(node.target))

    def _constant(self, path: str) -> torch.Tensor:
        value = attribute(self.module, path)
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{self.name}: {path} is not a tensor")
        return value

    def initial(self) -> tuple[torch.Tensor, ...]:
        """The values that the carried buffers begin with: the constants themselves."""
        return tuple(self._constant(c.initial) for c in self.carried)

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
        module = LazyGraphModule(root, graph)  # keeps what its nodes name
        for carried, tensor in zip(self.carried, self.initial(), strict=True):
            set_tensor(module, carried.initial, tensor)
        return replace(self, module=module)

    def at_stage(self, stage: str) -> Program:
        """This Program at another stage; the graph is shared."""
        return replace(self, stage=stage)

    def recorded(self, record: PassRecord) -> Program:
        """This Program with one more entry in its history."""
        return replace(self, history=(*self.history, record))

    def run(self, *flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The dense model's first frame on flattened tensor inputs; markers are identities."""
        return self.run_from(flat, self.initial())[0]

    def run_from(
        self, flat: Sequence[torch.Tensor], carried: Sequence[torch.Tensor]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        """The dense model on one frame.

        Args:
            flat: the tensor inputs, flattened.
            carried: the carried buffers before the frame.

        Returns:
            The flat outputs, and the carried buffers after the frame.
        """
        return self.parted(tuple(self.module(*flat, *carried)))

    def parted(self, flat: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What the graph returns: the model's flat outputs, and the carried buffers."""
        count = len(flat) - len(self.carried)
        return flat[:count], flat[count:]

    def __str__(self) -> str:
        return graph_to_text(self.graph, self.name, self.stage, self.streams)


def attribute(module: Any, path: str) -> Any:
    """What lies in a module at a dotted path."""
    for part in path.split("."):
        module = getattr(module, part)
    return module


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
