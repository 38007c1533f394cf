"""Hold channel gates: recognise values that scale whole maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_option, is_cache
from videoeff.ir.program import Program, module_path
from videoeff.ops.base import op_of
from videoeff.passes.base import Notes, Pass


@dataclass(frozen=True)
class HoldGates(Pass):
    """Mark the caches of gates (squeeze-excite, global response norm) as such.

    A gate that moves recomputes its map whole, so it is held until it moved by more than its threshold
    (set by insert-thresholds). With threshold 0 a gate passes every change on. Exact.
    """

    name: ClassVar[str] = "hold-gates"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Mark each cache that a pointwise op spreads over a map."""
        changed = False
        for node in program.nodes:
            op = op_of(node)
            if op is None or op.role != "pixel" or not info(node).is_spatial or info(node).dense:
                continue
            if not any(info(n).is_spatial for n in node.all_input_nodes):
                continue
            for source in node.all_input_nodes:
                if info(source).layout is None or info(source).is_spatial:
                    continue
                gate = _behind_views(source)
                if not is_cache(gate):
                    note(module_path(node) or node.name, "gate not held: it is not kept in a cache")
                elif cache_option(gate, "kind") == "global":
                    changed |= edit.set_option(gate, kind="gate")
        return changed


def _behind_views(node: fx.Node) -> fx.Node:
    op = op_of(node)
    while not is_cache(node) and op is not None and op.role == "layout" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
        op = op_of(node)
    return node
