"""Pictures without a batch dimension: a call with ``(C, H, W)`` is one stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from videoeff.analysis.annotate import picture_of
from videoeff.errors import CaptureError
from videoeff.ir.layout import ShapeOnly, ValueInfo
from videoeff.ir.program import Program, arguments
from videoeff.ops.base import op_name, op_of

_PICTURE_OPS = frozenset(
    "conv2d conv_transpose2d max_pool2d avg_pool2d adaptive_avg_pool2d pad pixel_shuffle "
    "pixel_unshuffle".split()
)
_CLIP_OPS = frozenset("conv3d conv_transpose3d".split())


def with_batch(program: Program) -> Program:
    """Give the pictures of a call without a batch dimension one, behind the inputs.

    Operators that take ``(C, H, W)`` then see ``(1, C, H, W)``, and the Program has one stream. A call with
    batches is left alone.

    Raises:
        CaptureError: a volume ``(C, D, H, W)`` has no batch dimension.
    """
    if any(len(p.meta["input"][0]) in (4, 5) for p in program.placeholders):
        _require_batched_clips(program)
        return program
    twins: dict[fx.Node, fx.Node] = {}
    _unstack(program)
    for node in list(program.graph.nodes):
        if node.op == "call_function" and _rank(program, node) == 3:
            name = op_name(node)
            if name in _PICTURE_OPS:
                _batch(program, node, {_first(node): _twin(program, _first(node), twins)}, twins)
            elif _follows(program, node, twins):
                _batch(program, node, twins, twins)
    pictures = [p for p in program.placeholders if _is_picture(p)]
    return replace(program, streams=1) if pictures else program


def _unstack(program: Program) -> None:
    """Write pictures stacked into a batch as a concatenation of batches of one."""
    aten = torch.ops.aten
    for node in list(program.graph.nodes):
        if node.op != "call_function" or op_name(node) != "stack":
            continue
        pictures, *rest = arguments(node)
        if any(dim != 0 for dim in (*rest, *node.kwargs.values())):
            continue
        with program.graph.inserting_before(node):
            single = [program.graph.call_function(aten.unsqueeze.default, (p, 0)) for p in pictures]
            made = (
                program.graph.call_function(aten.cat.default, (single, 0)) if len(single) > 1 else single[0]
            )
        for new in (*single, made):
            new.meta["module"] = node.meta.get("module", "")
        node.replace_all_uses_with(made)
        program.graph.erase_node(node)


def _is_picture(placeholder: fx.Node) -> bool:
    found = picture_of(placeholder, placeholder.meta["input"][0])
    return found is not None and found[0] is None


def _require_batched_clips(program: Program) -> None:
    for node in program.graph.nodes:
        if node.op == "call_function" and op_name(node) in _CLIP_OPS and _rank(program, node) == 4:
            raise CaptureError(
                f"{program.name}: {node.name} takes a volume without a batch dimension; give the example "
                "and the frames as (1, C, D, H, W)"
            )


def _first(node: fx.Node) -> fx.Node:
    first = node.args[0]
    assert isinstance(first, fx.Node)  # the picture itself
    return first


def _rank(program: Program, node: fx.Node) -> int:
    if node.op == "placeholder":
        return len(node.meta["input"][0])
    if node.op == "get_attr":
        return program.tensor(node).ndim
    known = node.meta.get("value")
    return len(known.shape or ()) if isinstance(known, (ShapeOnly, ValueInfo)) else 0


def _follows(program: Program, node: fx.Node, twins: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether an operator works pixel by pixel on what has a batch already, so that it may have one too."""
    op, inputs = op_of(node), node.all_input_nodes
    if op is None or op.name != "pixel" or not any(n in twins for n in inputs):
        return False
    return all(n in twins or (n.op == "get_attr" and _rank(program, n) <= 3) for n in inputs)


def _twin(program: Program, node: fx.Node, twins: dict[fx.Node, fx.Node]) -> fx.Node:
    if node not in twins:
        with program.graph.inserting_after(node):
            twins[node] = program.graph.call_function(torch.ops.aten.unsqueeze.default, (node, 0))
        twins[node].meta["module"] = node.meta.get("module", "")
    return twins[node]


def _batch(
    program: Program, node: fx.Node, inputs: Mapping[fx.Node, fx.Node], twins: dict[fx.Node, fx.Node]
) -> None:
    """Replace an operator by the same on inputs with a batch, and what reads it by a squeeze of that."""

    def given(value: fx.Node) -> Any:
        return inputs.get(value, value)

    with program.graph.inserting_before(node):
        target: Any = node.target
        made = program.graph.call_function(
            target, fx.map_arg(tuple(arguments(node)), given), fx.map_arg(node.kwargs, given)
        )
        plain = program.graph.call_function(torch.ops.aten.squeeze.dim, (made, 0))
    for new in (made, plain):
        new.meta["module"] = node.meta.get("module", "")
    node.replace_all_uses_with(plain)
    program.graph.erase_node(node)
    twins[plain] = made
