"""What each operator of ONNX computes, in PyTorch. The numbers of a call that are sizes are plain integers.

A function takes the node and its inputs: tensors, or numpy arrays where the operator needs the numbers
themselves (``STATIC``). Where PyTorch has no equal, it raises ``NotHere`` with what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


class NotHere(Exception):
    """An operator, or this use of one, has no counterpart; what is missing."""


@dataclass(frozen=True)
class Node:
    """An operator of the graph.

    Attributes:
        kind: the operator, as ONNX calls it.
        name: of this one.
        attributes: numbers, text, and tensors as numpy arrays.
        opset: the version that the file was written for.
        outputs: how many results are read.
    """

    kind: str
    name: str
    attributes: dict[str, Any]
    opset: int
    outputs: int

    def ints(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute that is a list of whole numbers."""
        return [int(v) for v in self.attributes.get(name, default)]

    def get(self, name: str, default: Any) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


Operator = Callable[..., Any]

OPERATORS: dict[str, Operator] = {}

#: Inputs that have to be known numbers, by operator: which come first may be tensors.
STATIC = dict.fromkeys(
    "Dropout Slice Reshape Resize Upsample Pad Expand Tile Split Squeeze Unsqueeze Clip TopK ReduceMean "
    "ReduceSum ReduceMax ReduceMin ReduceL2 ReduceL1 ReduceSumSquare".split(),
    1,
)


def operator(*kinds: str) -> Callable[[Operator], Operator]:
    """Declare what some operators compute."""

    def declare(function: Operator) -> Operator:
        for kind in kinds:
            OPERATORS[kind] = function
        return function

    return declare


def _plain(**functions: Callable[..., Any]) -> None:
    """Declare operators that are a function of their inputs alone."""
    for kind, function in functions.items():
        OPERATORS[kind] = lambda _node, *inputs, function=function: function(*inputs)


def _folded(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fold(*inputs: Any) -> Any:
        found = inputs[0]
        for value in inputs[1:]:
            found = function(found, value)
        return found

    return fold


_plain(
    Relu=torch.relu, Sigmoid=torch.sigmoid, Tanh=torch.tanh, Exp=torch.exp, Log=torch.log, Sqrt=torch.sqrt,
    Neg=torch.neg, Abs=torch.abs, Floor=torch.floor, Ceil=torch.ceil, Round=torch.round, Sign=torch.sign,
    Erf=torch.erf, Reciprocal=torch.reciprocal, Softplus=F.softplus, Softsign=F.softsign, Mish=F.mish,
    HardSwish=F.hardswish, Sin=torch.sin, Cos=torch.cos, Identity=lambda x: x,
    Add=lambda a, b: a + b, Sub=lambda a, b: a - b, Mul=lambda a, b: a * b, MatMul=torch.matmul,
    Max=_folded(torch.maximum), Min=_folded(torch.minimum), Sum=_folded(torch.add),
    Equal=torch.eq, Greater=torch.gt, GreaterOrEqual=torch.ge, Less=torch.lt, LessOrEqual=torch.le,
    And=torch.logical_and, Or=torch.logical_or, Not=torch.logical_not, Where=torch.where,
    GlobalAveragePool=lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    GlobalMaxPool=lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
)  # fmt: skip


@operator("Div")
def _div(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@operator("Pow")
def _pow(_node: Node, x: Tensor, exponent: Tensor) -> Tensor:
    return torch.pow(x, exponent).to(x.dtype)


@operator("Mod")
def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.get("fmod", 0) else torch.remainder(a, b)


@operator("LeakyRelu")
def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return F.leaky_relu(x, node.get("alpha", 0.01))


@operator("Elu")
def _elu(node: Node, x: Tensor) -> Tensor:
    return F.elu(x, node.get("alpha", 1.0))


@operator("Celu")
def _celu(node: Node, x: Tensor) -> Tensor:
    return F.celu(x, node.get("alpha", 1.0))


@operator("PRelu")
def _prelu(_node: Node, x: Tensor, slope: Tensor) -> Tensor:
    if slope.ndim == 3 and slope.shape[1:] == (1, 1) and x.ndim == 4:
        return F.prelu(x, slope.flatten())
    return torch.where(x < 0, x * slope, x)


@operator("HardSigmoid")
def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.get("alpha", 0.2), node.get("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-5) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0, 1)


@operator("Gelu")
def _gelu(node: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=text(node.get("approximate", "none")))


@operator("Clip")
def _clip(node: Node, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = node.get("min", None) if low is None else low.item()
    high = node.get("max", None) if high is None else high.item()
    return x if low is None and high is None else torch.clamp(x, low, high)


@operator("Softmax", "LogSoftmax")
def _softmax(node: Node, x: Tensor) -> Tensor:
    function: Callable[..., Tensor] = F.softmax if node.kind == "Softmax" else F.log_softmax
    if node.opset >= 13:
        found: Tensor = function(x, node.get("axis", -1))
        return found
    axis = node.get("axis", 1) % x.ndim  # before version 13: over all dimensions from the axis on
    return function(x.flatten(axis), -1).reshape(x.shape)


@operator("Cast")
def _cast(node: Node, x: Tensor) -> Tensor:
    import onnx

    kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.get("to", 1)))
    return x.to(torch.from_numpy(np.zeros(1, kind)).dtype)


@operator("Dropout")
def _dropout(node: Node, x: Tensor, _ratio: Any = None, training: Any = None) -> Tensor:
    if node.outputs > 1:
        raise NotHere("its mask is read")
    if training is not None and bool(training):
        raise NotHere("it is in training mode: export the model after model.eval()")
    return x


# ---------------------------------------------------------------- norms and products


@operator("BatchNormalization")
def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.outputs > 1 or node.get("training_mode", 0):
        raise NotHere("it is in training mode: export the model after model.eval()")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


@operator("LayerNormalization")
def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if node.outputs > 1:
        raise NotHere("its statistics are read")
    axis = node.get("axis", -1) % x.ndim
    return F.layer_norm(x, list(x.shape[axis:]), scale, bias, node.get("epsilon", 1e-5))


@operator("Gemm")
def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    a = a.transpose(0, 1) if node.get("transA", 0) else a
    if alpha == 1 and beta == 1 and node.get("transB", 0) and (c is None or c.ndim == 1):
        return F.linear(a, b, c)
    b = b.transpose(0, 1) if node.get("transB", 0) else b
    found: Tensor = torch.matmul(a, b) * alpha
    return found if c is None else torch.add(found, c * beta)


@operator("Einsum")
def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(text(node.get("equation", "")), *inputs)


_REDUCE: dict[str, Callable[..., Tensor]] = {
    "ReduceMean": lambda x, d, k: x.mean(d, keepdim=k),
    "ReduceSum": lambda x, d, k: x.sum(d, keepdim=k),
    "ReduceMax": lambda x, d, k: x.amax(d, keepdim=k),
    "ReduceMin": lambda x, d, k: x.amin(d, keepdim=k),
    "ReduceL1": lambda x, d, k: x.abs().sum(d, keepdim=k),
    "ReduceL2": lambda x, d, k: (x * x).sum(d, keepdim=k).sqrt(),
    "ReduceSumSquare": lambda x, d, k: (x * x).sum(d, keepdim=k),
}


@operator(*_REDUCE)
def _reduce(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = [int(a) for a in axes] if axes is not None else node.ints("axes")
    if not chosen:
        if node.get("noop_with_empty_axes", 0):
            return x
        chosen = list(range(x.ndim))
    return _REDUCE[node.kind](x, chosen, bool(node.get("keepdims", 1)))


@operator("ArgMax", "ArgMin")
def _arg(node: Node, x: Tensor) -> Tensor:
    if node.get("select_last_index", 0):
        raise NotHere("it takes the last of equals")
    function = torch.argmax if node.kind == "ArgMax" else torch.argmin
    return function(x, node.get("axis", 0), bool(node.get("keepdims", 1)))


@operator("TopK")
def _top_k(node: Node, x: Tensor, count: Any) -> tuple[Tensor, Tensor]:
    found = torch.topk(x, int(count.item()), node.get("axis", -1), bool(node.get("largest", 1)), True)
    return found.values, found.indices


# ---------------------------------------------------------------- layout


@operator("Concat")
def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis", 1))


@operator("Split")
def _split(node: Node, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    given = [int(s) for s in sizes] if sizes is not None else node.ints("split")
    if not given:
        each = math.ceil(x.shape[axis] / node.outputs)
        given = [each] * (node.outputs - 1)
        given.append(x.shape[axis] - sum(given))
    return torch.split(x, given, axis)


@operator("Slice")
def _slice(
    node: Node, x: Tensor, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None
) -> Tensor:
    begin = node.ints("starts") if starts is None else [int(v) for v in starts]
    end = node.ints("ends") if ends is None else [int(v) for v in ends]
    along = node.ints("axes", range(len(begin))) if axes is None else [int(v) for v in axes]
    stride = [1] * len(begin) if steps is None else [int(v) for v in steps]
    for b, e, axis, step in zip(begin, end, along, stride, strict=True):
        if step < 0:
            if step != -1 or (b != -1 and b < x.shape[axis] - 1) or e > -x.shape[axis]:
                raise NotHere(f"it goes backwards by {step} over a part")
            x = torch.flip(x, [axis])
            continue
        keys: list[slice] = [slice(None)] * x.ndim
        keys[axis] = slice(b, min(e, x.shape[axis]), step)
        x = x[tuple(keys)]
    return x


@operator("Gather")
def _gather(node: Node, x: Tensor, indices: Tensor | np.ndarray[Any, Any]) -> Tensor:
    axis = node.get("axis", 0) % x.ndim
    if isinstance(indices, np.ndarray):
        if indices.ndim == 0:
            return x.select(axis, int(indices))
        indices = torch.from_numpy(indices)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    return x.index_select(axis, indices.flatten()).reshape(shape)


@operator("Transpose")
def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.ints("perm", range(x.ndim - 1, -1, -1)))


@operator("Reshape")
def _reshape(node: Node, x: Tensor, shape: Any = None) -> Tensor:
    sizes = node.ints("shape") if shape is None else [int(v) for v in shape]
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if s == 0 else s for i, s in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten")
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


@operator("Squeeze")
def _squeeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = [int(a) for a in axes] if axes is not None else node.ints("axes")
    return x.squeeze(tuple(chosen)) if chosen else x.squeeze()


@operator("Unsqueeze")
def _unsqueeze(node: Node, x: Tensor, axes: Any = None) -> Tensor:
    chosen = [int(a) for a in axes] if axes is not None else node.ints("axes")
    for axis in sorted(a % (x.ndim + len(chosen)) for a in chosen):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def _expand(_node: Node, x: Tensor, shape: Any) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(int(v) for v in shape)))


@operator("Tile")
def _tile(_node: Node, x: Tensor, repeats: Any) -> Tensor:
    return x.repeat([int(v) for v in repeats])


@operator("DepthToSpace")
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize", 1)
    if text(node.get("mode", "DCR")) == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    y = x.reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(batch, channels // block**2, height * block, width * block)


@operator("SpaceToDepth")
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.get("blocksize", 1)
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(batch, channels * block**2, height // block, width // block)


def text(value: Any) -> str:
    """An attribute that is text."""
    return value.decode() if isinstance(value, bytes) else str(value)
