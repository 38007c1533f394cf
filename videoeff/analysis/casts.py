"""Casts between the precisions that a stream computes in."""

from __future__ import annotations

import torch
from torch import fx

from videoeff.ir.layout import info
from videoeff.ir.program import input_node
from videoeff.ops.base import op_name

_DTYPES = {torch.float32, torch.bfloat16}


def is_cast(node: fx.Node) -> bool:
    """Whether a call casts float32 to bfloat16, or back.

    Such a call has a region of its own: kernels compute in one precision, and cast in a step between.
    """
    if op_name(node) not in ("to", "_to_copy") or not node.args or not isinstance(node.args[0], fx.Node):
        return False
    return {info(input_node(node)).dtype, info(node).dtype} == _DTYPES
