"""Lift casts in front of ops that only move values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from videoeff.analysis import annotate
from videoeff.analysis.casts import is_cast
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.program import Program, input_node
from videoeff.ops.base import op_of
from videoeff.passes.base import Notes, Pass


@dataclass(frozen=True)
class LiftCasts(Pass):
    """Cast between float32 and bfloat16 before values are reshaped, permuted and joined, not after.

    A cast of maps that a detector's end flattens and joins then follows the pixels of each map, and what only
    moves values is left at the end, where it is read as it lies. Exact.
    """

    name: ClassVar[str] = "lift-casts"
    needs: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Lift each cast as far as it goes."""
        changed = False
        while (node := next((n for n in program.nodes if n.users and _lifts(n)), None)) is not None:
            _lift(program, node)
            annotate(program)
            changed = True
        return edit.sweep(program) or changed


def _lifts(cast: fx.Node) -> bool:
    """Whether what a cast reads moves all values of its inputs, which are maps in one dtype, and no more."""
    if not is_cast(cast):
        return False
    moved = input_node(cast)
    op, inputs = op_of(moved), moved.all_input_nodes
    if op is None or op.role != "layout" or len(moved.users) > 1 or not inputs:
        return False
    values, result = [info(n) for n in inputs], info(moved)
    shapes = [v.shape for v in values]
    if result.shape is None or any(v.dtype != result.dtype or v.layout is None for v in values):
        return False
    return sum(math.prod(s) for s in shapes if s is not None) == math.prod(result.shape)


def _lift(program: Program, cast: fx.Node) -> None:
    moved = input_node(cast)
    casts = {}
    for source in moved.all_input_nodes:
        made = edit.call(program, source, cast.target, (source, *cast.args[1:]), **cast.kwargs)
        made.meta["module"] = cast.meta.get("module", "")
        casts[source] = made
    with program.graph.inserting_before(cast):
        after = program.graph.call_function(
            moved.target,  # type: ignore[arg-type]  # of a call, a function
            fx.map_arg(moved.args, lambda n: casts[n]),
            fx.map_arg(moved.kwargs, lambda n: casts[n]),
        )
    after.meta["module"] = moved.meta.get("module", "")
    cast.replace_all_uses_with(after)
    program.graph.erase_node(cast)
    program.graph.erase_node(moved)
