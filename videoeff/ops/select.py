"""A choice of channels by a constant index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import fx

from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import arguments
from videoeff.ops.base import (
    Case,
    Lambda,
    NotLocal,
    Op,
    Reach,
    layout_of,
    normal,
    overloads,
    register,
    require_channels,
    shape_of,
)
from videoeff.ops.pixel import any_mask


@register
class IndexSelect(Op):
    """``index_select`` over channels with an index that does not change."""

    name = "index_select"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """The selection."""
        return overloads("index_select.default")

    def layout(self, node: fx.Node) -> PixelLayout:
        """The input's layout."""
        source, dim, index = arguments(node)[:3]
        if isinstance(index, fx.Node) and info(index).layout is not None:
            raise NotLocal("its index is computed from the frame")
        layout = layout_of(source)
        require_channels(layout, (normal(int(dim), len(shape_of(source))),), "index_select")
        return layout

    def reach(self, node: fx.Node) -> Reach:
        """The same pixel."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """Channels in another order, some left out."""
        order = torch.tensor([3, 0, 2])
        return [Case("channels", partial(Lambda, lambda x: x.index_select(1, order).relu()))]
