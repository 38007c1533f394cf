"""Convolutions: any kernel, stride, padding, dilation and groups; transposed; three-dimensional."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout
from videoeff.ops.base import (
    Case,
    Masks,
    Op,
    Reach,
    bind,
    layout_of,
    overloads,
    pair,
    register,
    require_constant,
    require_image,
    shape_of,
)
from videoeff.ops.home import Home, window_home


def explicit_padding(bound: dict[str, Any], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) zeros of each spatial dimension, also for ``padding="same"``."""
    padding, count = bound["padding"], len(kernel)
    dilation = pair(bound["dilation"], count)
    if padding == "valid":
        return [(0, 0)] * count
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    return [(p, p) for p in pair(padding, count)]


@register
class Convolution(Op):
    """``conv2d``, and ``conv3d`` with its depth counted as channels."""

    name = "convolution"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """All spellings of a forward convolution."""
        return overloads("conv2d.default", "conv2d.padding", "conv3d.default", "conv3d.padding")

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        bound = bind(node)
        layout = layout_of(bound["input"])
        require_image(layout, len(shape_of(node)))
        require_constant(node, "its weight or bias")
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """A result pixel whose window holds a changed pixel."""
        bound = bind(node)
        kernel = shape_of(bound["weight"])[2:]
        pads = explicit_padding(bound, kernel)[-2:]
        stride, dilation = pair(bound["stride"], len(kernel))[-2:], pair(bound["dilation"], len(kernel))[-2:]
        name, extent = bound["input"].name, layout_of(bound["input"]).extent(shape_of(bound["input"]))
        if tuple(kernel[-2:]) == (1, 1) and stride == (1, 1) and pads == [(0, 0), (0, 0)]:
            return lambda masks: masks[name].expand(extent)
        around = (pads[1][0], pads[1][1], pads[0][0], pads[0][1])

        def reach(masks: Masks) -> Tensor:
            mask = F.pad(masks[name].expand(extent).to(torch.float32).unsqueeze(1), around)
            return F.max_pool2d(mask, tuple(kernel[-2:]), stride, 0, dilation).squeeze(1) > 0

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixels around the window's centre."""
        bound = bind(node)
        if bound["input"] is not source:
            return None
        kernel = shape_of(bound["weight"])[2:]
        pads = explicit_padding(bound, kernel)
        stride, dilation = pair(bound["stride"], len(kernel)), pair(bound["dilation"], len(kernel))
        rows, columns = (
            window_home(shape_of(source)[i], shape_of(node)[i], kernel[i], stride[i], pads[i][0], dilation[i])
            for i in (-2, -1)
        )
        return rows, columns

    def macs(self, node: fx.Node) -> int:
        """Elements of the result times the weights of one output channel."""
        return math.prod(shape_of(node)) * math.prod(shape_of(bind(node)["weight"])[1:])

    def cases(self) -> Sequence[Case]:
        """Kernels, strides, paddings (all modes, ``same``, asymmetric), dilation, groups, depthwise."""
        conv = nn.Conv2d
        cases = [
            Case("1x1", partial(conv, 4, 6, 1)),
            Case("1x1-stride2", partial(conv, 4, 6, 1, stride=2)),
            Case("3x3", partial(conv, 4, 6, 3, padding=1)),
            Case("3x3-nobias", partial(conv, 4, 6, 3, padding=1, bias=False)),
            Case("3x3-stride2", partial(conv, 4, 6, 3, stride=2, padding=1)),
            Case("3x3-dilated", partial(conv, 4, 6, 3, padding=2, dilation=2)),
            Case("5x5-depthwise", partial(conv, 4, 4, 5, padding=2, groups=4)),
            Case("3x3-depthwise-stride2", partial(conv, 4, 8, 3, stride=2, padding=1, groups=4)),
            Case("3x3-groups2", partial(conv, 4, 6, 3, padding=1, groups=2)),
            Case("1x1-groups2", partial(conv, 4, 6, 1, groups=2)),
            Case("7x7-stride4", partial(conv, 4, 6, 7, stride=4, padding=3)),
            Case("1x3", partial(conv, 4, 6, (1, 3), padding=(0, 1))),
            Case("3x1-stride12", partial(conv, 4, 6, (3, 1), stride=(1, 2))),
            Case("2x2-stride2", partial(conv, 4, 6, 2, stride=2)),
            Case("4x4-stride4", partial(conv, 4, 6, 4, stride=4)),
            Case("3x3-stride3", partial(conv, 4, 6, 3, stride=3)),
            Case("same-even", partial(conv, 4, 6, 4, padding="same")),
            Case("same-dilated", partial(conv, 4, 6, (3, 4), padding="same", dilation=(2, 1))),
            Case("valid", partial(conv, 4, 6, 3, padding="valid")),
            Case("conv3d", partial(nn.Conv3d, 3, 5, 3, padding=1), ((2, 3, 4, 9, 8),)),
            Case("conv3d-stride", partial(nn.Conv3d, 3, 5, 3, stride=2, padding=1), ((2, 3, 4, 9, 8),)),
        ]
        for mode in ("reflect", "replicate", "circular"):
            cases.append(Case(mode, partial(conv, 4, 6, 3, padding=1, padding_mode=mode)))
            cases.append(Case(f"{mode}-wide", partial(conv, 4, 6, 5, padding=(2, 1), padding_mode=mode)))
        cases.append(Case("asymmetric", partial(_Asymmetric)))
        return cases


class _Asymmetric(nn.Module):
    """TensorFlow's ``SAME`` for stride 2: one zero more after than before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return result


@register
class ConvTranspose(Op):
    """``conv_transpose2d`` with every parameter."""

    name = "conv_transpose"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """The transposed convolution."""
        return overloads("conv_transpose2d.input")

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        bound = bind(node)
        layout = layout_of(bound["input"])
        require_image(layout, 4)
        require_constant(node, "its weight or bias")
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """A result pixel that a changed pixel is spread to."""
        bound = bind(node)
        kernel = tuple(shape_of(bound["weight"])[2:])
        stride, padding = pair(bound["stride"]), pair(bound["padding"])
        extra, dilation = pair(bound["output_padding"]), pair(bound["dilation"])
        name, extent = bound["input"].name, layout_of(bound["input"]).extent(shape_of(bound["input"]))

        def reach(masks: Masks) -> Tensor:
            mask = masks[name].expand(extent).to(torch.float32).unsqueeze(1)
            ones = torch.ones((1, 1, *kernel), device=mask.device)
            spread = F.conv_transpose2d(mask, ones, None, stride, padding, extra, 1, dilation)
            return spread.squeeze(1) > 0.5

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixels whose spread has its centre nearest."""
        bound = bind(node)
        if bound["input"] is not source:
            return None
        kernel, stride = shape_of(bound["weight"])[2:], pair(bound["stride"])
        padding, dilation = pair(bound["padding"]), pair(bound["dilation"])
        rows, columns = (
            _spread_home(
                shape_of(source)[i], shape_of(node)[i], kernel[i], stride[i], padding[i], dilation[i]
            )
            for i in (-2, -1)
        )
        return rows, columns

    def macs(self, node: fx.Node) -> int:
        """Elements of the input times the weights each of them meets."""
        bound = bind(node)
        return math.prod(shape_of(bound["input"])) * math.prod(shape_of(bound["weight"])[1:])

    def cases(self) -> Sequence[Case]:
        """Strides, output padding, groups, dilation."""
        conv = nn.ConvTranspose2d
        return [
            Case("4x4-stride2", partial(conv, 4, 6, 4, stride=2, padding=1)),
            Case("2x2-stride2", partial(conv, 4, 6, 2, stride=2)),
            Case("3x3-output-padding", partial(conv, 4, 6, 3, stride=2, padding=1, output_padding=1)),
            Case("6x6-stride4", partial(conv, 4, 6, 6, stride=4, padding=1)),
            Case("3x3-groups-dilated", partial(conv, 4, 6, 3, groups=2, dilation=2)),
            Case("1x1-stride3", partial(conv, 4, 6, 1, stride=3)),
        ]


def _spread_home(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Home:
    """The input pixels, one or two, whose spread has its centre nearest to each pixel."""
    twice = (
        2 * (torch.arange(out) + padding) - (kernel - 1) * dilation
    )  # the place in the input, times 2 stride
    low, high = -((stride - twice) // (2 * stride)), (twice + stride) // (2 * stride)
    return low.clamp(0, size - 1), high.clamp(0, size - 1)
