"""Drop what does nothing at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.program import Program, input_node, module_path
from videoeff.ops.base import bind, op_name, op_of
from videoeff.passes.base import Notes, Pass

_COPIES = ("clone", "contiguous", "alias", "detach", "lift_fresh", "positive")
_DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
_SHAPES = ("view", "reshape", "expand", "_unsafe_view", "flatten", "squeeze", "expand_as", "view_as")


@dataclass(frozen=True)
class DropNoops(Pass):
    """Drop dropout, copies, identity casts, reshapes, slices and permutations, and dead code. Exact.

    An ``expand`` that its readers' broadcasting makes needless goes too: squeeze-excite is often written
    ``x * gate.expand_as(x)``, and without the ``expand`` the gate is seen as one.
    """

    name: ClassVar[str] = "drop-noops"
    needs: ClassVar[frozenset[str]] = frozenset({"unplanned"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Bypass each node that returns its input."""
        changed = False
        for node in list(program.nodes):
            if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
                continue
            verdict = _identity(node)
            if verdict is True:
                node.replace_all_uses_with(node.args[0])
                changed = True
            elif isinstance(verdict, str):
                note(module_path(node) or node.name, verdict)
        return edit.sweep(program) or changed


def _broadcasts(user: fx.Node, node: fx.Node) -> bool:
    """Whether a pointwise reader has its result's shape from another input anyway."""
    op = op_of(user)
    if op is None or op.role != "pixel":
        return False
    return any(n is not node and info(n).shape == info(user).shape for n in user.all_input_nodes)


def _identity(node: fx.Node) -> bool | str:
    packet = op_name(node)
    before, after = info(input_node(node)), info(node)
    if before.shape is None or after.shape is None:
        return False
    same = before.shape == after.shape and before.dtype == after.dtype
    if packet in ("expand", "expand_as") and len(before.shape) == len(after.shape):
        return same or all(_broadcasts(user, node) for user in node.users)
    if packet in _COPIES:
        return same
    if packet in _DROPOUTS:
        bound = bind(node)
        if bound.get("train") and bound.get("p"):
            return "dropout kept: it is active at inference"
        return same
    if packet in ("to", "_to_copy", "type_as") or packet in _SHAPES:
        return same
    if packet == "slice":
        return same
    if packet == "permute":
        dims = [int(d) % len(before.shape) for d in bind(node)["dims"]]
        return dims == list(range(len(dims)))
    if packet in ("add", "sub", "mul", "div"):
        other = node.args[1] if len(node.args) > 1 else None
        neutral = 0 if packet in ("add", "sub") else 1
        return (
            same
            and isinstance(other, (int, float))
            and other == neutral
            and "rounding_mode" not in node.kwargs
        )
    if packet in ("avg_pool2d", "max_pool2d"):
        bound = bind(node)
        ones = all(int(k) == 1 for k in bound["kernel_size"])
        return same and ones and not bound.get("divisor_override")
    if packet == "adaptive_avg_pool2d":
        return same
    if packet == "pad":
        return same and not any(int(p) for p in bind(node)["pad"])
    return False
