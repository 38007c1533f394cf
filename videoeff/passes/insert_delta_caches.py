"""Insert a delta cache wherever a value is kept from frame to frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

from torch import fx

from videoeff.analysis import macs
from videoeff.analysis.casts import is_cast
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import delta_cache, is_cache
from videoeff.ir.program import Program, module_path
from videoeff.ops.base import bind, op_name, op_of, shape_of
from videoeff.ops.quantize import FROM_CODES, full_names
from videoeff.passes.base import Notes, Pass

#: Weights of a linear layer from which on reading them is most of its work.
MANY_WEIGHTS = 1 << 17


@dataclass(frozen=True)
class InsertDeltaCaches(Pass):
    """Keep every map a local op computes, and of what is computed densely only what is read outside it.

    Layout ops are never kept: their consumers read the buffers behind them. A densely computed value is
    kept where a local op reads it (it re-enters the stream there, by its change test), where two separate
    consumers read it, and where it leaves the network. So is what a cast between float32 and bfloat16 reads
    and gives, and what was rounded to 8-bit numbers for a linear layer of many weights: from numbers that
    are kept it can be computed with integers. Exact: thresholds are 0.
    """

    name: ClassVar[str] = "insert-delta-caches"
    gives: ClassVar[frozenset[str]] = frozenset({"caches"})
    removes: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Insert all caches; a planned Program is left alone."""
        if any(is_cache(n) for n in program.nodes):
            return False
        chosen = _choose(program)
        names: set[str] = set()
        carriers = program.carriers
        for node in list(program.nodes):
            if node not in chosen:
                continue
            value = info(node)
            layout = value.layout
            assert layout is not None  # chosen nodes stream
            kind = "map" if value.is_spatial else "global"
            if node.op == "placeholder":
                kind = "state" if node in carriers else "input"
            options: dict[str, Any] = {"kind": kind, "layout": (layout.rows, layout.h, layout.w)}
            if layout.streams is not None:
                options["streams"] = layout.streams
            cache = edit.call(program, node, delta_cache, (node, _name(node, names)), **options)
            cache.meta["value"] = replace(value, dense="")
            edit.replace(node, cache)
            if value.dense and value.is_spatial:
                note(str(cache.args[1]), f"computed densely, re-enters by its change test: {value.dense}")
        return bool(chosen)


def _choose(program: Program) -> set[fx.Node]:
    """The nodes whose values are kept.

    Walks backwards; ``owners`` are the caches that read a node uncached.
    """
    chosen: set[fx.Node] = set()
    owners: dict[fx.Node, set[fx.Node]] = {}
    output = program.output
    for node in reversed(list(program.nodes)):
        if node.op == "placeholder":
            chosen.add(node)
            continue
        if node.op != "call_function" or info(node).layout is None:
            continue
        readers: set[fx.Node] = set()
        for user in node.users:
            readers |= {user} if user in chosen or user is output else owners.get(user, set())
        owners[node] = readers
        if info(node).shape is None:
            continue
        if _must_keep(node, readers, output):
            chosen.add(node)
    return chosen


def _must_keep(node: fx.Node, readers: set[fx.Node], output: fx.Node) -> bool:
    value, op = info(node), op_of(node)
    moves = op is not None and op.role == "layout"
    if value.is_spatial and not value.dense:
        return not moves
    if value.is_spatial and any(_is_local(u) for u in node.users):
        return True
    if is_cast(node) or (not moves and _feeds_cast(node)):
        return True
    if op_name(node) in full_names(FROM_CODES) and not value.is_spatial and _feeds_many_weights(node):
        return True
    if moves:
        return False
    if any(_is_local(u) for u in node.users) and not value.is_spatial:
        return True
    return output in readers or len(readers) > 1 or _feeds_local(node)


def _is_local(node: fx.Node) -> bool:
    return node.op == "call_function" and info(node).is_spatial and not info(node).dense


def _feeds_local(node: fx.Node) -> bool:
    """Whether a local op reads the value through layout ops only."""
    for user in node.users:
        op = op_of(user)
        if op is not None and op.role == "layout" and (_is_local(user) or _feeds_local(user)):
            return True
        if _is_local(user):
            return True
    return False


def _feeds_cast(node: fx.Node) -> bool:
    """Whether a cast reads the value, perhaps through layout ops."""
    for user in node.users:
        op = op_of(user)
        if is_cast(user) or (op is not None and op.role == "layout" and _feeds_cast(user)):
            return True
    return False


def _feeds_many_weights(node: fx.Node) -> bool:
    """Whether a linear layer of many constant weights reads the value, perhaps through layout ops."""
    for user in node.users:
        op = op_of(user)
        if op is not None and op.role == "layout" and _feeds_many_weights(user):
            return True
        if op_name(user) in ("linear", "conv2d"):
            bound = bind(user)
            weight = bound["weight"]
            if bound["input"] is node and weight.op == "get_attr" and prod(shape_of(weight)) >= MANY_WEIGHTS:
                return True
    return False


def _name(node: fx.Node, taken: set[str]) -> str:
    path = module_path(node)
    if node.op == "placeholder" or not path:
        base = node.name
    elif macs(node) > 0:
        base = path
    else:
        base = f"{path}/{str(node.target).removeprefix('aten.').split('.')[0]}"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}#{count}"
    taken.add(name)
    return name
