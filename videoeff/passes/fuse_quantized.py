"""Fuse quantised values: what a network rounds to 8-bit numbers is kept as these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from videoeff.ir import edit
from videoeff.ir.grids import Grid, option_of
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache, quantized
from videoeff.ir.program import Program, input_node, is_const
from videoeff.ops.base import bind, op_name
from videoeff.ops.quantize import FROM_CODES, TO_CODES, full_names
from videoeff.passes.base import Notes, Pass

#: Raised by this, the numbers of a signed grid are those of an unsigned one.
_OFFSET = {torch.uint8: 0, torch.int8: 128}


#: Operators whose results are some of their inputs' values.
_PICKING = ("max_pool2d", "upsample_nearest2d", "_upsample_nearest_exact2d")


@dataclass(frozen=True)
class FuseQuantized(Pass):
    """Keep a value that is quantised and dequantised as its 8-bit numbers.

    In a quantised graph (QDQ form, as the exports of torchao and of NNCF have it) every value that a layer
    reads as integers goes through a pair of operators. The pair becomes the grid of the cache: the buffer is
    a quarter as large, and a kernel that reads it multiplies integers. Signed numbers are kept raised by 128.
    Exact: the numbers are those of the graph.
    """

    name: ClassVar[str] = "fuse-quantized"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Fuse every pair; the same pair of a value once."""
        changed = False
        made: dict[tuple[fx.Node, Any], fx.Node] = {}
        for back in list(program.nodes):
            if op_name(back) not in full_names(FROM_CODES):
                continue
            found = _pair_of(program, back)
            if isinstance(found, str):
                note(back.meta.get("module") or back.name, found)
                continue
            source, grid = found
            own = next((u for u in back.users if is_cache(u)), None)
            if own is None:  # what is computed whole
                rounded = edit.call(program, back, quantized, (source, *option_of(grid)))
                rounded.meta["value"] = info(back)
                edit.replace(back, rounded)
                changed = True
                continue
            known = made.get((source, grid))
            if known is not None:
                edit.replace(own, known)
            else:
                own.args = (source, *own.args[1:])
                edit.set_option(own, grid=option_of(grid))
                made[(source, grid)] = own
            changed = True
        edit.sweep(program)
        for (source, _), cache in made.items():
            _take_over(program, source, cache)
        for cache in list(edit.caches(program)):
            changed |= _pass_on(cache)
        return changed


def _pair_of(program: Program, back: fx.Node) -> tuple[fx.Node, Grid] | str:
    """What is quantised and its grid, or why the two do not make a pair."""
    codes = input_node(back)
    there = input_node(codes) if is_cache(codes) else codes
    if op_name(there) not in full_names(TO_CODES):
        return "dequantised, not kept as 8-bit numbers: what it reads is not quantised here"
    first, second = _grid(program, there), _grid(program, back)
    if isinstance(first, str):
        return first
    if first != second:
        return "not kept as 8-bit numbers: it is dequantised on another grid than it was quantised on"
    source = input_node(there)
    if info(source).dtype != torch.float32:
        return f"not kept as 8-bit numbers: it is computed in {info(source).dtype}"
    return source, first


def _grid(program: Program, node: fx.Node) -> Grid | str:
    bound = bind(node)
    low, high, dtype = int(bound["quant_min"]), int(bound["quant_max"]), bound["dtype"]
    if dtype not in _OFFSET:
        return f"not kept as 8-bit numbers: its numbers are {dtype}"
    offset = _OFFSET[dtype]
    if "axis" in bound:
        parts = [bound["scales"], bound["zero_points"]]
        if not all(isinstance(p, fx.Node) and is_const(p) for p in parts):
            return "not kept as 8-bit numbers: its scales are computed from the frame"
        scales, zeros = (program.tensor(p).tolist() for p in parts)
        dim = int(bound["axis"]) % len(info(node).shape or (0,))
        layout = info(node).layout
        if layout is None or dim in (layout.rows, layout.h, layout.w):
            return "not kept as 8-bit numbers: its scales do not follow the channels"
    else:
        scales, zeros, dim = [bound["scale"]], [bound["zero_point"]], -1
        if any(isinstance(v, fx.Node) for v in (*scales, *zeros)):
            return "not kept as 8-bit numbers: its scale is computed from the frame"
    zeros = [int(z) + offset for z in zeros]
    if not all(low + offset <= z <= high + offset for z in zeros):
        return "not kept as 8-bit numbers: 0 lies outside its grid"
    return Grid(tuple(float(s) for s in scales), tuple(zeros), low + offset, high + offset, dim)


def _pass_on(cache: fx.Node) -> bool:
    """Values that are picked from those of a grid lie on it too."""
    picked = input_node(cache)
    if op_name(picked) not in _PICKING or cache_option(cache, "grid") or info(picked).dense:
        return False
    source = input_node(picked)
    if not is_cache(source) or not cache_option(source, "grid"):
        return False
    return edit.set_option(cache, grid=cache_option(source, "grid"))


def _take_over(program: Program, source: fx.Node, cache: fx.Node) -> None:
    """A value that only its quantised form is read of is not kept itself."""
    if not is_cache(source) or set(source.users) != {cache} or cache_option(source, "grid"):
        return
    grid = cache_option(cache, "grid")
    if cache_option(source, "kind") == "input" and grid[-1] < 0:  # the frame itself as numbers
        cache.replace_all_uses_with(source)
        edit.set_option(source, grid=grid)
        program.graph.erase_node(cache)
        return
    if cache_option(source, "kind") != "map":
        return
    cache.args = (input_node(source), cache_name(source), *cache.args[2:])
    program.graph.erase_node(source)
