"""Shapes and layouts of every node, left in ``node.meta["value"]`` as a ``ValueInfo``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from videoeff.errors import CaptureError
from videoeff.ir.layout import PixelLayout, ShapeOnly, ValueInfo, info
from videoeff.ir.program import Program, arguments
from videoeff.ops.base import NotLocal, op_name, op_of, overload_name

_IMAGE_OPS = {"convolution", "conv_transpose", "pool", "adaptive_pool", "upsample", "pixel_shuffle"}
_BATCH_NORMS = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
_LAST_OPS = {"linear", "norm"}


def annotate(program: Program) -> Program:
    """Fill in ``ValueInfo`` for all nodes that lack it; returns the same Program.

    Raises:
        CaptureError: an operator has no shape rule in PyTorch.
    """
    device = next((t.device for t in program.module.buffers()), torch.device("cpu"))
    fakes = _Fakes(program, device)
    nodes = list(program.graph.nodes)
    fresh: list[fx.Node] = []
    shared = {node for node, carried in program.carriers.items() if carried.shared}
    for node in nodes:
        if node.op == "output":
            continue
        if isinstance(node.meta.get("value"), ValueInfo):
            continue
        node.meta["value"] = fakes.shape_of(node)
        fresh.append(node)
    for node in fresh:
        value = _with_layout(program, node)
        node.meta["value"] = replace(value, layout=_whole(program)) if node in shared else value
    return program


class _Fakes:
    """Shape-only values, computed on demand for the nodes that need them."""

    def __init__(self, program: Program, device: torch.device) -> None:
        self.program = program
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.device = device
        self.values: dict[fx.Node, Any] = {}

    def shape_of(self, node: fx.Node) -> ValueInfo:
        """Shape and dtype of a node, no more derived than has to be."""
        known = node.meta.get("value")
        if isinstance(known, ShapeOnly):
            return ValueInfo(known.shape, known.dtype)
        if node.op == "placeholder":
            return ValueInfo(*node.meta["input"])
        value = self.program.tensor(node) if node.op == "get_attr" else self.of(node)
        if isinstance(value, torch.Tensor):
            return ValueInfo(tuple(int(s) for s in value.shape), value.dtype)
        return ValueInfo(None, None)

    def of(self, node: fx.Node) -> Any:
        """The fake value of a node."""
        if node not in self.values:
            self.values[node] = self._make(node)
        return self.values[node]

    def _make(self, node: fx.Node) -> Any:
        known = node.meta.get("value")
        with self.mode:
            if isinstance(known, (ValueInfo, ShapeOnly)) and known.shape is not None:
                return torch.empty(known.shape, dtype=known.dtype, device=self.device)
            if node.op == "placeholder":
                shape, dtype = node.meta["input"]
                return torch.empty(shape, dtype=dtype, device=self.device)
            if node.op == "get_attr":
                tensor = self.program.tensor(node)
                return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.device)
            args = fx.map_arg(node.args, self.of)
            kwargs = fx.map_arg(node.kwargs, self.of)
            try:
                target: Any = node.target
                return target(*args, **kwargs)
            except Exception as error:
                raise CaptureError(
                    f"{node.name} ({node.target}): its shape cannot be derived ({error}); "
                    "keep the module it belongs to out of the export, or report the operator"
                ) from error


def _with_layout(program: Program, node: fx.Node) -> ValueInfo:
    value = info(node)
    if value.shape is None:
        streaming = node.op == "call_function" and any(_streams(n) for n in node.all_input_nodes)
        whole = _whole(program) if streaming else None
        return ValueInfo(None, None, whole, "it has several results" if streaming else "")
    if node.op == "placeholder":
        return ValueInfo(value.shape, value.dtype, _input_layout(program, node, value))
    if node.op == "get_attr" or not any(_streams(n) for n in node.all_input_nodes):
        return value
    op, dense = op_of(node), ""
    layout: PixelLayout | None = None
    if op is None:
        dense = f"no rule for {node.target}"
    else:
        try:
            layout = op.layout(node)
            if op.name == "global":
                dense = f"{op_name(node)} looks at the whole map"
        except NotLocal as error:
            dense = f"{overload_name(node)}: {error}"
    if layout is None:
        layout = _whole(program)
    if program.streams == 1:
        rows = layout.extent(value.shape)[0]
        layout = PixelLayout(layout.rows, layout.h, layout.w, (0,) * rows)
    if layout.h is None and layout.w is None and len(value.shape) in (4, 5):
        assigned = _assign(program, node, value, layout)
        if assigned is not None:
            return ValueInfo(value.shape, value.dtype, assigned, dense or "its pixels were mixed before")
    return ValueInfo(value.shape, value.dtype, layout, dense)


def _streams(node: fx.Node) -> bool:
    value = node.meta.get("value")
    return isinstance(value, ValueInfo) and value.layout is not None


def _whole(program: Program) -> PixelLayout:
    return PixelLayout(streams=(0,) if program.streams == 1 else None)


def _input_layout(program: Program, node: fx.Node, value: ValueInfo) -> PixelLayout:
    shape = value.shape or ()
    batched = len(shape) > 0 and shape[0] == program.streams
    streams = tuple(range(program.streams)) if batched else (0,) if program.streams == 1 else None
    rows = 0 if batched else None
    if len(shape) in (4, 5) and batched:
        return PixelLayout(0, len(shape) - 2, len(shape) - 1, streams)
    found = picture_of(node, shape)
    if found is not None and found[0] == rows == 0:
        return PixelLayout(*found, streams)
    if found is not None and found[0] is None and program.streams == 1:
        return PixelLayout(*found, (0,))
    return PixelLayout(rows, None, None, streams)


def picture_of(node: fx.Node, shape: Sequence[int]) -> tuple[int | None, int, int] | None:
    """Which dimensions of an input are its streams and its pixels, if it is no batch of pictures yet.

    A picture ``(C, H, W)``, ``(H, W, C)`` or ``(H, W)`` is read as ``(1, C, H, W)`` by what follows, a batch
    of maps ``(B, H, W)`` as ``(B, 1, H, W)``.

    Args:
        node: the input.
        shape: its shape.

    Returns:
        The dimension of the streams, None where there is none, of the rows and of the columns; None where
        nobody reads the input as a picture.
    """
    return _roles(node, tuple(shape), set()) if len(shape) in (2, 3) else None


def _roles(node: fx.Node, shape: tuple[int, ...], seen: set[fx.Node]) -> tuple[int | None, int, int] | None:
    ndim = len(shape)
    for user in node.users:
        if user.op != "call_function" or user in seen:
            continue
        seen.add(user)
        op = op_of(user)
        kind = "" if op is None else op.name
        if ndim == 4 and (kind in _IMAGE_OPS or op_name(user) in _BATCH_NORMS):
            return (0, 2, 3) if user.args[0] is node else None
        source: list[int | None]
        after = shape
        if op_name(user) == "permute":
            source = [int(d) % ndim for d in arguments(user)[1]]
            after = tuple(shape[d] for d in source if d is not None)
        elif (added := _added(user, shape)) is not None and ndim < 4:
            source = [*range(added), None, *range(added, ndim)]
            after = (*shape[:added], 1, *shape[added:])
        elif kind in ("pixel", "concat", "pad", "slice") and len(_known_shape(user)) in (0, ndim):
            source = list(range(ndim))
        else:
            continue
        inner = _roles(user, after, seen)
        if inner is not None:
            rows, h, w = (None if d is None else source[d] for d in inner)
            if h is not None and w is not None:
                return rows, h, w
    return None


def _known_shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a value whose layout may still have to be found; () where none is known."""
    known = node.meta.get("value")
    return (known.shape or ()) if isinstance(known, (ValueInfo, ShapeOnly)) else ()


def _added(user: fx.Node, shape: tuple[int, ...]) -> int | None:
    """Where a call adds a dimension of size one; None where it does something else."""
    name, args = op_name(user), arguments(user)
    if name == "unsqueeze":
        return int(args[1]) % (len(shape) + 1)
    if name in ("reshape", "view") and list(args[1][1:]) == list(shape) and args[1][0] in (1, -1):
        return 0
    return None


def _assign(program: Program, node: fx.Node, value: ValueInfo, layout: PixelLayout) -> PixelLayout | None:
    """Pixel dimensions for a value whose own were lost, chosen by who reads it; None if nobody needs them."""
    shape = value.shape or ()
    order = _wanted(node, len(shape), set())
    if order is None:
        return None
    h, w = order
    rows = 0 if layout.rows in (None, 0) and 0 not in (h, w) else None
    streams = layout.streams if layout.rows == 0 else None
    if program.streams == 1:
        streams = (0,) * (shape[0] if rows == 0 else 1)
    if shape[h] * shape[w] <= 1:
        return None
    return PixelLayout(rows, h, w, streams)


def _wanted(node: fx.Node, ndim: int, seen: set[fx.Node]) -> tuple[int, int] | None:
    for user in node.users:
        if user in seen or user.op != "call_function":
            continue
        seen.add(user)
        op = op_of(user)
        if op is None:
            continue
        if op.name in _IMAGE_OPS or op_name(user) in _BATCH_NORMS:
            return ndim - 2, ndim - 1
        if op.name in _LAST_OPS and user.args[0] is node:
            return (1, 2) if ndim == 4 else (2, 3)
        if op_name(user) == "permute" and user.args[0] is node:
            dims = [int(d) % ndim for d in arguments(user)[1]]
            inner = _wanted(user, ndim, seen)
            if inner is not None:
                return dims[inner[0]], dims[inner[1]]
            continue
        if op.name in ("pixel", "pad", "concat", "slice", "delta_cache", "global"):
            for other in user.all_input_nodes:
                known = other.meta.get("value")
                if (
                    op.name == "pixel"
                    and isinstance(known, ValueInfo)
                    and known.is_spatial
                    and known.layout is not None
                    and known.layout.h is not None
                    and known.layout.w is not None
                    and len(known.shape or ()) == ndim
                ):
                    return known.layout.h, known.layout.w
            if user.args[0] is node or op.name in ("pixel", "concat"):
                inner = _wanted(user, ndim, seen)
                if inner is not None and len(info(user).shape or ()) == ndim:
                    return inner
    return None
