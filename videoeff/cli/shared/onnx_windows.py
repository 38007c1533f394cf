"""What the operators of ONNX that look at neighbouring pixels compute, in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from videoeff.cli.shared.onnx_ops import OPERATORS, Node, NotHere, operator, text

__all__ = ["OPERATORS"]  # all of them, once those here are declared


def _pads(
    node: Node, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """[begin of each dimension..., end of each dimension...]."""
    auto = text(node.get("auto_pad", "NOTSET"))
    if auto in ("NOTSET", ""):
        return node.ints("pads", [0] * 2 * len(kernel))
    if auto == "VALID":
        return [0] * 2 * len(kernel)
    begin, end = [], []
    for size, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return begin + end


def _surround(x: Tensor, pads: Sequence[int], value: float) -> Tensor:
    half = len(pads) // 2
    order = [p for i in reversed(range(half)) for p in (pads[i], pads[half + i])]
    return F.pad(x, order, value=value)


def _even(pads: Sequence[int]) -> bool:
    half = len(pads) // 2
    return list(pads[:half]) == list(pads[half:])


@operator("Conv")
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    pads = _pads(node, x, kernel, strides, dilations)
    if not _even(pads):
        x, pads = _surround(x, pads, 0.0), [0] * len(pads)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    found: Tensor = function(x, weight, bias, strides, pads[: len(kernel)], dilations, node.get("group", 1))
    return found


@operator("ConvTranspose")
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    if text(node.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID", "") or node.ints("output_shape"):
        raise NotHere("its padding is chosen by the output's shape")
    pads = node.ints("pads", [0] * 2 * len(kernel))
    if not _even(pads):
        raise NotHere(f"its padding {pads} is uneven")
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(kernel)]
    extra = node.ints("output_padding", [0] * len(kernel))
    found: Tensor = function(
        x, weight, bias, node.ints("strides", ones), pads[: len(kernel)], extra, node.get("group", 1),
        node.ints("dilations", ones),
    )  # fmt: skip
    return found


@operator("MaxPool", "AveragePool")
def _pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.ints("kernel_shape")
    ones = [1] * len(kernel)
    strides, dilations = node.ints("strides", ones), node.ints("dilations", ones)
    if node.outputs > 1:
        raise NotHere("its indices are read")
    pads, ceil = _pads(node, x, kernel, strides, dilations), bool(node.get("ceil_mode", 0))
    if node.kind == "MaxPool":
        if not _even(pads) or any(2 * p > k for p, k in zip(pads, kernel, strict=False)):
            x, pads = _surround(x, pads, -math.inf), [0] * len(pads)
        maximum = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
        found: Tensor = maximum(x, kernel, strides, pads[: len(kernel)], dilations, ceil)
        return found
    if dilations != ones:
        raise NotHere("it is dilated")
    mean: Callable[..., Tensor] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    counted = bool(node.get("count_include_pad", 0))
    if _even(pads):
        return mean(x, kernel, strides, pads[: len(kernel)], ceil, counted)
    whole = mean(_surround(x, pads, 0.0), kernel, strides, 0, ceil)
    if counted:
        return whole
    return whole / mean(_surround(torch.ones_like(x[:1, :1]), pads, 0.0), kernel, strides, 0, ceil)


@operator("Resize", "Upsample")
def _resize(node: Node, x: Tensor, *rest: Any) -> Tensor:
    scales: Any
    sizes: Any
    known = [None if v is None or not v.size else v for v in rest]
    if node.kind == "Upsample" or node.opset < 11:
        scales, sizes = (known or [node.get("scales", None)])[0], None
        way = "asymmetric"
    else:
        _, scales, sizes = (*known, None, None, None)[:3]
        way = text(node.get("coordinate_transformation_mode", "half_pixel"))
    mode = text(node.get("mode", "nearest"))
    axes = [a % x.ndim for a in node.ints("axes", range(x.ndim))]
    if node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise NotHere("it is antialiased, or leaves out what is outside")
    if text(node.get("keep_aspect_ratio_policy", "stretch")) != "stretch":
        raise NotHere("it keeps the aspect ratio")
    target = list(x.shape)
    for position, axis in enumerate(axes):
        target[axis] = (
            math.floor(x.shape[axis] * float(scales[position])) if sizes is None else int(sizes[position])
        )
    if target[:2] != list(x.shape[:2]):
        raise NotHere("it resizes the batch or the channels")
    size = target[2:]
    if size == list(x.shape[2:]):
        return x
    fixed = _resize_mode(mode, way, node, [t / s for t, s in zip(size, x.shape[2:], strict=True)], x.ndim)
    return F.interpolate(x, size=size, **fixed)


def _resize_mode(mode: str, way: str, node: Node, factors: Sequence[float], ndim: int) -> dict[str, Any]:
    """How PyTorch calls a way to resize."""
    whole = all(f >= 1 and f == int(f) for f in factors)
    if mode == "nearest":
        rounding = text(node.get("nearest_mode", "round_prefer_floor"))
        if way == "asymmetric" and (rounding == "floor" or node.opset < 11):
            return {"mode": "nearest"}
        if way in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round_prefer") and whole:
            return {"mode": "nearest"}
        raise NotHere(f"nearest with {way} and {rounding}")
    if (mode == "linear" and ndim == 4) or mode == "cubic":
        word = "bilinear" if mode == "linear" else "bicubic"
        if mode == "cubic" and not math.isclose(node.get("cubic_coeff_a", -0.75), -0.75):
            raise NotHere("its cubic has another coefficient")
        if way == "align_corners":
            return {"mode": word, "align_corners": True}
        if way in ("half_pixel", "pytorch_half_pixel"):
            return {"mode": word, "align_corners": False}
    raise NotHere(f"{mode} with {way}")


@operator("Pad")
def _pad(node: Node, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    given = node.ints("pads") if pads is None else [int(v) for v in pads]
    along = [a % x.ndim for a in (range(x.ndim) if axes is None else [int(a) for a in axes])]
    begin, end = [0] * x.ndim, [0] * x.ndim
    for position, axis in enumerate(along):
        begin[axis], end[axis] = given[position], given[len(along) + position]
    constant = node.get("value", 0.0) if value is None else value.item()
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        text(node.get("mode", "constant"))
    )
    if mode is None:
        raise NotHere(f"its mode is {text(node.get('mode', ''))}")
    if mode == "constant":
        return _surround(x, begin + end, constant)
    if any(begin[:-2] + end[:-2]):
        raise NotHere(f"it pads by {mode} more than rows and columns")
    return F.pad(x, [begin[-1], end[-1], begin[-2], end[-2]], mode=mode)
