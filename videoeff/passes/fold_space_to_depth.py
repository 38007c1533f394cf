"""Fold a space-to-depth rearrangement into the convolution behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from videoeff.ir import edit
from videoeff.ir.layout import info, invalidate
from videoeff.ir.program import Program, arguments, input_node, module_path
from videoeff.ops.base import bind, op_name, overload_name, pair
from videoeff.ops.convolution import explicit_padding
from videoeff.passes.base import Notes, Pass

#: Larger windows than these are not made.
_WIDEST = 16


@dataclass(frozen=True)
class FoldSpaceToDepth(Pass):
    """Let a convolution read a picture where it would read every n-th row and column of it side by side.

    Detectors of the YOLO family begin with it ("focus"): four slices of the picture, each of every second row
    and column, joined along the channels, and a convolution over them. The same sums are those of one
    convolution of the picture with a window and a stride n times as large. The rearranged map, four copies
    of slices and their change tests are not needed then. Outputs agree to the rounding of the dtype.
    """

    name: ClassVar[str] = "fold-space-to-depth"
    needs: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Fold each one that can be."""
        changed = False
        for node in list(program.nodes):
            if op_name(node) != "cat" or not node.users:
                continue
            found = _rearranged(node)
            if found is None:
                continue
            reason = _fold(program, node, *found)
            if reason:
                note(module_path(node) or node.name, f"space to depth not folded: {reason}")
            changed |= not reason
        return edit.sweep(program) or changed


def _rearranged(cat: fx.Node) -> tuple[fx.Node, int, list[tuple[int, int]]] | None:
    """The picture, n, and the (row, column) that each part begins with; None where it is something else."""
    shape = info(cat).shape or ()
    if len(shape) != 4 or int(bind(cat)["dim"]) % 4 != 1 or info(cat).dense:
        return None
    found = [_slices_of(part) for part in arguments(cat)[0]]
    first = found[0]
    if first is None or not all(f is not None and _same(f[0], first[0]) for f in found):
        return None
    steps = {step for f in found if f is not None for step in f[1].values()}
    if len(steps) != 1 or any(f is None or set(f[1]) != {2, 3} for f in found):
        return None
    step = steps.pop()
    source = info(first[0]).shape or ()
    if step < 2 or [s // step for s in source[2:]] != list(shape[2:]) or any(s % step for s in source[2:]):
        return None
    return first[0], step, [(f[2][2], f[2][3]) for f in found if f is not None]


def _slices_of(part: fx.Node) -> tuple[fx.Node, dict[int, int], dict[int, int]] | None:
    """What a chain of slices begins with, their steps and their starts by dimension."""
    steps: dict[int, int] = {}
    starts: dict[int, int] = {}
    node = part
    while overload_name(node) == "slice.Tensor":
        bound = bind(node)
        source = input_node(node)
        dim, size = int(bound["dim"]) % 4, (info(source).shape or (0,) * 4)[int(bound["dim"]) % 4]
        start, end, step = int(bound["start"] or 0), bound["end"], int(bound["step"])
        whole = end is None or int(end) >= size
        if dim in steps or not whole or start < 0:
            return None
        if step > 1 or start:
            steps[dim], starts[dim] = step, start
        node = source
    found = bool(steps) and all(starts[d] < steps[d] for d in steps)
    return (node, steps, starts) if found else None


def _same(a: fx.Node, b: fx.Node) -> bool:
    """Whether two nodes are the same, or the same calls of the same."""
    if a is b:
        return True
    if a.op != "call_function" or a.target != b.target or a.kwargs or b.kwargs or len(a.args) != len(b.args):
        return False
    return all(
        _same(x, y) if isinstance(x, fx.Node) and isinstance(y, fx.Node) else x == y
        for x, y in zip(a.args, b.args, strict=True)
    )


def _fold(program: Program, cat: fx.Node, picture: fx.Node, step: int, places: list[tuple[int, int]]) -> str:
    """Fold into the convolution, or say why not."""
    conv = next(iter(cat.users))
    if len(cat.users) != 1 or overload_name(conv) != "conv2d.default" or conv.args[0] is not cat:
        return "it is not read by one convolution alone"
    bound = bind(conv)
    weight = bound["weight"]
    if weight.op != "get_attr" or int(bound["groups"]) != 1 or pair(bound["dilation"]) != (1, 1):
        return "the convolution behind it is grouped or dilated, or its weights are computed"
    old = program.tensor(weight)
    pads = explicit_padding(bound, old.shape[2:])
    if any(before != after for before, after in pads) or max(old.shape[2:]) * step > _WIDEST:
        return "the window would be too large, or is padded unevenly"
    constant = edit.add_constant(program, conv, f"{weight.target}_spread", spread(old, step, places))
    stride = [step * s for s in pair(bound["stride"])]
    given: list[Any] = [picture, constant, bound["bias"], stride, [step * p for p, _ in pads]]
    conv.args, conv.kwargs = tuple(given), {}
    invalidate(conv)
    return ""


def spread(weight: Tensor, step: int, places: list[tuple[int, int]]) -> Tensor:
    """The weights (O, I, n kh, n kw) over the picture, of those (O, I places, kh, kw) over its slices.

    Args:
        weight: of the convolution behind the rearrangement.
        step: n.
        places: the (row, column) that each slice begins with.
    """
    outputs, wide, height, width = weight.shape
    inputs = wide // len(places)
    made = torch.zeros(outputs, inputs, step * height, step * width, dtype=weight.dtype, device=weight.device)
    for index, (row, column) in enumerate(places):
        part = weight[:, index * inputs : (index + 1) * inputs]
        made[:, :, row::step, column::step] += part
    return made
