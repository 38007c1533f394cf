"""Buffers that a model's forward changes: which they are, and what batch entries mean for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from videoeff.analysis import annotate
from videoeff.capture.exported import ExportedGraph
from videoeff.errors import CaptureError
from videoeff.ir.layout import ValueInfo, info, invalidate
from videoeff.ir.program import Carried, Program, arguments, set_tensor


def writes_held(source: ExportedGraph, aliases: Callable[[fx.Node], list[fx.Node]]) -> bool:
    """Whether a graph writes into a tensor that the model holds.

    Args:
        source: a graph that may hold in-place operators.
        aliases: finds the values that may share memory with a node's.
    """
    for node in source.module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        for position, argument in enumerate(node.target._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            base = node.args[position] if written and position < len(node.args) else None
            if isinstance(base, fx.Node) and any(n.name in source.held for n in aliases(base)):
                return True
    return False


def carried_input(graph: fx.Graph, path: str, value: Tensor) -> fx.Node:
    """The input that stands for a buffer."""
    made = graph.placeholder(f"state_{path.replace('.', '_')}")
    made.meta["input"] = (tuple(value.shape), value.dtype)
    return made


def carry(program: Program, buffers: Mapping[str, Tensor]) -> Program:
    """A Program whose last inputs and outputs are these buffers, told of them and annotated.

    A buffer belongs to the entries of the batch one by one if its first dimension is the batch before and
    after the frame; otherwise all of them share it.

    Args:
        program: the Program, of which nothing is known yet but its shapes.
        buffers: by dotted path in the model, the values before the first frame.

    Raises:
        CaptureError: a buffer takes another shape or dtype.
    """
    found = []
    for path, value in buffers.items():
        initial = f"initial_{path.replace('.', '__')}"
        set_tensor(program.module, initial, value.detach().clone())
        found.append(Carried(path, initial, shared=False))
    program = annotate(replace(program, carried=tuple(found)))
    after = program.parted(tuple(arguments(program.output)[0]))[1]
    pairs = list(zip(program.carriers, after, strict=True))
    for path, (old, new) in zip(buffers, pairs, strict=True):
        one, other = info(old), info(new)
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            raise CaptureError(
                f"{program.name}: its forward turns the buffer {path!r} from {_kind(one)} into "
                f"{_kind(other)}; a buffer that is carried from frame to frame keeps its shape and dtype"
            )
    while program.streams > 1:
        shared = [c.shared or not _by_stream(program, *p) for c, p in zip(found, pairs, strict=True)]
        if shared == [c.shared for c in found]:
            break
        found = [replace(c, shared=one) for c, one in zip(found, shared, strict=True)]
        for node in program.nodes:
            invalidate(node)
        program = annotate(replace(program, carried=tuple(found)))
    return program


def _kind(value: ValueInfo) -> str:
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape or ())}"


def _by_stream(program: Program, *nodes: fx.Node) -> bool:
    each = tuple(range(program.streams))
    layouts = [info(node).layout for node in nodes]
    return all(one is not None and one.rows == 0 and one.streams == each for one in layouts)
