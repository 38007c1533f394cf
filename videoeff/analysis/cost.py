"""Cost of a node: multiply-accumulates and parameters."""

from __future__ import annotations

import math

from torch import fx

from videoeff.ir.layout import info
from videoeff.ir.program import input_node, is_const
from videoeff.ops.base import op_name, op_of

_MATMULS = ("mm", "addmm", "baddbmm", "bmm", "matmul")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", *_TRANSPOSED)


def is_convolution(node: fx.Node) -> bool:
    """Whether the node is a convolution of any kind."""
    return op_name(node) in (*_CONVOLUTIONS, "convolution")


def macs(node: fx.Node) -> int:
    """Multiply-accumulates of the whole result of one call, all streams together."""
    if node.op != "call_function":
        return 0
    op = op_of(node)
    if op is not None:
        return op.macs(node)
    name = op_name(node)
    shape = info(node).shape
    if shape is None:
        return 0
    if name in _MATMULS:
        inner = info(input_node(node, 1 if name in ("addmm", "baddbmm") else 0)).shape
        return math.prod(shape) * (inner[-1] if inner else 0)
    if is_convolution(node):
        weight = info(input_node(node, 1)).shape or ()
        if name in _TRANSPOSED:
            source = info(input_node(node)).shape or ()
            return math.prod(source) * math.prod(weight[1:])
        return math.prod(shape) * math.prod(weight[1:])
    return 0


def parameters(node: fx.Node) -> int:
    """Elements of the constants the node reads directly."""
    return sum(info(n).numel for n in node.all_input_nodes if is_const(n))
