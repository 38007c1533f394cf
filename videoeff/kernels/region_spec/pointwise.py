"""Rules for activations and other functions of one element."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from videoeff.ir.grids import Grid
from videoeff.kernels.computation import Operand, Step
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import (
    GridTable,
    Unserved,
    Value,
    View,
    channels_of,
    combined,
    roles,
)
from videoeff.ops.base import normal


def load(b: Builder, step: Step, operand: Any) -> int:
    """A step's operand, broadcast to its result, as operand of an instruction."""
    shape, layout = result_layout(step)
    return b.operand(b.value(operand), shape, layout)


def unary(op: EpiOp, p: float = 0.0, q: float = 0.0) -> Rule:
    """An instruction without options."""

    def rule(b: Builder, step: Step) -> Value:
        return b.result(step, b.emit(op, load(b, step, step.arguments["self"]), p=p, q=q))

    return rule


def chain(*parts: tuple[EpiOp, float, float]) -> Rule:
    """Several instructions, one after the other."""

    def rule(b: Builder, step: Step) -> Value:
        at = load(b, step, step.arguments["self"])
        for op, p, q in parts:
            at = b.emit(op, at, p=p, q=q)
        return b.result(step, at)

    return rule


def optioned(give: Callable[[Any], tuple[EpiOp, float, float]]) -> Rule:
    """An instruction whose scalars come from the step's arguments."""

    def rule(b: Builder, step: Step) -> Value:
        op, p, q = give(step.arguments)
        return b.result(step, b.emit(op, load(b, step, step.arguments["self"]), p=p, q=q))

    return rule


def same(b: Builder, step: Step) -> Value:
    """Operators that change nothing."""
    given = step.arguments
    value = b.value(given["self"] if "self" in given else given["input"])
    result_layout(step)
    if step.arguments.get("train") or step.arguments.get("training"):
        raise Unserved(f"{step.name} is in training mode")
    return value


def clamp(low: str, high: str) -> Rule:
    """Clamping to numbers or tensors; the names of the bounds' arguments, "" for none."""

    def rule(b: Builder, step: Step) -> Value:
        given = step.arguments
        lower, upper = given.get(low), given.get(high)
        at = load(b, step, given["self"])
        if not isinstance(lower, Operand) and not isinstance(upper, Operand):
            p = -math.inf if lower is None else float(lower)
            q = math.inf if upper is None else float(upper)
            return b.result(step, b.emit(EpiOp.CLAMP, at, p=p, q=q))
        for bound, op in ((lower, EpiOp.MAXIMUM), (upper, EpiOp.MINIMUM)):
            if bound is not None:
                at = b.emit(op, at, load(b, step, bound))
        return b.result(step, at)

    return rule


def elu(b: Builder, step: Step) -> Value:
    """``elu`` with its three factors."""
    given = step.arguments
    alpha, scale = float(given.get("alpha", 1)), float(given.get("scale", 1))
    inner = float(given.get("input_scale", 1))
    return b.result(step, _elu(b, load(b, step, given["self"]), alpha, scale, inner))


def rounded(b: Builder, step: Step) -> Value:
    """``quantized``: to the numbers of a grid."""
    scales, zeros, low, high, dim = step.args[1:]
    shape, layout = result_layout(step)
    value, grid = b.value(step.args[0]), Grid(tuple(scales), tuple(zeros), low, high, dim)
    count = channels_of(shape, layout)
    if dim >= 0 and (dim in roles(layout) or len(grid.scales) != count):
        raise Unserved("numbers with a scale for each of other dimensions than the channels")
    at = b.operand(value, shape, layout)
    table = View(GridTable(grid, count), 0, count, (0, 0, 0, 1), (1, 1, 1, count))
    return b.result(step, b.emit(EpiOp.ROUND, at, b.add_argument(table)))


def _elu(b: Builder, at: int, alpha: float, scale: float, inner: float) -> int:
    if inner == 1.0:
        return b.emit(EpiOp.ELU, at, p=alpha, q=scale)
    return b.emit(EpiOp.ELU, b.emit(EpiOp.AFFINE, at, p=inner), p=alpha * inner, q=scale / inner)


def celu(b: Builder, step: Step) -> Value:
    """``elu`` of ``x / alpha``."""
    alpha = float(step.arguments.get("alpha", 1))
    return b.result(step, _elu(b, load(b, step, step.arguments["self"]), alpha, 1.0, 1.0 / alpha))


def soft_shrink(b: Builder, step: Step) -> Value:
    """``x - clamp(x, -lambda, lambda)``."""
    limit = float(step.arguments["lambd"])
    at = load(b, step, step.arguments["self"])
    return b.result(step, b.emit(EpiOp.SUB, at, b.emit(EpiOp.CLAMP, at, p=-limit, q=limit)))


def prelu(b: Builder, step: Step) -> Value:
    """One slope for all channels, or one each."""
    shape, _ = result_layout(step)
    weight = b.known(step.arguments["weight"], "its weight")
    size = math.prod(weight.shape)
    wide = (1, size, *(1,) * (len(shape) - 2)) if size > 1 else (1,) * len(shape)
    slope = b.constant(combined([weight], lambda w: w.reshape(wide), wide))
    at = load(b, step, step.arguments["self"])
    return b.result(step, b.emit(EpiOp.PRELU, at, b.operand(slope, *result_layout(step))))


def gated(b: Builder, step: Step) -> Value:
    """``glu``: one half of the channels times the sigmoid of the other."""
    value = b.value(step.arguments["self"])
    dim = normal(int(step.arguments["dim"]), len(value.shape))
    if value.tensor is None or value.constant:
        raise Unserved("glu of a value that is not kept")
    half = value.shape[dim] // 2
    parts = []
    for first in (0, half):
        tensor = value.tensor.narrow(dim, first, half)
        part = Value(
            tuple(tensor.shape), value.layout, tensor, value.source, value.masks, value.extent, value.crop
        )
        parts.append(b.operand(part, *result_layout(step)))
    return b.result(step, b.emit(EpiOp.MUL, parts[0], b.emit(EpiOp.SIGMOID, parts[1])))


def _leaky(slope: str) -> Rule:
    return optioned(lambda a: (EpiOp.LEAKY, float(a[slope]), 0.0))


_TANH = {"none": EpiOp.GELU, "tanh": EpiOp.GELU_TANH}

RULES: dict[str, Rule] = {
    "relu.default": unary(EpiOp.LEAKY),
    "relu6.default": unary(EpiOp.CLAMP, 0.0, 6.0),
    "leaky_relu.default": _leaky("negative_slope"),
    "rrelu.default": optioned(lambda a: (EpiOp.LEAKY, (float(a["lower"]) + float(a["upper"])) / 2, 0.0)),
    "sigmoid.default": unary(EpiOp.SIGMOID),
    "tanh.default": unary(EpiOp.TANH),
    "exp.default": unary(EpiOp.EXP),
    "log.default": unary(EpiOp.LOG),
    "sqrt.default": unary(EpiOp.SQRT),
    "rsqrt.default": unary(EpiOp.POW, -0.5),
    "square.default": unary(EpiOp.POW, 2.0),
    "reciprocal.default": unary(EpiOp.RDIV, 1.0),
    "abs.default": unary(EpiOp.ABS),
    "neg.default": unary(EpiOp.NEG),
    "erf.default": unary(EpiOp.ERF),
    "silu.default": unary(EpiOp.SILU),
    "mish.default": unary(EpiOp.MISH),
    "hardswish.default": unary(EpiOp.HARDSWISH),
    "hardsigmoid.default": unary(EpiOp.HARDSIGMOID),
    "selu.default": unary(EpiOp.ELU, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946),
    "gelu.default": optioned(lambda a: (_TANH[str(a.get("approximate", "none"))], 0.0, 0.0)),
    "elu.default": elu,
    "celu.default": celu,
    "softplus.default": optioned(lambda a: (EpiOp.SOFTPLUS, float(a["beta"]), float(a["threshold"]))),
    "log_sigmoid.default": chain((EpiOp.NEG, 0, 0), (EpiOp.SOFTPLUS, 1.0, 40.0), (EpiOp.NEG, 0, 0)),
    "softshrink.default": soft_shrink,
    "hardtanh.default": clamp("min_val", "max_val"),
    "clamp.default": clamp("min", "max"),
    "clamp.Tensor": clamp("min", "max"),
    "clamp_min.default": clamp("min", ""),
    "clamp_max.default": clamp("", "max"),
    "clamp_min.Tensor": clamp("min", ""),
    "clamp_max.Tensor": clamp("", "max"),
    "prelu.default": prelu,
    "glu.default": gated,
    "quantized": rounded,
    **{
        f"{name}.default": same
        for name in (
            "clone", "contiguous", "alias", "detach", "dropout", "feature_dropout", "alpha_dropout",
            "positive", "_to_copy", "lift_fresh",
        )
    },
    "to.dtype": same,
    "to.dtype_layout": same,
    "to.device": same,
}  # fmt: skip
