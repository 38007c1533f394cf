"""A model in float32 that computes in bfloat16: it takes float32 and gives float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff.errors import CaptureError
from videoeff.runtime.copying import copy_with_shared_weights

_FIX = "give the model and the example in float32 (model.float(), example.float())"


def require_float32(model: nn.Module | torch.export.ExportedProgram, call: Any, name: str) -> None:
    """Whether a model and an example are such as ``precision="bf16"`` is made of.

    Args:
        model: the model.
        call: its example call, in any structure.
        name: what to call the model.

    Raises:
        CaptureError: they are not; what is not, and the fix.
    """
    weights, graphs = _held(model)
    if weights and all(t.dtype == torch.bfloat16 for t in weights.values()):
        raise CaptureError(f"{name}: its weights are in bfloat16 already, and streams in it; drop precision")
    odd = next((path for path, t in weights.items() if t.dtype in (torch.float64, torch.float16)), None)
    odd = odd or next((path for path, t in weights.items() if t.dtype != torch.float32), None)
    if odd is not None:
        raise CaptureError(
            f"{name}: {odd} is {_word(weights[odd])}; precision='bf16' is made of float32: {_FIX}"
        )
    for index, value in enumerate(pytree.tree_leaves(call)):
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32:
            raise CaptureError(
                f"{name}: argument {index} of the example is {_word(value)}; with precision='bf16' frames "
                f"are float32, and are cast inside: {_FIX}"
            )
    if any("quantized_decomposed" in str(n.target) for g in graphs for n in g.nodes):
        raise CaptureError(
            f"{name}: it is quantised already, and streams in integers as it is; drop precision"
        )


def _held(model: nn.Module | torch.export.ExportedProgram) -> tuple[dict[str, Tensor], list[fx.Graph]]:
    """The floating weights of a model by name, and the graphs that it is or has."""
    if isinstance(model, torch.export.ExportedProgram):
        given: dict[str, Any] = dict(model.state_dict)
        graphs = [model.graph_module.graph]
    else:
        given = dict(model.named_parameters())
        graphs = [m.graph for m in model.modules() if isinstance(m, fx.GraphModule)]
    return {k: t for k, t in given.items() if isinstance(t, Tensor) and t.is_floating_point()}, graphs


def in_bfloat16(model: nn.Module) -> nn.Module:
    """A copy of a model that casts what it is given to bfloat16, and what it gives to float32.

    Its floating parameters, buffers and tensors in attributes are in bfloat16; so is what a module with
    parameters is given. The model itself stays as it is.

    Raises:
        CaptureError: it cannot be copied.
    """
    return cast_to_bfloat16(copy_with_shared_weights(model))


def cast_to_bfloat16(model: nn.Module) -> nn.Module:
    """The same of a copy, in place."""
    with torch.no_grad():
        model.to(torch.bfloat16)
    for module in list(model.modules()):
        _cast_attributes(module)
        if isinstance(module, fx.GraphModule):
            _free_graph(module)
        if module is not model and any(p.is_floating_point() for p in module.parameters(recurse=False)):
            module.register_forward_pre_hook(_CastInputs(), with_kwargs=True, prepend=True)
    if isinstance(model, fx.GraphModule):  # whose hooks an export does not call
        _cast_ends(model)
        return model
    model.register_forward_pre_hook(_CastInputs(), with_kwargs=True, prepend=True)
    model.register_forward_hook(_CastOutputs())
    return model


def is_in_bfloat16(model: nn.Module) -> bool:
    """Whether a model that is no graph was made by :func:`in_bfloat16`."""
    return any(isinstance(hook, _CastOutputs) for hook in model._forward_hooks.values())


class _CastInputs:
    """A hook: arguments in float32 become bfloat16."""

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _lowered(args), _lowered(kwargs)


class _CastOutputs:
    """A hook: results in bfloat16 become float32."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _raised(output)


def _lowered(values: Any) -> Any:
    return _cast(values, torch.float32, torch.bfloat16)


def _raised(values: Any) -> Any:
    return _cast(values, torch.bfloat16, torch.float32)


def _cast(values: Any, before: torch.dtype, after: torch.dtype) -> Any:
    return pytree.tree_map_only(Tensor, lambda v: v.to(after) if v.dtype == before else v, values)


def _cast_ends(module: fx.GraphModule) -> None:
    """Cast what a graph is given, and what it gives."""
    nodes = list(module.graph.nodes)
    given = [n for n in nodes if n.op == "placeholder"]
    for node in given:
        with module.graph.inserting_after(given[-1]):
            cast = module.graph.call_function(_lowered, (node,))
        node.replace_all_uses_with(cast, delete_user_cb=lambda user, own=cast: user is not own)
    output = nodes[-1]
    with module.graph.inserting_before(output):
        output.args = fx.map_arg(output.args, lambda n: module.graph.call_function(_raised, (n,)))
    module.recompile()


def _cast_attributes(module: nn.Module) -> None:
    """Tensors that a module holds in attributes and in lists, tuples and dictionaries among them."""
    for key, value in list(vars(module).items()):
        if key in _OWN or key.endswith("hooks") or isinstance(value, nn.Module):
            continue
        if isinstance(value, Tensor) or (isinstance(value, (list, tuple, Mapping)) and _holds(value)):
            with torch.no_grad():
                vars(module)[key] = _lowered(value)


_OWN = ("_parameters", "_buffers", "_modules")


def _holds(value: Any) -> bool:
    return any(isinstance(v, Tensor) and v.dtype == torch.float32 for v in pytree.tree_leaves(value))


#: Operators of exports that read weights.
_WEIGHTED = ("aten.conv", "aten.linear", "aten.batch_norm", "aten.prelu")


def _free_graph(module: fx.GraphModule) -> None:
    """Drop what fixes float32 in the graph of an export and did nothing there, and cast what layers read."""
    changed = False
    for node in list(module.graph.nodes):
        word = str(node.target)
        if word.startswith("aten._assert_tensor_metadata"):
            module.graph.erase_node(node)
            changed = True
        elif word.startswith(("aten.to.dtype", "aten._to_copy")) and isinstance(node.args[0], fx.Node):
            values = node.args[0].meta.get("val"), node.meta.get("val")
            if all(isinstance(v, Tensor) and v.dtype == torch.float32 for v in values):
                node.replace_all_uses_with(node.args[0])
                module.graph.erase_node(node)
                changed = True
        elif word.startswith(_WEIGHTED) and node.op == "call_function":
            with module.graph.inserting_before(node):
                node.args = (module.graph.call_function(_lowered, (node.args[0],)), *node.args[1:])
            changed = True
    if changed:
        module.recompile()


def _word(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
