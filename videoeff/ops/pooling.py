"""Pooling: maximum, average and adaptive, over two or three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout
from videoeff.ir.program import input_node
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
    require_image,
    shape_of,
)
from videoeff.ops.home import Home, window_home


def _image_layout(node: fx.Node) -> PixelLayout:
    layout = layout_of(node.args[0])
    require_image(layout, len(shape_of(node)))
    return layout


@register
class Pool(Op):
    """``max_pool`` and ``avg_pool`` with every parameter, ceiling mode included."""

    name = "pool"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Windowed pooling."""
        return overloads(
            "max_pool2d.default", "avg_pool2d.default", "max_pool3d.default", "avg_pool3d.default"
        )

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        return _image_layout(node)

    def reach(self, node: fx.Node) -> Reach:
        """The same pooling, of the mask."""
        bound, shape = bind(node), shape_of(node)
        count = len(shape) - 2
        kernel = pair(bound["kernel_size"], count)[-2:]
        stride = pair(bound["stride"] or bound["kernel_size"], count)[-2:]
        padding, dilation = pair(bound["padding"], count)[-2:], pair(bound.get("dilation", 1), count)[-2:]
        source = input_node(node)
        name, extent = source.name, layout_of(source).extent(shape_of(source))

        def reach(masks: Masks) -> Tensor:
            mask = masks[name].expand(extent).to(torch.float32).unsqueeze(1)
            pooled = F.max_pool2d(mask, kernel, stride, padding, dilation, bool(bound["ceil_mode"]))
            return pooled.squeeze(1) > 0

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixels around the window's centre."""
        bound, count = bind(node), len(shape_of(node)) - 2
        kernel, dilation = pair(bound["kernel_size"], count), pair(bound.get("dilation", 1), count)
        stride, padding = pair(bound["stride"] or bound["kernel_size"], count), pair(bound["padding"], count)
        rows, columns = (
            window_home(shape_of(source)[i], shape_of(node)[i], kernel[i], stride[i], padding[i], dilation[i])
            for i in (-2, -1)
        )
        return rows, columns

    def cases(self) -> Sequence[Case]:
        """Kernels, strides, padding, dilation, ceiling mode, divisors."""
        return [
            Case("max-2", partial(nn.MaxPool2d, 2)),
            Case("max-3-2-1", partial(nn.MaxPool2d, 3, 2, 1)),
            Case("max-ceil", partial(nn.MaxPool2d, 3, 2, 0, ceil_mode=True)),
            Case("max-dilated", partial(nn.MaxPool2d, (2, 3), 1, 1, 2)),
            Case("max-5-1-2", partial(nn.MaxPool2d, 5, 1, 2)),
            Case("avg-2", partial(nn.AvgPool2d, 2)),
            Case("avg-3-2-1", partial(nn.AvgPool2d, 3, 2, 1)),
            Case("avg-ceil", partial(nn.AvgPool2d, 3, 2, 1, ceil_mode=True, count_include_pad=False)),
            Case("avg-divisor", partial(nn.AvgPool2d, (3, 2), 1, divisor_override=4)),
            Case("max3d", partial(nn.MaxPool3d, 3, 2, 1), ((2, 3, 5, 9, 8),)),
        ]


@register
class AdaptivePool(Op):
    """``adaptive_avg_pool`` and ``adaptive_max_pool`` to any size; to 1x1 it is a global pooling."""

    name = "adaptive_pool"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Adaptive pooling with one result."""
        return overloads(
            "adaptive_avg_pool2d.default", "_adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        return _image_layout(node)

    def reach(self, node: fx.Node) -> Reach:
        """The same adaptive windows, of the mask."""
        size = shape_of(node)[-2:]
        source = input_node(node)
        name, extent = source.name, layout_of(source).extent(shape_of(source))

        def reach(masks: Masks) -> Tensor:
            mask = masks[name].expand(extent)
            if tuple(size) == (1, 1):
                return mask.any(1, keepdim=True).any(2, keepdim=True)
            pooled = F.adaptive_max_pool2d(mask.to(torch.float32).unsqueeze(1), list(size))
            return pooled.squeeze(1) > 0

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixels that are averaged."""
        rows, columns = (_adaptive_home(shape_of(source)[i], shape_of(node)[i]) for i in (-2, -1))
        return rows, columns

    def cases(self) -> Sequence[Case]:
        """To one pixel, to uneven windows, enlarging."""
        return [
            Case("global", partial(nn.AdaptiveAvgPool2d, 1)),
            Case("5x4", partial(nn.AdaptiveAvgPool2d, (5, 4))),
            Case("enlarge", partial(nn.AdaptiveAvgPool2d, (17, 20))),
            Case("3d", partial(nn.AdaptiveAvgPool3d, (2, 3, 4)), ((2, 3, 5, 9, 8),)),
        ]


def _adaptive_home(size: int, out: int) -> Home:
    at = torch.arange(out)
    return at * size // out, -(-(at + 1) * size // out) - 1
