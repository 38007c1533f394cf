"""Rules for operators that look through a window: convolutions, linear layers over maps, maximum pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from videoeff.kernels.computation import Step
from videoeff.kernels.region_spec.along_channels import linear
from videoeff.kernels.region_spec.producers import (
    Convolution,
    MaxPool,
    Producer,
    TransposedConvolution,
    Window,
)
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
from videoeff.ops.base import pair
from videoeff.ops.convolution import explicit_padding


def two(value: Any) -> tuple[int, int]:
    """An int or a list as two ints."""
    first, second = pair(value)
    return first, second


def require_map(b: Builder, step: Step, value: Value) -> None:
    """A step takes (B, C, H, W) and gives the region's pixels.

    Raises:
        Unserved: it does not.
    """
    shape, layout = result_layout(step)
    if len(shape) != 4 or len(value.shape) != 4:
        raise Unserved(f"{step.name} over {len(shape) - 2} dimensions of pixels")
    if not is_image(value) and value.shape[2:] != (1, 1):
        raise Unserved(f"{step.name} of a map whose pixels are not its last dimensions")
    if layout.extent(shape) != b.extent:
        raise Unserved(f"{step.name} gives {layout.extent(shape)} pixels, its value has {b.extent}")


def produced(b: Builder, step: Step, value: Value, width: int, made: Callable[[View], Producer]) -> Value:
    """The step as the producer, which gives ``width`` channels."""
    return b.result(step, b.produce(made(b.map_of(value, step.name)), width, value))


def _make_last(b: Builder, step: Step, value: Value, width: int, made: Callable[[View], Producer]) -> Value:
    """As :func:`produced`, of what may also read a convolution of the region."""
    if not value.computed or not isinstance(b.producer, Convolution):
        return produced(b, step, value, width, made)
    first = b.end_stage(value, step.name)
    return b.result(step, b.produce(made(first), width, value))


def _bias(b: Builder, step: Step) -> Constant | None:
    given = step.arguments.get("bias")
    return None if given is None else b.known(given, "its bias")


def _begin(b: Builder, step: Step) -> None:
    """Of several operators with a window each has an extent of its own."""
    if b.several:
        shape, layout = result_layout(step)
        b.begin(layout.extent(shape))


def convolution(b: Builder, step: Step) -> Value:
    """``conv2d``; of one pixel that was just computed, a linear layer."""
    given = step.arguments
    value, weight = b.value(given["input"]), b.known(given["weight"], "its weight")
    bias, groups = _bias(b, step), int(given["groups"])
    gate, value = value.gate, replace(value, gate=None)
    if len(weight.shape) != 4:
        raise Unserved("a convolution over three dimensions of pixels")
    _begin(b, step)
    require_map(b, step, value)
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
    require_map(b, step, value)
    groups = int(given["groups"])
    window = Window(
        two(weight.shape[2:]), two(given["stride"]), two(given["padding"]), two(given["dilation"])
    )
    if value.tensor is not None and b.map_of(value, step.name).strides[3] != 1:
        raise Unserved("a transposed convolution of channels that are no neighbours in memory")
    bias = _bias(b, step)

    def made(view: View) -> Producer:
        return TransposedConvolution(view, window, groups, weight, bias)

    return produced(b, step, value, weight.shape[1] * groups, made)


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
    require_map(b, step, value)
    window = Window(
        two(given["kernel_size"]),
        two(given["stride"] or given["kernel_size"]),
        two(given["padding"]),
        two(given["dilation"]),
    )
    return _make_last(b, step, value, channels(value), lambda view: MaxPool(view, window))


RULES: dict[str, Rule] = {
    "conv2d.default": convolution,
    "conv2d.padding": convolution,
    "conv_transpose2d.input": transposed,
    "linear.default": linear_layer,
    "max_pool2d.default": max_pool,
}
