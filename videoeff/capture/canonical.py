"""The canonical form of an exported graph.

Static shapes, no in-place operators, no operators with a list of results, and whatever does not depend on the
frame computed once.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff.analysis import annotate
from videoeff.capture.autocast import Autocast
from videoeff.capture.carried import carried_input, carry, writes_held
from videoeff.capture.exported import graph_of, module_of
from videoeff.capture.unbatched import with_batch
from videoeff.errors import CaptureError
from videoeff.ir.layout import ShapeOnly, info, invalidate, tell_shape
from videoeff.ir.module import LazyGraphModule
from videoeff.ir.program import Argument, Program, arguments, attribute, input_node, set_tensor
from videoeff.ops.base import bind, op_name, overload_name

_LARGEST_FOLDED = 64 * 1024 * 1024  # elements; larger constants stay computed per frame


_FILLS = {"new_zeros": 0, "zeros_like": 0, "new_ones": 1, "ones_like": 1}


# What raises where an assumption of the export does not hold; all of ours are static.
_CHECKS = frozenset(
    "_assert_tensor_metadata _assert_async _assert_scalar _functional_assert_async "
    "_functional_assert_scalar".split()
)


# What may return its input's memory.
_VIEWS = frozenset(
    "view slice select permute transpose expand unsqueeze squeeze reshape flatten unflatten movedim "
    "alias detach narrow chunk split unbind t contiguous dropout feature_dropout to type_as view_as "
    "expand_as".split()
)


def batch_of(values: Sequence[Any]) -> int:
    """The number of streams: the batch size of the first image-like tensor, else of the first tensor."""
    tensors = [v for v in values if isinstance(v, Tensor) and v.ndim > 0]
    images = [t for t in tensors if t.ndim in (4, 5)]
    chosen = (images or tensors)[:1]
    return int(chosen[0].shape[0]) if chosen else 1


def to_program(
    exported: torch.export.ExportedProgram,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    around: Autocast | None = None,
) -> Program | None:
    """An exported model in canonical form, annotated; None where an in-place write remains.

    Raises:
        CaptureError: it calls what is no tensor operator, or returns what cannot be streamed.
    """
    source = graph_of(exported, around)
    if writes_held(source, _aliases):
        return None
    flat, in_spec = pytree.tree_flatten((args, kwargs))
    graph, root = fx.Graph(), nn.Module()
    literals: list[Any] = []
    env: dict[fx.Node, Any] = {}
    position = 0
    nodes = list(source.module.graph.nodes)
    late = [n for n in nodes if n.name in source.held and source.held[n.name][0] in source.changed]
    given = [n for n in nodes if n.op == "placeholder" and n not in late]
    for node in [*given, *late, *(n for n in nodes if n.op != "placeholder")]:
        if node in late:
            env[node] = carried_input(graph, *source.held[node.name])
        elif node.name in source.held:
            path, tensor = source.held[node.name]
            set_tensor(root, path, tensor)
            env[node] = graph.create_node("get_attr", path)
        elif node.op == "placeholder":
            value = flat[position]
            position += 1
            if isinstance(value, Tensor):
                made = graph.placeholder(str(node.name))
                made.meta["input"] = (tuple(value.shape), value.dtype)
                env[node] = made
                literals.append(Argument.TENSOR)
            else:
                env[node] = value
                literals.append(value)
        elif node.op == "get_attr":
            value = attribute(source.module, str(node.target))
            if isinstance(value, Tensor):
                set_tensor(root, str(node.target), value)
                env[node] = graph.create_node("get_attr", str(node.target), name=node.name)
            else:
                env[node] = value
        elif node.op == "output":
            flat_out, out_spec = _outputs(node.args[0], env, exported)
            if source.changed:
                taken = list(zip(source.changed, flat_out, strict=True))
                after = dict(taken)
                flat_out = [value for path, value in taken if path == ""]
                flat_out += [after[source.held[n.name][0]] for n in late]
        else:
            env[node] = _copy_call(graph, node, env)
    graph.output(tuple(flat_out))
    module = LazyGraphModule(root, graph)
    program = Program(module, in_spec, out_spec, batch_of(flat), name=name, literals=tuple(literals))
    if not _functionalise(program):
        return None
    program = with_batch(program)
    _split_lists(program)
    _literal_outputs(program)
    _eliminate(program)
    annotate(program)
    _fold_constants(program)
    _eliminate(program)
    program.module.recompile()
    return carry(program, dict(source.held[n.name] for n in late))


def _outputs(
    value: Any, env: Mapping[fx.Node, Any], exported: torch.export.ExportedProgram
) -> tuple[list[Any], pytree.TreeSpec]:
    flat, _ = pytree.tree_flatten(value)
    spec = exported.call_spec.out_spec
    assert spec is not None  # set by every export
    return [env.get(v, v) if isinstance(v, fx.Node) else v for v in flat], spec


def _copy_call(graph: fx.Graph, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    args = fx.map_arg(node.args, lambda n: env[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: env[n])
    leaves = pytree.tree_leaves((args, kwargs))
    if isinstance(node.target, torch._ops.OpOverload) and op_name(node) == "sym_size":
        return int(node.meta["val"])
    if not isinstance(node.target, torch._ops.OpOverload) and node.target is not operator.getitem:
        if any(isinstance(leaf, fx.Node) for leaf in leaves):
            raise CaptureError(f"{node.name}: the export calls {node.target}, which is no tensor operator")
        function: Any = node.target
        return function(*args, **kwargs)
    if op_name(node) in _CHECKS:
        return None
    target = node.target
    if overload_name(target) in ("view.default", "_unsafe_view.default"):
        target = torch.ops.aten.reshape.default  # a stream's buffers have strides of their own
    target, args, kwargs = _without_model(target, node, args, kwargs)
    made = graph.call_function(target, args, kwargs)
    made.meta["module"] = module_of(node)
    _take_shape(made, node.meta.get("val"))
    return made


# Calls that read their second argument for its type or its shape alone.
_LIKE_ANOTHER = {
    "type_as.default": torch.ops.aten.to.dtype,
    "to.other": torch.ops.aten.to.dtype,
    "expand_as.default": torch.ops.aten.expand.default,
    "view_as.default": torch.ops.aten.reshape.default,
    "reshape_as.default": torch.ops.aten.reshape.default,
}


def _without_model(target: Any, node: fx.Node, args: Any, kwargs: Any) -> tuple[Any, Any, Any]:
    """A call without the tensor it is modelled on: no value of that reaches the result."""
    other = node.args[1] if len(node.args) > 1 else node.kwargs.get("other")
    value = other.meta.get("val") if isinstance(other, fx.Node) else None
    if not isinstance(target, torch._ops.OpOverload) or not isinstance(value, Tensor):
        return target, args, kwargs
    plain = _LIKE_ANOTHER.get(overload_name(target))
    if plain is None or (
        plain is not torch.ops.aten.to.dtype and not all(isinstance(s, int) for s in value.shape)
    ):
        return target, args, kwargs
    return plain, (args[0], value.dtype if plain is torch.ops.aten.to.dtype else list(value.shape)), {}


def _take_shape(node: fx.Node, exported: Any) -> None:
    """The export has derived the shapes of all results already."""
    if isinstance(exported, Tensor) and all(isinstance(s, int) for s in exported.shape):
        tell_shape(node, tuple(exported.shape), exported.dtype)
    elif isinstance(exported, (list, tuple)):
        tell_shape(node, None, None)


def _functionalise(program: Program) -> bool:
    """Replace in-place operators by their pure forms; False where an alias that is read later forbids it."""
    position = {node: index for index, node in enumerate(program.graph.nodes)}
    for node in list(program.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        schema = node.target._schema
        written = [
            i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
        ]
        if not written:
            continue
        packet, overload = overload_name(node).split(".")
        base = node.args[0]
        pure = getattr(getattr(torch.ops.aten, packet.rstrip("_"), None), overload, None)
        if written != [0] or pure is None or not isinstance(base, fx.Node):
            return False
        now = position[node]
        if any(position[u] > now for a in _aliases(base) if a is not base for u in a.users):
            return False
        node.target = pure
        if not _same_float(program, node):
            for other in program.graph.nodes:  # without the write, another dtype may come of it
                invalidate(other)
        later = {user for user in base.users if position[user] > now}
        base.replace_all_uses_with(node, delete_user_cb=later.__contains__)
    return True


def _same_float(program: Program, node: fx.Node) -> bool:
    """Whether what a call reads and gives is all of one floating dtype."""
    dtypes: set[torch.dtype | None] = set()
    for read in (node, *node.all_input_nodes):
        if read.op == "placeholder":
            dtypes.add(read.meta["input"][1])
        elif read.op == "get_attr":
            dtypes.add(program.tensor(read).dtype)
        else:
            known = read.meta.get("value")
            dtypes.add(known.dtype if isinstance(known, ShapeOnly) else None)
    return len(dtypes) == 1 and all(d is not None and d.is_floating_point for d in dtypes)


def _aliases(node: fx.Node) -> list[fx.Node]:
    """All values that may share memory with a node's: what it is a view of, and the views of that."""
    root = node
    while _is_view(root) and isinstance(root.args[0], fx.Node):
        root = root.args[0]
    found, stack = [], [root]
    while stack:
        current = stack.pop()
        found.append(current)
        stack.extend(u for u in current.users if _is_view(u) and u.args[0] is current)
    return found


def _is_view(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    return node.op == "call_function" and op_name(node) in _VIEWS


def _split_lists(program: Program) -> None:
    """Turn ``chunk``, ``split`` and ``unbind`` into slices, one result each."""
    annotate(program)
    graph, aten = program.graph, torch.ops.aten
    before = len(graph.nodes)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        packet = op_name(node)
        if packet not in ("chunk", "split", "split_with_sizes", "unbind", "unsafe_chunk", "unsafe_split"):
            continue
        source = input_node(node)
        shape = info(source).shape or (1,)
        dim = int(bind(node)["dim"]) % len(shape)
        size = shape[dim]
        if any(u.target is not operator.getitem for u in node.users):
            continue
        starts = _starts(packet, node, size)
        for user in list(node.users):
            index = int(arguments(user)[1])
            with graph.inserting_before(user):
                if packet == "unbind":
                    made = graph.call_function(aten.select.int, (source, dim, index % size))
                else:
                    first, last = starts[index], starts[(index % (len(starts) - 1)) + 1]
                    made = graph.call_function(aten.slice.Tensor, (source, dim, first, last))
            made.meta["module"] = node.meta.get("module", "")
            user.replace_all_uses_with(made)
            graph.erase_node(user)
        graph.erase_node(node)
    if len(graph.nodes) != before:
        for node in graph.nodes:  # what follows a list of results was thought to have lost its pixels
            if "value" in node.meta and node.op != "output":
                tell_shape(node, info(node).shape, info(node).dtype)


def _starts(packet: str, node: fx.Node, size: int) -> list[int]:
    if packet == "unbind":
        return list(range(size + 1))
    amount = arguments(node)[1]
    if isinstance(amount, (list, tuple)):
        starts = [0]
        for part in amount:
            starts.append(starts[-1] + int(part))
        return starts
    step = -(-size // int(amount)) if "chunk" in packet else int(amount)
    return [*range(0, size, step), size]


def _literal_outputs(program: Program) -> None:
    """Constants among the outputs (an int, None) are allowed; they are kept in the output tuple."""
    for value in arguments(program.output)[0]:
        if not isinstance(value, (fx.Node, int, float, bool, str, type(None))):
            raise CaptureError(f"{program.name}: an output of type {type(value).__name__} cannot be streamed")


def _eliminate(program: Program) -> None:
    for node in reversed(list(program.graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            program.graph.erase_node(node)


def _fold_constants(program: Program) -> None:
    """Compute once whatever depends on no input (position tables, attention masks, fill values)."""
    graph = program.graph
    constant: dict[fx.Node, bool] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            constant[node] = True
        elif node.op == "call_function" and op_name(node) in (*_FILLS, "full_like", "new_full"):
            constant[node] = info(node).shape is not None
        elif node.op == "call_function":
            random = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            constant[node] = not random and all(constant.get(n, False) for n in node.all_input_nodes)
    values: dict[fx.Node, Any] = {}
    device = next((t.device for t in program.module.buffers()), torch.device("cpu"))

    def value_of(node: fx.Node) -> Any:
        if node not in values:
            if node.op == "get_attr":
                values[node] = program.tensor(node)
            elif op_name(node) in (*_FILLS, "full_like", "new_full"):
                fill = _FILLS.get(op_name(node), arguments(node)[-1])
                shape, dtype = info(node).shape or (), info(node).dtype
                values[node] = torch.full(shape, fill, dtype=dtype, device=device)
            else:
                args, kwargs = fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)
                function: Any = node.target
                with torch.no_grad():
                    values[node] = function(*args, **kwargs)
        return values[node]

    count = 0
    for node in list(graph.nodes):
        if node.op != "call_function" or not constant.get(node):
            continue
        if all(constant.get(u, False) for u in node.users):
            continue
        if info(node).shape is None or info(node).numel > _LARGEST_FOLDED:
            continue
        tensor = value_of(node)
        path = f"folded.{node.name}_{count}"
        count += 1
        set_tensor(program.module, path, tensor.detach().clone())
        with graph.inserting_before(node):
            made = graph.create_node("get_attr", path)
        made.meta["module"] = node.meta.get("module", "")
        node.replace_all_uses_with(made)
        invalidate(made)
