"""Rules for operators that look at a neighbourhood, and for those that only move values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from videoeff.kernels.call import Step
from videoeff.kernels.region_spec.codes import EpiOp, Kind
from videoeff.kernels.region_spec.pointwise import linear
from videoeff.kernels.region_spec.trace import (
    Builder,
    Constant,
    Declined,
    Producer,
    Rule,
    Value,
    channel_dims,
    channels,
    combined,
    result_layout,
    short,
    side_by_side,
)
from videoeff.ops.axis_tables import Axis, table
from videoeff.ops.base import normal, pair
from videoeff.ops.convolution import explicit_padding


def _is_image(value: Value) -> bool:
    return len(value.shape) == 4 and (value.layout.rows, value.layout.h, value.layout.w) == (0, 2, 3)


def _image(b: Builder, step: Step, value: Value) -> None:
    shape, layout = result_layout(step)
    if len(shape) != 4 or len(value.shape) != 4:
        raise Declined(f"{short(step)} over {len(shape) - 2} dimensions of pixels")
    if not _is_image(value) and value.shape[2:] != (1, 1):
        raise Declined(f"{short(step)} of a map whose pixels are not its last dimensions")
    if layout.extent(shape) != b.extent:
        raise Declined(f"{short(step)} gives {layout.extent(shape)} pixels, its value has {b.extent}")


def _make(
    b: Builder,
    step: Step,
    value: Value,
    kind: Kind,
    width: int,
    window: dict[str, int] | None = None,
    weight: Constant | None = None,
    bias: Constant | None = None,
) -> Value:
    if kind in (Kind.CONV, Kind.MAXPOOL) and value.computed and b.producer.kind == Kind.CONV:
        b.end_stage(value, short(step))
        view = None
    else:
        view = b.map_of(value, short(step))
    return b.result(step, b.produce(Producer(kind, width, view, window or {}, weight, bias), value))


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
        raise Declined("a convolution over three dimensions of pixels")
    _begin(b, step)
    _image(b, step, value)
    kernel = weight.shape[2:]
    pads = explicit_padding(dict(given), kernel)
    single = kernel == (1, 1) and groups == 1 and pads == [(0, 0), (0, 0)] and gate is None
    if single and value.pixels[1:] == (1, 1) and (value.computed or b.more_linear):
        return linear(b, value, weight, bias, step)
    (sy, sx), (dy, dx) = pair(given["stride"]), pair(given["dilation"])
    window = {
        "kh": kernel[0], "kw": kernel[1], "sy": sy, "sx": sx, "py": pads[0][0], "px": pads[1][0],
        "dy": dy, "dx": dx, "groups": groups, "gate": 0 if gate is None else 1 + _gate(b, step, gate),
    }  # fmt: skip
    return _make(b, step, value, Kind.CONV, weight.shape[0], window, weight, bias)


def _gate(b: Builder, step: Step, gate: Value) -> int:
    """The argument that scales the input's channels."""
    b.reached(gate, "whole")
    view = side_by_side(b.map_of(gate, short(step)))
    return -1 - b.add_argument(view)


def transposed(b: Builder, step: Step) -> Value:
    """``conv_transpose2d``."""
    given = step.arguments
    value, weight = b.value(given["input"]), b.known(given["weight"], "its weight")
    _image(b, step, value)
    groups = int(given["groups"])
    (sy, sx), (py, px), (dy, dx) = pair(given["stride"]), pair(given["padding"]), pair(given["dilation"])
    window = {
        "kh": weight.shape[2], "kw": weight.shape[3], "sy": sy, "sx": sx, "py": py, "px": px,
        "dy": dy, "dx": dx, "groups": groups,
    }  # fmt: skip
    if value.tensor is not None and b.map_of(value, short(step)).strides[3] != 1:
        raise Declined("a transposed convolution of channels that are no neighbours in memory")
    return _make(b, step, value, Kind.TRANSPOSED, weight.shape[1] * groups, window, weight, _bias(b, step))


def linear_layer(b: Builder, step: Step) -> Value:
    """``linear`` over the channels: a 1x1 convolution, or one of a flattened map over all its pixels."""
    given = step.arguments
    value, weight, bias = b.value(given["input"]), b.known(given["weight"], "its weight"), _bias(b, step)
    outputs, inputs = weight.shape
    shape, layout = result_layout(step)
    if layout.extent(shape) != b.extent:
        raise Declined(f"{short(step)} gives {layout.extent(shape)} pixels, its value has {b.extent}")
    if value.unrolled is not None:
        return _over_all_pixels(b, step, value.unrolled, weight, bias)
    if channels(value) != inputs or channel_dims(value) not in ([len(value.shape) - 1], []):
        raise Declined("a linear layer along some of the channels")
    if value.computed or (b.more_linear and value.pixels[1:] == (1, 1)):
        return linear(b, value, weight, bias, step)
    window = dict.fromkeys(("kh", "kw", "sy", "sx", "dy", "dx", "groups"), 1) | {"py": 0, "px": 0}
    wide = combined([weight], lambda w: w.view(outputs, inputs, 1, 1), (outputs, inputs, 1, 1))
    return _make(b, step, value, Kind.CONV, outputs, window, wide, bias)


def _over_all_pixels(b: Builder, step: Step, value: Value, weight: Constant, bias: Constant | None) -> Value:
    _, depth, height, width = value.shape
    shape = (weight.shape[0], depth, height, width)
    window = {"kh": height, "kw": width} | dict.fromkeys(("sy", "sx", "dy", "dx", "groups"), 1)
    wide = combined([weight], lambda w: w.view(shape), shape)
    return _make(b, step, value, Kind.CONV, shape[0], window | {"py": 0, "px": 0}, wide, bias)


def max_pool(b: Builder, step: Step) -> Value:
    """``max_pool2d``."""
    given = step.arguments
    value = b.value(given["self"])
    _begin(b, step)
    _image(b, step, value)
    (kh, kw), (sy, sx) = pair(given["kernel_size"]), pair(given["stride"] or given["kernel_size"])
    (py, px), (dy, dx) = pair(given["padding"]), pair(given["dilation"])
    window = {"kh": kh, "kw": kw, "sy": sy, "sx": sx, "py": py, "px": px, "dy": dy, "dx": dx, "groups": 1}
    return _make(b, step, value, Kind.MAXPOOL, channels(value), window)


# ---------------------------------------------------------------- means


def _mean(b: Builder, step: Step, value: Value, factor: float = 1.0) -> Value:
    if b.extent[1:] != (1, 1):
        raise Declined("a mean over all pixels in the region of a map")
    if value.pixels[1:] == (1, 1):
        if value.tensor is None:
            return replace(value, shape=step.shape or (), layout=step.layout or value.layout)
        at = b.operand(value, value.shape, value.layout)
        return b.result(step, b.emit(EpiOp.COPY, at))
    made = _make(b, step, value, Kind.MEAN, channels(value))
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
        raise Declined(f"{short(step)} runs over channels")
    if any(value.shape[d] > 1 for d in pixels - over):
        raise Declined(f"{short(step)} runs over rows or columns alone")
    count = math.prod(value.pixels[1:])
    return _mean(b, step, value, float(count) if step.target.startswith("aten.sum") else 1.0)


# ---------------------------------------------------------------- tables


def _separable(b: Builder, step: Step, value: Value, rows: Axis, columns: Axis) -> Value:
    view = b.map_of(value, short(step))
    tables = table(rows), table(columns)
    producer = Producer(Kind.SEPARABLE, channels(value), view, tables=tables)
    return b.result(step, b.produce(producer, value))


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
    if whole and divisor is None and _is_image(value) and b.extent[1:] == (1, 1):
        return _mean(b, step, value)

    def options(i: int) -> tuple[Any, ...]:
        once = None if divisor is None else (int(divisor) if i == 0 else 1)  # the divisor counts once
        ceil, include = bool(given["ceil_mode"]), bool(given["count_include_pad"])
        return kernel[i], stride[i], padding[i], ceil, include, once

    return _axes(b, step, value, "average", options)


def adaptive_pool(b: Builder, step: Step) -> Value:
    """``adaptive_avg_pool2d``; to one pixel it is a mean."""
    value = b.value(step.arguments["self"])
    if (step.shape or ())[2:] == (1, 1) and len(value.shape) == 4 and _is_image(value):
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
            raise Declined("padding with another constant than 0")
        shape, layout = result_layout(step)
        ndim, by_dim = (
            len(shape),
            {len(shape) - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)},
        )
        if any(any(p) for d, p in by_dim.items() if d not in (layout.h, layout.w)):
            raise Declined("padding of channels")
        if (
            layout.h is None
            or layout.w is None
            or layout.extent(shape) != b.extent
            or ndim != len(value.shape)
        ):
            raise Declined("padding of a value without pixels")
        axes = [
            Axis("pad", value.shape[d], shape[d], (*by_dim.get(d, (0, 0)), how), b.dtype)
            for d in (layout.h, layout.w)
        ]
        return _separable(b, step, value, *axes)

    return rule


# ---------------------------------------------------------------- layout


def move(b: Builder, step: Step) -> Value:
    """Views: the strides of a buffer change; a computed value keeps the order of its channels or declines."""
    given = step.arguments
    first = next(iter(given))
    value = b.value(given[first])
    shape, layout = result_layout(step)
    if value.unrolled is not None and value.shape != shape:
        raise Declined("a flattened map is used other than by a linear layer")
    if value.tensor is None:
        return _move_computed(value, step)
    literals = {k: v for k, v in given.items() if k != first}
    try:
        moved = step.function(value.tensor, **literals)
        if moved.untyped_storage()._cdata != value.tensor.untyped_storage()._cdata:
            raise RuntimeError("it copies")
    except (RuntimeError, TypeError) as error:
        if _is_image(value) and not value.cropped and shape == (value.shape[0], math.prod(value.shape[1:])):
            return replace(value, shape=shape, layout=layout, unrolled=value)
        raise Declined(f"{short(step)} needs a copy of {value.shape} as {shape}") from error
    return replace(value, shape=shape, layout=layout, tensor=moved, crop=_crop_after(value, step, shape))


def _crop_after(value: Value, step: Step, shape: tuple[int, ...]) -> tuple[range, range]:
    name, given = step.target, step.arguments
    if not name.startswith(("aten.slice", "aten.select", "aten.narrow")):
        return value.crop
    dim = normal(int(given["dim"]), len(value.shape))
    if dim not in (value.layout.h, value.layout.w):
        return value.crop
    if "select" in name:
        index = normal(int(given["index"]), value.shape[dim])
        left = slice(index, index + 1)
    elif "narrow" in name:
        start = normal(int(given["start"]), value.shape[dim])
        left = slice(start, start + int(given["length"]))
    else:
        left = slice(given["start"], given["end"], given["step"])
    rows, columns = value.crop
    return (rows[left], columns) if dim == value.layout.h else (rows, columns[left])


def _move_computed(value: Value, step: Step) -> Value:
    shape, layout = result_layout(step)
    after = Value(shape, layout, number=value.number, stage=value.stage)
    name = step.target
    if after.pixels != value.pixels or channels(after) != channels(value):
        raise Declined(f"{short(step)} of a value that is not kept")
    if name.startswith(_PERMUTES) and len(channel_dims(value)) > 1:
        raise Declined(f"{short(step)} of a value that is not kept")
    return after


_PERMUTES = ("aten.permute", "aten.transpose", "aten.movedim", "aten.t.", "aten.swapaxes", "aten.mT")

_MOVES = (
    "view.default", "reshape.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
    "squeeze.dim", "squeeze.dims", "squeeze.default", "_unsafe_view.default", "permute.default",
    "transpose.int", "movedim.int", "t.default", "mT.default", "swapaxes.default", "expand.default",
    "slice.Tensor", "select.int", "narrow.default",
)  # fmt: skip

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
    **dict.fromkeys(_MOVES, move),
}
