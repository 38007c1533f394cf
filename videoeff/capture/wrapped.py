"""Regions of an export that run under ``torch.autocast`` or another gradient mode, as plain operators.

``torch.export`` keeps such a region as one call of a graph of its own. Here its operators take the call's
place. What autocast casts is asked of PyTorch: each operator runs once under it, on tensors without memory,
and the casts that it makes of its arguments become operators of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

from videoeff.capture.autocast import Autocast
from videoeff.errors import CaptureError, first_line
from videoeff.ir.program import attribute
from videoeff.ops.base import op_name

_AUTOCAST, _GRADIENTS = "wrap_with_autocast", "wrap_with_set_grad_enabled"

_FIX = "convert the model without autocast, and cast it whole: model.to(torch.bfloat16)"


def without_wrappers(module: fx.GraphModule, around: Autocast | None = None) -> fx.GraphModule:
    """The graph of an export with the operators of its wrapped regions in their place; itself if it has none.

    Args:
        module: the graph.
        around: the autocast that it was traced under.

    Raises:
        CaptureError: the casts of an operator under autocast cannot be told.
    """
    if not around and not any(_wrapper(n) for n in module.graph.nodes):
        return module
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        _copy(graph, module, node, env, around or Autocast())
    return fx.GraphModule(module, graph)


def _wrapper(node: fx.Node) -> str:
    """The name of the wrapper that a node calls; "" where it calls none."""
    name = getattr(node.target, "__name__", "") if node.op == "call_function" else ""
    return name if name in (_AUTOCAST, _GRADIENTS) else ""


def _copy(
    graph: fx.Graph, module: fx.GraphModule, node: fx.Node, env: dict[fx.Node, Any], on: Autocast
) -> None:
    """One node, and all of its region if it wraps one."""
    name = _wrapper(node)
    if name == _AUTOCAST:
        kind, dtype, enabled, _, region, *given = node.args
        inside = on.within(str(kind), dtype, bool(enabled))  # type: ignore[arg-type]
        env[node] = _region(graph, module, region, given, env, inside)
    elif name == _GRADIENTS:
        _, region, *given = node.args
        env[node] = _region(graph, module, region, given, env, on)
    elif node.op == "call_function" and isinstance(env.get(node.args[0]) if node.args else None, tuple):  # type: ignore[arg-type]
        env[node] = env[node.args[0]][node.args[1]]  # type: ignore[index]  # one result of a region
    elif node.op == "get_attr" and isinstance(attribute(module, str(node.target)), fx.GraphModule):
        env[node] = attribute(module, str(node.target))
    elif node.op == "output":
        graph.output(fx.map_arg(node.args[0], lambda n: env[n]))
    elif not on or node.op != "call_function":
        env[node] = graph.node_copy(node, env.__getitem__)
    else:
        env[node] = _cast(graph, node, env, on)


def _region(
    graph: fx.Graph,
    module: fx.GraphModule,
    region: Any,
    given: Sequence[Any],
    env: Mapping[fx.Node, Any],
    on: Autocast,
) -> tuple[Any, ...]:
    """The operators of a region; its results."""
    inner: Any = env[region]
    own: dict[fx.Node, Any] = {}
    values = iter(given)
    for node in inner.graph.nodes:
        if node.op == "placeholder":
            own[node] = fx.map_arg(next(values), lambda n: env[n])
        elif node.op == "output":
            return tuple(fx.map_arg(node.args[0], lambda n: own[n]))
        elif node.op == "get_attr" and isinstance(tensor := attribute(inner, str(node.target)), Tensor):
            path = f"{region.target}.{node.target}".replace(".", "_")
            setattr(module, path, tensor)
            own[node] = graph.create_node("get_attr", path)
            own[node].meta = dict(node.meta)
        else:
            _copy(graph, inner, node, own, on)
    return ()


def _cast(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, Any], on: Autocast) -> fx.Node:
    """An operator with the casts before it that autocast makes of its arguments."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
    fakes = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
    function: Any = node.target
    watch = _Casts(pytree.tree_leaves(fakes))
    try:
        with on.entered(), watch:
            wanted = function(*fakes[0], **fakes[1])
    except Exception as error:
        raise CaptureError(
            f"what autocast does to {op_name(node)} cannot be told ({first_line(error)}); {_FIX}"
        ) from error

    def cast(value: fx.Node) -> fx.Node:
        dtype = watch.dtypes.get(id(value.meta["val"]))
        if dtype is None or dtype == value.meta["val"].dtype:
            return value
        made = graph.call_function(torch.ops.aten.to.dtype, (value, dtype))
        made.meta = {**node.meta, "val": value.meta["val"].to(dtype)}
        return made

    made = graph.node_copy(node, env.__getitem__)
    with graph.inserting_before(made):
        made.args, made.kwargs = fx.map_arg((args, kwargs), cast)
    plain = fx.map_arg((made.args, made.kwargs), lambda n: n.meta["val"])
    found = function(*plain[0], **plain[1])
    if [_kind(v) for v in pytree.tree_leaves(found)] != [_kind(v) for v in pytree.tree_leaves(wanted)]:
        raise CaptureError(
            f"what autocast does to {op_name(node)} cannot be told by the casts of its arguments; {_FIX}"
        )
    made.meta = {**node.meta, "val": wanted}
    return made


def _kind(value: Any) -> Any:
    return (value.dtype, tuple(value.shape)) if isinstance(value, Tensor) else value


class _Casts(TorchDispatchMode):  # type: ignore[no-untyped-call]  # of its own __init_subclass__
    """While it is active, notes to which dtype each of some tensors is cast first.

    Args:
        values: the tensors, and other values, which are left alone.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ours = {id(v) for v in values if isinstance(v, Tensor)}
        #: By the identity of a tensor.
        self.dtypes: dict[int, torch.dtype] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note the cast that it is."""
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and id(args[0]) in self._ours:
            self.dtypes.setdefault(id(args[0]), result.dtype)
        return result
