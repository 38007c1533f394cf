"""Rules for operators that look along a pixel's channels: softmax, norms, linear layers."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from videoeff.kernels.computation import Step
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.pointwise import load
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import (
    Constant,
    Unserved,
    Value,
    channel_dims,
    channels,
    combined,
    roles,
)
from videoeff.ops.base import normal


def along_channels(op: EpiOp) -> Rule:
    """``softmax`` and ``log_softmax``."""

    def rule(b: Builder, step: Step) -> Value:
        value = b.value(step.arguments["self"])
        dim = normal(int(step.arguments["dim"]), len(value.shape))
        if channel_dims(value) not in ([dim], []) or dim in roles(value.layout):
            raise Unserved(f"{step.name} looks along some of the channels")
        at = b.rows(value, *result_layout(step))
        return b.result(step, b.emit(op, at, width=channels(value)))

    return rule


def _normalised(b: Builder, step: Step, op: EpiOp, epsilon: float) -> Value:
    given = step.arguments
    value = b.value(given["input"])
    dims = [len(value.shape) - 1 - i for i in range(len(given["normalized_shape"]))]
    if any(d not in dims for d in channel_dims(value)):
        raise Unserved(f"{step.name} looks along some of the channels")
    if any(d in roles(value.layout) for d in dims):
        raise Unserved(f"{step.name} looks along pixels")
    at = b.emit(op, b.rows(value, *result_layout(step)), p=epsilon, width=channels(value))
    for name, then in (("weight", EpiOp.MUL), ("bias", EpiOp.ADD)):
        if given.get(name) is not None:
            at = b.emit(then, at, load(b, step, given[name]))
    return b.result(step, at)


def layer_norm(b: Builder, step: Step) -> Value:
    """Over all channels."""
    return _normalised(b, step, EpiOp.NORMALIZE, float(step.arguments.get("eps", 1e-5)))


def rms_norm(b: Builder, step: Step) -> Value:
    """Over all channels."""
    epsilon = step.arguments.get("eps")
    wide = torch.float32 if b.dtype == torch.bfloat16 else b.dtype
    return _normalised(
        b, step, EpiOp.RMS_NORMALIZE, torch.finfo(wide).eps if epsilon is None else float(epsilon)
    )


def batch_norm(b: Builder, step: Step) -> Value:
    """A factor and a summand for each channel."""
    given = step.arguments
    shape, layout = result_layout(step)
    if given.get("training") or given.get("train"):
        raise Unserved("batch norm in training mode")
    names = ("running_mean", "running_var", "weight", "bias")
    held = [n for n in names if given.get(n) is not None]
    if held[:2] != ["running_mean", "running_var"]:
        raise Unserved("batch norm without statistics")
    parts = [b.known(given[n], f"its {n}") for n in held]
    wide = (1, shape[1], *(1,) * (len(shape) - 2))
    epsilon = float(given["eps"])

    def made(what: str, *tensors: Tensor) -> Tensor:
        found = dict(zip(held, (t.double() for t in tensors), strict=True))
        factor = (found["running_var"] + epsilon).rsqrt()
        if "weight" in found:
            factor = factor * found["weight"]
        if what == "factor":
            return factor.view(wide)
        summand = -found["running_mean"] * factor
        return (summand + found["bias"] if "bias" in found else summand).view(wide)

    at = load(b, step, given["input"])
    for what, op in (("factor", EpiOp.MUL), ("summand", EpiOp.ADD)):
        constant = b.constant(combined(parts, partial(made, what), wide))
        at = b.emit(op, at, b.operand(constant, shape, layout))
    return b.result(step, at)


def linear(b: Builder, value: Value, weight: Constant, bias: Constant | None, step: Step) -> Value:
    """``W a + b`` of a value in a register."""
    shape, layout = result_layout(step)
    if value.pixels != b.extent or layout.extent(shape) != b.extent:
        raise Unserved("a linear layer of other pixels than its value's")
    outputs, inputs = weight.shape[0], math.prod(weight.shape[1:])
    if channels(value) != inputs:
        raise Unserved("a linear layer along some of the channels")
    at = b.rows(value, value.shape, value.layout)
    flat = combined([weight], lambda w: w.reshape(outputs, inputs), (outputs, inputs))
    first = b.add_weights(flat, bias)
    return b.result(step, b.emit(EpiOp.LINEAR, at, first, q=float(bias is not None), width=outputs))


RULES: dict[str, Rule] = {
    "softmax.int": along_channels(EpiOp.SOFTMAX),
    "_softmax.default": along_channels(EpiOp.SOFTMAX),
    "log_softmax.int": along_channels(EpiOp.LOG_SOFTMAX),
    "_log_softmax.default": along_channels(EpiOp.LOG_SOFTMAX),
    "layer_norm.default": layer_norm,
    "rms_norm.default": rms_norm,
    "batch_norm.default": batch_norm,
    "_native_batch_norm_legit_no_training.default": batch_norm,
}
