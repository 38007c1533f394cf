"""Resampling: nearest and bilinear, padding of every mode, pixel shuffle."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import arguments, input_node
from videoeff.ops.axis_tables import Axis, reads, table
from videoeff.ops.base import (
    Case,
    Lambda,
    Masks,
    NotLocal,
    Op,
    Reach,
    bind,
    layout_of,
    op_name,
    overloads,
    register,
    require_image,
    shape_of,
)
from videoeff.ops.home import Home, table_home


@register
class Upsample(Op):
    """``interpolate`` in the modes nearest, nearest-exact and bilinear, to any size."""

    name = "upsample"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Interpolations whose result pixel reads at most four pixels."""
        return overloads(
            "upsample_nearest2d.vec", "upsample_nearest2d.default", "_upsample_nearest_exact2d.vec",
            "_upsample_nearest_exact2d.default", "upsample_bilinear2d.vec", "upsample_bilinear2d.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        layout = layout_of(node.args[0])
        require_image(layout, 4)
        return layout

    def _axes(self, node: fx.Node) -> tuple[Axis, Axis]:
        bound, source, dtype = bind(node), input_node(node), info(node).dtype
        assert dtype is not None  # a local node is a tensor
        scales = bound.get("scale_factors") or (bound.get("scales_h"), bound.get("scales_w"))
        align = (bool(bound["align_corners"]),) if "align_corners" in bound else ()
        sizes = zip(shape_of(source)[-2:], shape_of(node)[-2:], scales, strict=True)
        mode = _MODES[op_name(node)]
        rows, columns = (Axis(mode, size, out, (*align, scale), dtype) for size, out, scale in sizes)
        return rows, columns

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The nearest pixels."""
        homes = [table_home(t.index, t.weight) for t in map(table, self._axes(node))]
        return None if homes[0] is None or homes[1] is None else (homes[0], homes[1])

    def reach(self, node: fx.Node) -> Reach:
        """A result pixel that reads a changed one with a weight other than 0."""
        source = input_node(node)
        rows, columns = map(reads, self._axes(node))
        key, extent = source.name, layout_of(source).extent(shape_of(source))

        def reach(masks: Masks) -> Tensor:
            mask = masks[key].expand(extent)
            mask = mask[:, rows.to(mask.device)].any(2)
            return mask[:, :, columns.to(mask.device)].any(3)

        return reach

    def cases(self) -> Sequence[Case]:
        """Scale factors and sizes, up and down, corners aligned or not."""
        up = nn.Upsample
        return [
            Case("nearest-2", partial(up, scale_factor=2)),
            Case("nearest-size", partial(up, size=(23, 17))),
            Case("nearest-1.7", partial(up, scale_factor=1.7)),
            Case("nearest-down", partial(up, size=(5, 6))),
            Case("nearest-exact", partial(up, size=(23, 17), mode="nearest-exact")),
            Case("bilinear-2", partial(up, scale_factor=2, mode="bilinear")),
            Case("bilinear-corners", partial(up, scale_factor=3, mode="bilinear", align_corners=True)),
            Case("bilinear-size", partial(up, size=(23, 17), mode="bilinear")),
            Case("bilinear-down", partial(up, size=(5, 6), mode="bilinear")),
            Case("bilinear-1.3", partial(up, scale_factor=1.3, mode="bilinear")),
        ]


_MODES = {
    "upsample_nearest2d": "nearest",
    "_upsample_nearest_exact2d": "nearest-exact",
    "upsample_bilinear2d": "bilinear",
}
_PAD_MODES = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}


@register
class Pad(Op):
    """Padding of the pixel dimensions (and of channels with constants), every mode."""

    name = "pad"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Padding overloads."""
        return overloads(
            "pad.default", "constant_pad_nd.default", "reflection_pad2d.default", "replication_pad2d.default",
        )  # fmt: skip

    def _mode(self, node: fx.Node) -> tuple[str, list[int]]:
        bound = bind(node)
        pads = bound.get("pad", bound.get("padding"))
        mode = _PAD_MODES.get(op_name(node), "constant")
        return str(bound.get("mode", mode)), [int(p) for p in pads or ()]

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout; streams must not be padded."""
        layout, (_, pads) = layout_of(node.args[0]), self._mode(node)
        ndim = len(shape_of(node))
        padded = [ndim - 1 - i // 2 for i, p in enumerate(pads) if p]
        if layout.rows in padded:
            raise NotLocal("it pads streams")
        return layout

    def _amounts(self, node: fx.Node) -> tuple[tuple[int, int], tuple[int, int]]:
        """What is added before and after the pixel rows, and the pixel columns."""
        pads, layout, ndim = self._mode(node)[1], layout_of(node.args[0]), len(shape_of(node))
        amount = {ndim - 1 - i // 2: (pads[i], pads[i + 1]) for i in range(0, len(pads), 2)}
        h_pad = amount.get(layout.h, (0, 0)) if layout.h is not None else (0, 0)
        w_pad = amount.get(layout.w, (0, 0)) if layout.w is not None else (0, 0)
        return h_pad, w_pad

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The same pixel, or at the edge the nearest one; none where the padding repeats other pixels."""
        amounts, mode = self._amounts(node), self._mode(node)[0]
        if mode == "circular" and any(amounts[0] + amounts[1]):
            return None
        rows, columns = (
            ((torch.arange(out) - before).clamp(0, size - 1),) * 2
            for (before, _), size, out in zip(amounts, _pixels(source), _pixels(node), strict=True)
        )
        return rows, columns

    def reach(self, node: fx.Node) -> Reach:
        """The mask padded in the same way; constants never change."""
        source, mode = input_node(node), self._mode(node)[0]
        layout, (h_pad, w_pad) = layout_of(source), self._amounts(node)
        name, extent = source.name, layout.extent(shape_of(source))
        if not any((*h_pad, *w_pad)):
            return lambda masks: masks[name]

        def reach(masks: Masks) -> Tensor:
            mask = masks[name].expand(extent).to(torch.float32).unsqueeze(1)
            return F.pad(mask, (*w_pad, *h_pad), mode=mode).squeeze(1) > 0

        return reach

    def cases(self) -> Sequence[Case]:
        """Modes, negative padding, channels, channels-last maps."""
        cases = [
            Case(mode, partial(Lambda, partial(_pad, pads=(1, 2, 3, 0), mode=mode)))
            for mode in ("constant", "reflect", "replicate", "circular")
        ]
        cases.append(Case("crop", partial(Lambda, partial(_pad, pads=(-1, 2, 0, -3), mode="constant"))))
        cases.append(
            Case("channels", partial(Lambda, partial(_pad, pads=(0, 0, 0, 0, 1, 2), mode="constant")))
        )
        cases.append(
            Case("nhwc", partial(Lambda, lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 1, 2, 0)).relu()))
        )
        return cases


def _pixels(node: fx.Node) -> tuple[int, int]:
    _, height, width = layout_of(node).extent(shape_of(node))
    return height, width


def _pad(x: Tensor, pads: tuple[int, ...], mode: str) -> Tensor:
    return F.relu(F.pad(x, pads, mode=mode))


@register
class PixelShuffle(Op):
    """``pixel_shuffle`` and ``pixel_unshuffle``."""

    name = "pixel_shuffle"
    role = "window"

    def targets(self) -> Sequence[Any]:
        """Both directions."""
        return overloads("pixel_shuffle.default", "pixel_unshuffle.default")

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        layout = layout_of(node.args[0])
        require_image(layout, 4)
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """Each pixel becomes a block, or each block a pixel."""
        source, factor = input_node(node), int(arguments(node)[1])
        name, extent = source.name, layout_of(source).extent(shape_of(source))
        shrink = op_name(node) == "pixel_unshuffle"

        def reach(masks: Masks) -> Tensor:
            mask = masks[name].expand(extent)
            if not shrink:
                return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            rows, height, width = mask.shape
            tiles = mask.reshape(rows, height // factor, factor, width // factor, factor)
            return tiles.any(4).any(2)

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixel a block is made of, or the block."""
        factor, shrink = int(arguments(node)[1]), op_name(node) == "pixel_unshuffle"
        at = [torch.arange(size) for size in shape_of(node)[-2:]]
        rows, columns = ((i * factor, (i + 1) * factor - 1) if shrink else (i // factor,) * 2 for i in at)
        return rows, columns

    def cases(self) -> Sequence[Case]:
        """Up and down."""
        return [
            Case("up", partial(nn.PixelShuffle, 2)),
            Case("down", partial(nn.PixelUnshuffle, 2), ((2, 3, 8, 12),)),
        ]
