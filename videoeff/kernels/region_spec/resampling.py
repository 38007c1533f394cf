"""Rules for operators that mix pixels with fixed weights: means, resampling, average pooling, padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from videoeff.kernels.computation import Step
from videoeff.kernels.region_spec.codes import EpiOp
from videoeff.kernels.region_spec.producers import Mean, Resampling
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import Unserved, Value, channels, is_image
from videoeff.kernels.region_spec.windows import produced, require_map
from videoeff.ops.axis_tables import Axis, table
from videoeff.ops.base import normal, pair


def _mean(b: Builder, step: Step, value: Value, factor: float = 1.0) -> Value:
    if b.extent[1:] != (1, 1):
        raise Unserved("a mean over all pixels in the region of a map")
    if value.pixels[1:] == (1, 1):
        if value.tensor is None:
            return replace(value, shape=step.shape or (), layout=step.layout or value.layout)
        at = b.operand(value, value.shape, value.layout)
        return b.result(step, b.emit(EpiOp.COPY, at))
    made = produced(b, step, value, channels(value), Mean)
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


def _separable(b: Builder, step: Step, value: Value, rows: Axis, columns: Axis) -> Value:
    made = partial(Resampling, rows=table(rows), columns=table(columns))
    return produced(b, step, value, channels(value), made)


def _axes(
    b: Builder, step: Step, value: Value, what: str, options: Callable[[int], tuple[Any, ...]]
) -> Value:
    require_map(b, step, value)
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
