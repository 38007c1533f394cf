"""Sizes that depend on a frame's values: such a graph is not captured, as buffers have one size."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from videoeff.capture.exported import module_of
from videoeff.errors import VaryingSizeError
from videoeff.ops.base import op_name


def require_static(exported: torch.export.ExportedProgram, name: str) -> None:
    """Raise unless every value of an export has sizes that are the same for every frame.

    Raises:
        VaryingSizeError: one has not; the operator, its module and its line of code are named.
    """
    for node in exported.graph.nodes:
        if node.op == "call_function" and _varies(node.meta.get("val")):
            raise VaryingSizeError(
                f"{name}: what {_named(node)} gives differs in size from frame to frame, so it runs as it "
                "is; a stream's buffers have one size"
            )


def _varies(value: Any) -> bool:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, Tensor) and leaf.layout is not torch.strided:
            return True  # a sparse one holds as many elements as there are
        if isinstance(leaf, Tensor) and not all(isinstance(size, int) for size in leaf.shape):
            return True
        if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)) and not leaf.node.is_constant():
            return True
    return False


def _named(node: fx.Node) -> str:
    """An operator, its module, and the model's line that calls it."""
    where = module_of(node)
    lines = [line.strip() for line in str(node.meta.get("stack_trace", "")).splitlines() if line.strip()]
    code = f" ({lines[-1]})" if lines and not lines[-1].startswith("File ") else ""
    return f"{op_name(node)}{f' in {where}' if where else ''}{code}"
