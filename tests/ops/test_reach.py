"""Reach against brute force: disturb one pixel of one input and see which result pixels move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from tests.ops.test_parity import ALL, build
from tests.support.streams import captured
from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import Program
from videoeff.kernels.change_test import pixels_first
from videoeff.ops import Case, Op, op_of
from videoeff.ops.base import shape_of, stream_inputs

#: Ops whose reach is exactly the receptive window, not a pixel more.
EXACT = {"convolution", "conv_transpose", "pool", "adaptive_pool", "pixel_shuffle"}


def values_of(program: Program, example: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    """Every node's value, run node by node."""
    values: dict[fx.Node, Any] = dict(zip(program.placeholders, example, strict=True))
    for node in program.nodes:
        if node.op == "get_attr":
            values[node] = program.tensor(node)
        elif node.op == "call_function":
            values[node] = evaluate(node, values)
    return values


def evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    target: Any = node.target
    return target(*fx.map_arg(node.args, values.__getitem__), **fx.map_arg(node.kwargs, values.__getitem__))


def local_nodes(program: Program, op: Op) -> list[fx.Node]:
    return [n for n in program.nodes if op_of(n) is op and not info(n).dense and info(n).shape is not None]


def layout_of(node: fx.Node) -> PixelLayout:
    layout = info(node).layout
    assert layout is not None
    return layout


def pixels(extent: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """The corners, the middle and a few others."""
    rows, height, width = extent
    seen = set()
    for y in (0, 1, height // 2, height - 2, height - 1):
        for x in (0, width // 3, width - 2, width - 1):
            place = (rows - 1, min(max(y, 0), height - 1), min(max(x, 0), width - 1))
            if place not in seen:
                seen.add(place)
                yield place


def disturbed(value: Tensor, layout: PixelLayout, place: tuple[int, int, int], amount: float) -> Tensor:
    result = value.clone()
    key: list[slice | int] = [slice(None)] * value.ndim
    for dim, index in zip((layout.rows, layout.h, layout.w), place, strict=True):
        if dim is not None:
            key[dim] = index
    result[tuple(key)] = amount if amount != amount else result[tuple(key)] + amount
    return result


def moved(node: fx.Node, before: Tensor, after: Tensor) -> Tensor:
    layout = layout_of(node)
    a, b = pixels_first(before, layout), pixels_first(after, layout)
    return ((a != b) & ~(a.isnan() & b.isnan())).any(-1)


@pytest.mark.parametrize(("op", "case"), ALL)
def test_reach_covers_what_moves(op: Op, case: Case) -> None:
    module, example = build(case)
    program = captured(module, *example)
    with torch.no_grad():
        values = values_of(program, example)
        for node in local_nodes(program, op):
            reach, extent = op.reach(node), layout_of(node).extent(shape_of(node))
            sources = stream_inputs(node)
            for source in sources:
                shape = layout_of(source).extent(shape_of(source))
                for place in pixels(shape):
                    masks = {
                        n.name: torch.zeros(layout_of(n).extent(shape_of(n)), dtype=torch.bool)
                        for n in sources
                    }
                    masks[source.name][place] = True
                    reached = reach(masks).expand(extent)
                    truly = torch.zeros(extent, dtype=torch.bool)
                    for amount in (float("nan"), 100.0, -100.0, 0.01):
                        if not values[source].is_floating_point():
                            break
                        changed = disturbed(values[source], layout_of(source), place, amount)
                        truly |= moved(node, values[node], evaluate(node, {**values, source: changed}))
                    assert not bool((truly & ~reached).any()), f"{node.name} from {source.name} at {place}"
                    if op.name in EXACT:
                        assert torch.equal(truly, reached), f"{node.name}: more than its window at {place}"


def test_every_traced_op_is_disturbed() -> None:
    """The test above says something about an op only if one of its cases holds a traced call."""
    idle = {op.values[0].name for op in ALL}
    for parameter in ALL:
        op, case = parameter.values
        if op.name in idle:
            module, example = build(case)
            if local_nodes(captured(module, *example), op):
                idle.discard(op.name)
    assert idle <= {"delta_cache", "global"}
