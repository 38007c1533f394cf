"""Reach by brute force: disturb one pixel of one input and see which result pixels move."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import Program
from videoeff.kernels.change_test import pixels_first
from videoeff.ops import Op, op_of
from videoeff.ops.base import shape_of, stream_inputs


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


def extent_of(node: fx.Node) -> tuple[int, int, int]:
    return layout_of(node).extent(shape_of(node))


def pixels(extent: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Every pixel of the last stream."""
    rows, height, width = extent
    assert rows * height * width > 0
    return ((rows - 1, y, x) for y in range(height) for x in range(width))


def disturbances(op: Op, value: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """What is done to the channels of a pixel; one of them moves each result pixel that it has a part in."""
    if not value.is_floating_point():
        return [torch.logical_not if value.dtype == torch.bool else torch.neg]
    by_amount: list[Callable[[Tensor], Tensor]] = [
        partial(torch.add, other=amount) for amount in (1e3, -1e3, 0.01)
    ]
    if op.name == "upsample":  # NaN would show the pixels that are read with a weight of 0, too
        return by_amount
    return [*by_amount, torch.neg, partial(torch.full_like, fill_value=math.nan)]


def disturbed(
    value: Tensor, layout: PixelLayout, place: tuple[int, int, int], how: Callable[[Tensor], Tensor]
) -> Tensor:
    result = value.clone()
    key: list[slice | int] = [slice(None)] * value.ndim
    for dim, index in zip((layout.rows, layout.h, layout.w), place, strict=True):
        if dim is not None:
            key[dim] = index
    result[tuple(key)] = how(result[tuple(key)])
    return result


def moved(node: fx.Node, before: Tensor, after: Tensor) -> Tensor:
    layout = layout_of(node)
    a, b = pixels_first(before, layout), pixels_first(after, layout)
    return ((a != b) & ~(a.isnan() & b.isnan())).any(-1)


def check(op: Op, node: fx.Node, values: dict[fx.Node, Any]) -> None:
    """A node's reach is what moves, no pixel less and no pixel more, from every pixel of every input."""
    reach, extent, sources = op.reach(node), extent_of(node), stream_inputs(node)
    assert sources
    # what chooses between two inputs, the other way round
    chosen = {n: ~values[n] for n in sources if values[n].dtype == torch.bool}
    bases = [values, {**values, **chosen}] if chosen else [values]
    for source in sources:
        for place in pixels(extent_of(source)):
            masks = {n.name: torch.zeros(extent_of(n), dtype=torch.bool) for n in sources}
            masks[source.name][place] = True
            reached = reach(masks).expand(extent)
            truly = torch.zeros(extent, dtype=torch.bool)
            for how, base in itertools.product(disturbances(op, values[source]), bases):
                after = {**base, source: disturbed(base[source], layout_of(source), place, how)}
                truly |= moved(node, evaluate(node, base), evaluate(node, after))
            where = f"{node.name} from {source.name} at {place}"
            assert not bool((truly & ~reached).any()), f"{where}: a pixel moves that is not reached"
            assert not bool((reached & ~truly).any()), f"{where}: a pixel is reached that never moves"
