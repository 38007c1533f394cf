"""The graph of an export as it is walked: with its parameters, buffers and constants by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind, OutputKind

from videoeff.capture.autocast import Autocast
from videoeff.capture.wrapped import without_wrappers

_HELD = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_READ = (OutputKind.USER_OUTPUT, OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION)


@dataclass(frozen=True)
class ExportedGraph:
    """A graph whose placeholders are inputs of the call, or tensors that the model holds.

    Attributes:
        module: the graph, with what its ``get_attr`` nodes name.
        held: by the name of a placeholder, the path of a tensor of the model, and the tensor.
        changed: for each value the graph returns, the path of the buffer that takes it, "" for an output of
            the model, None for what nobody takes; empty where all are outputs.
    """

    module: fx.GraphModule
    held: Mapping[str, tuple[str, Tensor]] = field(default_factory=dict)
    changed: tuple[str | None, ...] = ()


def graph_of(exported: torch.export.ExportedProgram, around: Autocast | None = None) -> ExportedGraph:
    """The graph of an export.

    ``ExportedProgram.module()`` copies the graph twice, and compiles it, to make a model that can be run.
    A look at its signature is enough, unless it writes what is neither a buffer nor an argument.

    Raises:
        TypeError: the export makes a module of another kind.
    """
    signature = exported.graph_signature
    plain = all(s.kind in _READ for s in signature.output_specs)
    held: dict[str, tuple[str, Tensor]] = {}
    for spec in signature.input_specs:
        if spec.kind in _HELD and spec.target is not None:
            tensor = exported.state_dict.get(spec.target, exported.constants.get(spec.target))
            plain = plain and isinstance(tensor, Tensor)
            if isinstance(tensor, Tensor):
                held[spec.arg.name] = (spec.target, tensor)
        elif spec.kind != InputKind.USER_INPUT:
            plain = False
    if plain:
        taken = {OutputKind.USER_OUTPUT: "", OutputKind.USER_INPUT_MUTATION: None}
        changed = tuple(taken.get(s.kind, s.target) for s in signature.output_specs)
        return ExportedGraph(
            without_wrappers(exported.graph_module, around),
            held,
            changed if any(c != "" for c in changed) else (),
        )
    module = exported.module(check_guards=False)
    if not isinstance(module, fx.GraphModule):
        raise TypeError(f"an export's module is a {type(module).__name__}")
    return ExportedGraph(without_wrappers(module, around))


def module_of(node: fx.Node) -> str:
    """The path of the module that a node of an export comes from, "" where there is none."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = str(list(stack.values())[-1][0])
    for prefix in ("L['self']", "L__self__"):
        path = path.removeprefix(prefix)
    return path.strip(".").split("@")[0].replace("._modules.", ".")
