"""Rules for arithmetic of several elements at the same place."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from videoeff.kernels.computation import FromRead, FromStep, Operand, Step
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.pointwise import load
from videoeff.kernels.region_spec.trace import Builder, Rule
from videoeff.kernels.region_spec.values import Unserved, Value


def _scalar(operand: Any) -> float | None:
    if isinstance(operand, Operand):
        return None
    if isinstance(operand, (int, float)):
        return float(operand)
    raise Unserved(f"its operand is {operand!r}")


def additive(op: EpiOp) -> Rule:
    """``self + alpha other`` and ``self - alpha other``; either may be a number."""

    def rule(b: Builder, step: Step) -> Value:
        given = step.arguments
        sign, alpha = (1.0 if op == EpiOp.ADD else -1.0), float(given.get("alpha", 1))
        left, right = _scalar(given["self"]), _scalar(given["other"])
        if right is not None:
            at = b.emit(EpiOp.AFFINE, load(b, step, given["self"]), p=1.0, q=sign * alpha * right)
        elif left is not None:
            at = b.emit(EpiOp.AFFINE, load(b, step, given["other"]), p=sign * alpha, q=left)
        else:
            other = load(b, step, given["other"])
            if alpha != 1.0:
                other = b.emit(EpiOp.AFFINE, other, p=alpha)
            at = b.emit(op, load(b, step, given["self"]), other)
        return b.result(step, at)

    return rule


def reversed_subtraction(b: Builder, step: Step) -> Value:
    """``other - alpha self``."""
    given = step.arguments
    alpha, other = float(given.get("alpha", 1)), _scalar(given["other"])
    at = load(b, step, given["self"])
    if other is not None:
        return b.result(step, b.emit(EpiOp.AFFINE, at, p=-alpha, q=other))
    if alpha != 1.0:
        at = b.emit(EpiOp.AFFINE, at, p=alpha)
    return b.result(step, b.emit(EpiOp.SUB, load(b, step, given["other"]), at))


def product(b: Builder, step: Step) -> Value:
    """``self other``."""
    given = step.arguments
    for one, two in (("self", "other"), ("other", "self")):
        factor = _scalar(given[one])
        if factor is not None:
            return b.result(step, b.emit(EpiOp.AFFINE, load(b, step, given[two]), p=factor))
    if (scaled := scaled_input(b, step)) is not None:
        return scaled
    left = load(b, step, given["self"])
    return b.result(step, b.emit(EpiOp.MUL, left, load(b, step, given["other"])))


def scaled_input(b: Builder, step: Step) -> Value | None:
    """A kept map times a kept gate that a convolution of the region reads; None for any other product."""
    read = [step.arguments["self"], step.arguments["other"]]
    own, steps = FromStep(len(b.values)), b.computation.steps
    readers = [s for s in steps if own in s.arguments.values()]
    if len(readers) != 1 or readers[0].name != "conv2d.default" or readers[0].arguments["input"] != own:
        return None
    if not all(isinstance(o, FromRead) for o in read):
        return None
    one, two = (b.value(o) for o in read)
    value, gate = (two, one) if one.pixels[1:] == (1, 1) else (one, two)
    if gate.pixels[1:] != (1, 1) or value.shape != step.shape or gate.shape != (*value.shape[:2], 1, 1):
        return None
    return replace(value, gate=gate)


def quotient(b: Builder, step: Step) -> Value:
    """``self / other``."""
    given = step.arguments
    if given.get("rounding_mode") is not None:
        raise Unserved("a division that rounds")
    left, right = _scalar(given["self"]), _scalar(given["other"])
    if right is not None:
        inverse = 1.0 / right if right else math.copysign(math.inf, right)
        at = b.emit(EpiOp.AFFINE, load(b, step, given["self"]), p=inverse)
    elif left is not None:
        at = b.emit(EpiOp.RDIV, load(b, step, given["other"]), p=left)
    else:
        first = load(b, step, given["self"])
        at = b.emit(EpiOp.DIV, first, load(b, step, given["other"]))
    return b.result(step, at)


def extreme(op: EpiOp) -> Rule:
    """The larger or smaller of two values."""

    def rule(b: Builder, step: Step) -> Value:
        left = load(b, step, step.arguments["self"])
        return b.result(step, b.emit(op, left, load(b, step, step.arguments["other"])))

    return rule


def power(b: Builder, step: Step) -> Value:
    """``self ^ exponent`` for the exponents that occur."""
    exponent = _scalar(step.arguments["exponent"])
    at = load(b, step, step.arguments["self"])
    if exponent is not None and exponent in (0.5, 2.0, 3.0, -0.5):
        return b.result(step, b.emit(EpiOp.POW, at, p=exponent))
    if exponent == -1.0:
        return b.result(step, b.emit(EpiOp.RDIV, at, p=1.0))
    if exponent == 1.0:
        return b.result(step, b.emit(EpiOp.COPY, at))
    raise Unserved(f"a power of {step.arguments['exponent']}")


def fused_product(op: EpiOp) -> Rule:
    """``self + value tensor1 op tensor2``."""

    def rule(b: Builder, step: Step) -> Value:
        given = step.arguments
        at = b.emit(op, load(b, step, given["tensor1"]), load(b, step, given["tensor2"]))
        if float(given.get("value", 1)) != 1.0:
            at = b.emit(EpiOp.AFFINE, at, p=float(given["value"]))
        return b.result(step, b.emit(EpiOp.ADD, load(b, step, given["self"]), at))

    return rule


RULES: dict[str, Rule] = {
    "add.Tensor": additive(EpiOp.ADD),
    "add.Scalar": additive(EpiOp.ADD),
    "sub.Tensor": additive(EpiOp.SUB),
    "sub.Scalar": additive(EpiOp.SUB),
    "rsub.Scalar": reversed_subtraction,
    "rsub.Tensor": reversed_subtraction,
    "mul.Tensor": product,
    "mul.Scalar": product,
    "div.Tensor": quotient,
    "div.Scalar": quotient,
    "div.Tensor_mode": quotient,
    "maximum.default": extreme(EpiOp.MAXIMUM),
    "minimum.default": extreme(EpiOp.MINIMUM),
    "max.other": extreme(EpiOp.MAXIMUM),
    "min.other": extreme(EpiOp.MINIMUM),
    "pow.Tensor_Scalar": power,
    "addcmul.default": fused_product(EpiOp.MUL),
    "addcdiv.default": fused_product(EpiOp.DIV),
}
