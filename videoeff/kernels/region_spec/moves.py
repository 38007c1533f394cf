"""Rules for operators that only move values."""

from __future__ import annotations

import math
from dataclasses import replace

from videoeff.kernels.computation import Step
from videoeff.kernels.region_spec.trace import Builder, Rule, result_layout
from videoeff.kernels.region_spec.values import Unserved, Value, channel_dims, channels, is_image
from videoeff.ops.base import normal


def move(b: Builder, step: Step) -> Value:
    """Views: the strides of a buffer change; a computed value keeps the order of its channels or declines."""
    given = step.arguments
    first = next(iter(given))
    value = b.value(given[first])
    shape, layout = result_layout(step)
    if value.unrolled is not None and value.shape != shape:
        raise Unserved("a flattened map is used other than by a linear layer")
    if value.tensor is None:
        return _move_computed(value, step)
    literals = {k: v for k, v in given.items() if k != first}
    try:
        moved = step.function(value.tensor, **literals)
        if moved.untyped_storage()._cdata != value.tensor.untyped_storage()._cdata:
            raise RuntimeError("it copies")
    except (RuntimeError, TypeError) as error:
        if is_image(value) and not value.cropped and shape == (value.shape[0], math.prod(value.shape[1:])):
            return replace(value, shape=shape, layout=layout, unrolled=value)
        raise Unserved(f"{step.name} needs a copy of {value.shape} as {shape}") from error
    return replace(value, shape=shape, layout=layout, tensor=moved, crop=_crop_after(value, step, shape))


def _crop_after(value: Value, step: Step, shape: tuple[int, ...]) -> tuple[range, range]:
    given = step.arguments
    if step.op not in ("slice", "select", "narrow"):
        return value.crop
    dim = normal(int(given["dim"]), len(value.shape))
    if dim not in (value.layout.h, value.layout.w):
        return value.crop
    if step.op == "select":
        index = normal(int(given["index"]), value.shape[dim])
        left = slice(index, index + 1)
    elif step.op == "narrow":
        start = normal(int(given["start"]), value.shape[dim])
        left = slice(start, start + int(given["length"]))
    else:
        left = slice(given["start"], given["end"], given["step"])
    rows, columns = value.crop
    return (rows[left], columns) if dim == value.layout.h else (rows, columns[left])


def _move_computed(value: Value, step: Step) -> Value:
    shape, layout = result_layout(step)
    after = Value(shape, layout, number=value.number, stage=value.stage)
    if after.pixels != value.pixels or channels(after) != channels(value):
        raise Unserved(f"{step.name} of a value that is not kept")
    if step.op in _PERMUTES and len(channel_dims(value)) > 1:
        raise Unserved(f"{step.name} of a value that is not kept")
    return after


_PERMUTES = ("permute", "transpose", "movedim", "t", "swapaxes", "mT")

_MOVES = (
    "view.default", "reshape.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
    "squeeze.dim", "squeeze.dims", "squeeze.default", "_unsafe_view.default", "permute.default",
    "transpose.int", "movedim.int", "t.default", "mT.default", "swapaxes.default", "expand.default",
    "slice.Tensor", "select.int", "narrow.default",
)  # fmt: skip

RULES: dict[str, Rule] = dict.fromkeys(_MOVES, move)
