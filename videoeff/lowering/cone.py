"""Part of a planned graph as a function of buffers and constants, and as a list of its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import fx

from videoeff.analysis.regions import cone, planned_slice
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, is_cache
from videoeff.ir.program import Program, arguments
from videoeff.kernels.call import Operand, Read, Step
from videoeff.ops.base import bind


def compile_cone(
    program: Program, results: Sequence[Any], single: bool
) -> tuple[tuple[Read, ...], tuple[str, ...], Callable[..., Any]]:
    """A Python function for part of the graph.

    Args:
        program: the planned Program.
        results: nodes (or literals) to return.
        single: return the one result itself, not a tuple.

    Returns:
        The buffers it reads, the constants it reads (by path), and ``function(*buffers, *constants)``.
    """
    order = _order(results)
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    needed = _needed(order, results)
    reads, constants = _sources(needed)
    for node in (*reads, *constants):
        env[node] = graph.placeholder(node.name)
    for node in order:
        if node in env or node not in needed:
            continue
        env[node] = graph.node_copy(node, lambda n: env[n])
        env[node].meta = {}
    values = [env[r] if isinstance(r, fx.Node) else r for r in results]
    graph.output(values[0] if single else tuple(values))
    module = fx.GraphModule(torch.nn.Module(), graph)
    function: Callable[..., Any] = module.forward
    return tuple(reads.values()), tuple(constants.values()), function


def steps_of(value: fx.Node) -> tuple[tuple[Step, ...], Operand]:
    """A value's operators one by one, and what the value is among them; numbered as ``compile_cone`` does."""
    order = _order([value])
    needed = _needed(order, [value])
    reads, constants = ({n: i for i, n in enumerate(found)} for found in _sources(needed))
    inside = {n: i for i, n in enumerate(n for n in order if n in needed and n not in reads)}

    def operand(node: fx.Node) -> Operand:
        source, found = next(
            (what, among[node])
            for what, among in (("read", reads), ("constant", constants), ("step", inside))
            if node in among
        )
        known = info(node)
        masks: tuple[str, ...] = ()
        if source == "read":
            masks = tuple(cache_name(n) for n in ([node] if is_cache(node) else arguments(node)[0]))
        shape, dtype = known.shape or (), known.dtype or torch.float32  # several results: never read as one
        return Operand(source, found, shape, dtype, known.layout, masks)

    steps = []
    for node in inside:
        target: Any = node.target
        bound = bind(node) if isinstance(target, torch._ops.OpOverload) else _positional(node)
        given: dict[str, Any] = {k: fx.map_arg(v, cast(Any, operand)) for k, v in bound.items()}
        known = info(node)
        steps.append(
            Step(str(target), given, known.shape, known.dtype, known.layout, not known.dense, target)
        )
    return tuple(steps), operand(value)


def _positional(node: fx.Node) -> dict[str, Any]:
    return {**{str(i): a for i, a in enumerate(node.args)}, **node.kwargs}


def _order(results: Sequence[Any]) -> list[fx.Node]:
    order: list[fx.Node] = []
    for result in results:
        if isinstance(result, fx.Node):
            order += [n for n in cone(result) if n not in order]
    return order


def _sources(needed: Iterable[fx.Node]) -> tuple[dict[fx.Node, Read], dict[fx.Node, str]]:
    """The buffers and the constants among the nodes that are evaluated."""
    reads: dict[fx.Node, Read] = {}
    constants: dict[fx.Node, str] = {}
    for node in needed:
        if is_cache(node):
            reads[node] = Read(f"{cache_name(node)}.value")
        elif node.op == "get_attr":
            constants[node] = str(node.target)
        elif (part := planned_slice(node)) is not None:
            buffer, dim, first, _, last = part
            reads[node] = Read(f"{buffer}.buffer", (dim, first, last))
    return reads, constants


def _needed(order: Sequence[fx.Node], results: Sequence[Any]) -> dict[fx.Node, None]:
    """Nodes really evaluated: what lies behind a planned concatenation is not."""
    needed: dict[fx.Node, None] = {}
    stack = [r for r in results if isinstance(r, fx.Node)]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed[node] = None
        if is_cache(node) or node.op != "call_function" or planned_slice(node) is not None:
            continue
        stack.extend(node.all_input_nodes)
    position = {n: i for i, n in enumerate(order)}
    return dict.fromkeys(sorted(needed, key=lambda n: position.get(n, -1)))
