"""Rules for operators that look at a neighbourhood: convolutions, pooling, means, resampling, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from videoeff.kernels.computation import Step
from videoeff.kernels.region_spec.along_channels import linear
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.producers import (
    Convolution,
    MaxPool,
    Mean,
    Producer,
    Resampling,
    TransposedConvolution,
    Window,
)
from videoeff.kernels.region_spec.tables import Axis, table
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import (
    Constant,
    Unserved,
    Value,
    View,
    channel_dims,
    channels,
    combined,
    is_image,
    side_by_side,
)
from videoeff.ops.base import normal, pair
from videoeff.ops.convolution import explicit_padding


def two(value: Any) -> tuple[int, int]:
    """An int or a list as two ints."""
    first, second = pair(value)
    return first, second


def _image(b: Builder, step: Step, value: Value) -> None:
    shape, layout = result_layout(step)
    if len(shape) != 4 or len(value.shape) != 4:
        raise Unserved(f"{step.name} over {len(shape) - 2} dimensions of pixels")
    if not is_image(value) and value.shape[2:] != (1, 1):
        raise Unserved(f"{step.name} of a map whose pixels are not its last dimensions")
    if layout.extent(shape) != b.extent:
        raise Unserved(f"{step.name} gives {layout.extent(shape)} pixels, its value has {b.extent}")


def _make(b: Builder, step: Step, value: Value, width: int, made: Callable[[View], Producer]) -> Value:
    """The step as the producer, which gives ``width`` channels."""
    return b.result(step, b.produce(made(b.map_of(value, step.name)), width, value))


def _make_last(b: Builder, step: Step, value: Value, width: int, made: Callable[[View], Producer]) -> Value:
    """As :func:`_make`, of what may also read a convolution of the region."""
    if not value.computed or not isinstance(b.producer, Convolution):
        return _make(b, step, value, width, made)
    first = b.end_stage(value, step.name)
    return b.result(step, b.produce(made(first), width, value))


def _bias(b: Builder, step: Step) -> Constant | None:
    given = step.arguments.get("bias")
    return None if given is None else b.known(given, "its bias")


def _begin(b: Builder, step: Step) -> None:
    """Of several operators with a window each has an extent of its own."""
    if b.several:
        shape, layout = result_layout(step)
        b.extent = layout.extent(shape)


def convolution(b: Builder, step: Step) -> Value:
    """``conv2d``; of one pixel that was just computed, a linear layer."""
    given = step.arguments
    value, weight = b.value(given["input"]), b.known(given["weight"], "its weight")
    bias, groups = _bias(b, step), int(given["groups"])
    gate, value = value.gate, replace(value, gate=None)
    if len(weight.shape) != 4:
        raise Unserved("a convolution over three dimensions of pixels")
    _begin(b, step)
    _image(b, step, value)
    kernel = two(weight.shape[2:])
    pads = explicit_padding(dict(given), kernel)
    single = kernel == (1, 1) and groups == 1 and pads == [(0, 0), (0, 0)] and gate is None
    if single and value.pixels[1:] == (1, 1) and (value.computed or b.more_linear):
        return linear(b, value, weight, bias, step)
    window = Window(
        kernel=kernel,
        stride=two(given["stride"]),
        padding=(pads[0][0], pads[1][0]),
        dilation=two(given["dilation"]),
    )
    scale = None if gate is None else _gate(b, step, gate)

    def made(view: View) -> Producer:
        return Convolution(view, window, groups, weight, bias, scale)

    return _make_last(b, step, value, weight.shape[0], made)


def _gate(b: Builder, step: Step, gate: Value) -> int:
    """The argument that scales the input's channels."""
    b.reached(gate, "whole")
    view = side_by_side(b.map_of(gate, step.name))
    return -1 - b.add_argument(view)


def transposed(b: Builder, step: Step) -> Value:
    """``conv_transpose2d``."""
    given = step.arguments
    value, weight = b.value(given["input"]), b.known(given["weight"], "its weight")
    _image(b, step, value)
    groups = int(given["groups"])
    window = Window(
        two(weight.shape[2:]), two(given["stride"]), two(given["padding"]), two(given["dilation"])
    )
    if value.tensor is not None and b.map_of(value, step.name).strides[3] != 1:
        raise Unserved("a transposed convolution of channels that are no neighbours in memory")
    bias = _bias(b, step)

    def made(view: View) -> Producer:
        return TransposedConvolution(view, window, groups, weight, bias)

    return _make(b, step, value, weight.shape[1] * groups, made)


def linear_layer(b: Builder, step: Step) -> Value:
    """``linear`` over the channels: a 1x1 convolution, or one of a flattened map over all its pixels."""
    given = step.arguments
    value, weight, bias = b.value(given["input"]), b.known(given["weight"], "its weight"), _bias(b, step)
    outputs, inputs = weight.shape
    shape, layout = result_layout(step)
    if layout.extent(shape) != b.extent:
        raise Unserved(f"{step.name} gives {layout.extent(shape)} pixels, its value has {b.extent}")
    if value.unrolled is not None:
        shape = (outputs, *value.unrolled.shape[1:])
        return _convolved_whole(b, step, value.unrolled, weight, bias, shape)
    if channels(value) != inputs or channel_dims(value) not in ([len(value.shape) - 1], []):
        raise Unserved("a linear layer along some of the channels")
    if value.computed or (b.more_linear and value.pixels[1:] == (1, 1)):
        return linear(b, value, weight, bias, step)
    return _convolved_whole(b, step, value, weight, bias, (outputs, inputs, 1, 1))


def _convolved_whole(
    b: Builder, step: Step, value: Value, weight: Constant, bias: Constant | None, shape: tuple[int, ...]
) -> Value:
    """A linear layer as a convolution with weights of this shape."""
    wide = combined([weight], lambda w: w.view(shape), shape)
    window = Window(two(shape[2:]))

    def made(view: View) -> Producer:
        return Convolution(view, window, 1, wide, bias)

    return _make_last(b, step, value, shape[0], made)


def max_pool(b: Builder, step: Step) -> Value:
    """``max_pool2d``."""
    given = step.arguments
    value = b.value(given["self"])
    _begin(b, step)
    _image(b, step, value)
    window = Window(
        two(given["kernel_size"]),
        two(given["stride"] or given["kernel_size"]),
        two(given["padding"]),
        two(given["dilation"]),
    )
    return _make_last(b, step, value, channels(value), lambda view: MaxPool(view, window))


# ---------------------------------------------------------------- means


def _mean(b: Builder, step: Step, value: Value, factor: float = 1.0) -> Value:
    if b.extent[1:] != (1, 1):
        raise Unserved("a mean over all pixels in the region of a map")
    if value.pixels[1:] == (1, 1):
        if value.tensor is None:
            return replace(value, shape=step.shape or (), layout=step.layout or value.layout)
        at = b.operand(value, value.shape, value.layout)
        return b.result(step, b.emit(EpiOp.COPY, at))
    made = _make(b, step, value, channels(value), Mean)
    if factor == 1.0:
        return made
    return b.result(step, b.emit(EpiOp.AFFINE, made.number, p=factor))


def reduction(b: Builder, step: Step) -> Value:
    """``mean`` and ``sum`` over all pixels."""
    given = step.arguments
    value = b.value(given["self"])
    result_layout(step)
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(value.shape)))
    over = {normal(int(d), len(value.shape)) for d in dims}
    pixels = {d for d in (value.layout.h, value.layout.w) if d is not None}
    if over - pixels - {d for d in over if value.shape[d] == 1}:
        raise Unserved(f"{step.name} runs over channels")
    if any(value.shape[d] > 1 for d in pixels - over):
        raise Unserved(f"{step.name} runs over rows or columns alone")
    count = math.prod(value.pixels[1:])
    return _mean(b, step, value, float(count) if step.op == "sum" else 1.0)


# ---------------------------------------------------------------- tables


def _separable(b: Builder, step: Step, value: Value, rows: Axis, columns: Axis) -> Value:
    made = partial(Resampling, rows=table(rows), columns=table(columns))
    return _make(b, step, value, channels(value), made)


def _axes(
    b: Builder, step: Step, value: Value, what: str, options: Callable[[int], tuple[Any, ...]]
) -> Value:
    _image(b, step, value)
    shape = step.shape or ()
    rows, columns = (Axis(what, value.shape[2 + i], shape[2 + i], options(i), b.dtype) for i in range(2))
    return _separable(b, step, value, rows, columns)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def resample(what: str) -> Rule:
    """``interpolate``."""

    def rule(b: Builder, step: Step) -> Value:
        given = step.arguments
        value = b.value(given["input"] if "input" in given else given["self"])
        scales = given.get("scale_factors") or (given.get("scales_h"), given.get("scales_w"))
        align = (bool(given["align_corners"]),) if "align_corners" in given else ()
        return _axes(b, step, value, what, lambda i: (*align, _number(scales[i])))

    return rule


def average_pool(b: Builder, step: Step) -> Value:
    """``avg_pool2d``; one that sees all pixels at once is a mean."""
    given = step.arguments
    value = b.value(given["self"])
    kernel, stride = pair(given["kernel_size"]), pair(given["stride"] or given["kernel_size"])
    padding, divisor = pair(given["padding"]), given.get("divisor_override")
    whole = (step.shape or ())[2:] == (1, 1) and value.shape[2:] == kernel and not any(padding)
    if whole and divisor is None and is_image(value) and b.extent[1:] == (1, 1):
        return _mean(b, step, value)

    def options(i: int) -> tuple[Any, ...]:
        once = None if divisor is None else (int(divisor) if i == 0 else 1)  # the divisor counts once
        ceil, include = bool(given["ceil_mode"]), bool(given["count_include_pad"])
        return kernel[i], stride[i], padding[i], ceil, include, once

    return _axes(b, step, value, "average", options)


def adaptive_pool(b: Builder, step: Step) -> Value:
    """``adaptive_avg_pool2d``; to one pixel it is a mean."""
    value = b.value(step.arguments["self"])
    if (step.shape or ())[2:] == (1, 1) and len(value.shape) == 4 and is_image(value):
        result_layout(step)
        return _mean(b, step, value)
    return _axes(b, step, value, "adaptive", lambda i: ())


def pad(mode: str) -> Rule:
    """Padding of the pixels."""

    def rule(b: Builder, step: Step) -> Value:
        given = step.arguments
        value, how = b.value(given["self"]), str(given.get("mode", mode))
        pads = [int(p) for p in given.get("pad", given.get("padding"))]
        if how == "constant" and given.get("value") not in (None, 0, 0.0):
            raise Unserved("padding with another constant than 0")
        shape, layout = result_layout(step)
        ndim, by_dim = (
            len(shape),
            {len(shape) - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)},
        )
        if any(any(p) for d, p in by_dim.items() if d not in (layout.h, layout.w)):
            raise Unserved("padding of channels")
        if (
            layout.h is None
            or layout.w is None
            or layout.extent(shape) != b.extent
            or ndim != len(value.shape)
        ):
            raise Unserved("padding of a value without pixels")
        axes = [
            Axis("pad", value.shape[d], shape[d], (*by_dim.get(d, (0, 0)), how), b.dtype)
            for d in (layout.h, layout.w)
        ]
        return _separable(b, step, value, *axes)

    return rule


RULES: dict[str, Rule] = {
    "conv2d.default": convolution,
    "conv2d.padding": convolution,
    "conv_transpose2d.input": transposed,
    "linear.default": linear_layer,
    "max_pool2d.default": max_pool,
    "avg_pool2d.default": average_pool,
    "adaptive_avg_pool2d.default": adaptive_pool,
    "_adaptive_avg_pool2d.default": adaptive_pool,
    "mean.dim": reduction,
    "sum.dim_IntList": reduction,
    "upsample_nearest2d.vec": resample("nearest"),
    "upsample_nearest2d.default": resample("nearest"),
    "_upsample_nearest_exact2d.vec": resample("nearest-exact"),
    "_upsample_nearest_exact2d.default": resample("nearest-exact"),
    "upsample_bilinear2d.vec": resample("bilinear"),
    "upsample_bilinear2d.default": resample("bilinear"),
    "pad.default": pad("constant"),
    "constant_pad_nd.default": pad("constant"),
    "reflection_pad2d.default": pad("reflect"),
    "replication_pad2d.default": pad("replicate"),
}
