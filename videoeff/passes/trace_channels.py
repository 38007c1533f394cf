"""Trace chains of reshapes that only move channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from videoeff.analysis import annotate
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.program import Program, module_path
from videoeff.ops.base import op_of
from videoeff.passes.base import Notes, Pass

_LARGEST = 1 << 26  # elements of an index map; int32, so 256 MB at most for a moment


@dataclass(frozen=True)
class TraceChannels(Pass):
    """Replace a chain of layout ops that comes to a choice of channels by that choice.

    Channel shuffles are spelled in many ways, some of which merge pixels or the batch with channels on the
    way, so that no single step can be followed. The chain is run once on an index map; where every pixel
    stays in its place, it becomes a slice of channels or an ``index_select``. Exact.
    """

    name: ClassVar[str] = "trace-channels"
    needs: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Replace each chain whose end lost its pixels."""
        changed = False
        for node in list(program.nodes):
            if node.op != "call_function" or not node.users or not _lost(node):
                continue
            chain = _chain(node)
            if chain is None:
                continue
            source, steps = chain
            channels = _channels(source, steps)
            if channels is None:
                note(module_path(node) or node.name, "a chain of reshapes moves pixels; computed densely")
                continue
            _replace(program, node, source, channels)
            annotate(program)
            changed = True
        return edit.sweep(program) or changed


def _lost(node: fx.Node) -> bool:
    """Whether a map comes out of a layout op with its pixels untraced."""
    value, op = info(node), op_of(node)
    if op is None or op.role != "layout" or value.shape is None or len(value.shape) != 4:
        return False
    return bool(value.dense) or value.layout is None or (value.layout.h, value.layout.w) != (2, 3)


def _image(node: fx.Node, height: int, width: int) -> bool:
    value = info(node)
    if value.dense or value.layout is None or value.shape is None or len(value.shape) != 4:
        return False
    roles = (value.layout.rows, value.layout.h, value.layout.w)
    return roles == (0, 2, 3) and value.shape[2:] == (height, width) and value.is_spatial


def _chain(end: fx.Node) -> tuple[fx.Node, list[fx.Node]] | None:
    """The traced map the chain begins at, and the ops up to ``end``."""
    height, width = (info(end).shape or (0, 0))[-2:]
    steps, current = [], end
    while True:
        op = op_of(current)
        if op is None or op.role != "layout" or len(current.all_input_nodes) != 1:
            return None
        steps.append(current)
        current = current.all_input_nodes[0]
        if _image(current, height, width):
            return current, steps[::-1]


def _channels(source: fx.Node, steps: list[fx.Node]) -> Tensor | None:
    """The source channel of each result channel, or None if pixels or streams move as well."""
    shape = info(source).shape or ()
    if math.prod(shape) > _LARGEST:
        return None
    index = torch.arange(math.prod(shape), dtype=torch.int32).view(shape)
    values = {source: index}
    for step in steps:
        args = fx.map_arg(step.args, lambda n: values[n])
        kwargs = fx.map_arg(step.kwargs, lambda n: values[n])
        function: Any = step.target
        values[step] = function(*args, **kwargs)
    result = values[steps[-1]]
    if result.ndim != 4 or result.shape[0] != shape[0] or result.numel() == 0:
        return None
    channels = (result[0, :, 0, 0] // (shape[2] * shape[3])).long()
    if int(channels.max()) >= shape[1] or not torch.equal(result, index[:, channels]):
        return None
    return channels


def _replace(program: Program, node: fx.Node, source: fx.Node, channels: Tensor) -> None:
    aten, count = torch.ops.aten, channels.numel()
    first = int(channels[0])
    step = int(channels[1]) - first if count > 1 else 1
    regular = torch.arange(count) * step + first
    if step > 0 and torch.equal(channels, regular):
        made = edit.call(program, node, aten.slice.Tensor, (source, 1, first, int(channels[-1]) + 1, step))
    else:
        device = next((t.device for t in program.module.buffers()), torch.device("cpu"))
        constant = edit.add_constant(program, node, f"channels.{node.name}", channels.to(device))
        made = edit.call(program, node, aten.index_select.default, (source, 1, constant))
    users = list(node.users)
    edit.replace(node, made)
    for user in users:
        edit.touch(user)
