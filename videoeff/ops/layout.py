"""Ops that put values together or take them apart: concatenate, slice. They keep no buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.markers import cache_option, concat, delta_cache
from videoeff.ir.program import arguments, input_node
from videoeff.ops.base import (
    Case,
    Lambda,
    Masks,
    NotLocal,
    Op,
    Reach,
    bind,
    layout_of,
    normal,
    op_name,
    overloads,
    register,
    shape_of,
)
from videoeff.ops.home import Home, same_home
from videoeff.ops.pixel import any_mask

#: The mask's axis of each role.
ROLE_AXIS = {"rows": 0, "h": 1, "w": 2}


def moved(layout: PixelLayout, where: dict[int, int]) -> PixelLayout:
    """The layout after dimension ``d`` went to ``where[d]``; roles without a place are lost."""
    rows = None if layout.rows is None else where.get(layout.rows)
    return PixelLayout(
        rows,
        None if layout.h is None else where.get(layout.h),
        None if layout.w is None else where.get(layout.w),
        layout.streams if rows is not None else None,
    )


def _role_at(layout: PixelLayout, dim: int) -> str | None:
    return next((r for r in ROLE_AXIS if getattr(layout, r) == dim), None)


@register
class DeltaCache(Op):
    """The marker of a kept value: it declares its layout itself."""

    name = "delta_cache"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """The marker."""
        return [delta_cache]

    def layout(self, node: fx.Node) -> PixelLayout:
        """As written in the call."""
        rows, h, w = cache_option(node, "layout")
        streams = cache_option(node, "streams")
        return PixelLayout(rows, h, w, None if streams is None else tuple(streams))

    def reach(self, node: fx.Node) -> Reach:
        """The mask of its value."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """A bare pair of caches."""
        return [Case("relu-chain", partial(Lambda, lambda x: torch.relu(x) * 2.0))]


@register
class Concat(Op):
    """``cat`` and ``stack``; over pixels and streams too, and the planned ``concat`` marker."""

    name = "concat"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """Concatenations."""
        return [*overloads("cat.default", "stack.default"), concat]

    def _parts(self, node: fx.Node) -> tuple[list[fx.Node], int, bool]:
        options: dict[str, Any] = dict(node.kwargs) if node.target is concat else bind(node)
        parts: list[fx.Node] = list(arguments(node)[0])
        return parts, normal(int(options["dim"]), len(shape_of(node))), op_name(node) == "stack"

    def layout(self, node: fx.Node) -> PixelLayout:
        """The parts' common layout; streams joined where the batch is concatenated."""
        parts, dim, stacked = self._parts(node)
        layouts = [info(p).layout for p in parts]
        known = [lay for lay in layouts if lay is not None]
        best = max(known, key=lambda lay: (lay.h is not None) + (lay.w is not None) + (lay.rows is not None))
        for lay in known:
            for name in ROLE_AXIS:
                own, common = getattr(lay, name), getattr(best, name)
                if own is not None and common is not None and own != common:
                    raise NotLocal("its parts keep their pixels in different dimensions")
        if stacked:
            ndim = len(shape_of(parts[0]))
            return moved(best, {d: d + (d >= dim) for d in range(ndim)})
        role = _role_at(best, dim)
        if role is not None and any(lay is None or getattr(lay, role) != dim for lay in layouts):
            raise NotLocal("it joins pixels with values that have none")
        if role == "rows":
            joined: list[int] | None = []
            for lay in known:
                joined = None if joined is None or lay.streams is None else [*joined, *lay.streams]
            return replace(best, streams=None if joined is None else tuple(joined))
        if any(lay.streams != best.streams for lay in known):
            return replace(best, streams=None)
        return best

    def reach(self, node: fx.Node) -> Reach:
        """Any part's pixel; parts' masks side by side where pixels or streams are joined."""
        parts, dim, stacked = self._parts(node)
        layout = info(node).layout
        assert layout is not None  # reach is asked of local nodes only
        role = None if stacked else _role_at(layout, dim)
        if role is None:
            return any_mask(node)
        axis = ROLE_AXIS[role]
        pieces = [(p.name, layout_of(p).extent(shape_of(p))) for p in parts]
        whole = layout.extent(shape_of(node))

        def reach(masks: Masks) -> Tensor:
            parts = []
            for name, extent in pieces:
                size = list(whole)
                size[axis] = extent[axis]
                parts.append(masks[name].expand(size))
            return torch.cat(parts, axis)

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The same pixel of a part; none where pixels are joined."""
        _, dim, stacked = self._parts(node)
        layout = info(node).layout
        if layout is None or (not stacked and _role_at(layout, dim) in ("h", "w")):
            return None
        return super().home(node, source)

    def cases(self) -> Sequence[Case]:
        """Channels, rows, batch, three parts, one part twice."""
        two = ((2, 4, 9, 8), (2, 3, 9, 8))
        return [
            Case("channels", partial(Lambda, lambda a, b: torch.cat([a, b.relu(), a * 2], 1)), two),
            Case("rows", partial(Lambda, lambda a, b: torch.cat([a[:, :3].relu(), b], 2)), two),
            Case("batch", partial(Lambda, lambda a, b: torch.cat([a[:, :3], b], 0).relu()), two),
            Case("stack", partial(Lambda, lambda a, b: torch.stack([a[:, :3], b], 1).sum(1)), two),
        ]


@register
class Slice(Op):
    """``slice``, ``select`` and ``narrow`` along any dimension."""

    name = "slice"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """Slicing overloads."""
        return overloads("slice.Tensor", "select.int", "narrow.default")

    def _index(self, node: fx.Node) -> tuple[int, slice | int]:
        ndim = len(shape_of(node.args[0]))
        name, bound = op_name(node), bind(node)
        dim = normal(int(bound["dim"]), ndim)
        size = shape_of(node.args[0])[dim]
        if name == "select":
            return dim, normal(int(bound["index"]), size)
        if name == "narrow":
            first = normal(int(bound["start"]), size)
            return dim, slice(first, first + int(bound["length"]), 1)
        start, end, step = slice(bound["start"], bound["end"], bound["step"]).indices(size)
        return dim, slice(start, end, step)

    def layout(self, node: fx.Node) -> PixelLayout:
        """Roles keep their dimension; a selected dimension goes."""
        layout, (dim, index) = layout_of(node.args[0]), self._index(node)
        if isinstance(index, slice):
            if dim == layout.rows and layout.streams is not None:
                return replace(layout, streams=layout.streams[index])
            return layout
        ndim = len(shape_of(node.args[0]))
        result = moved(layout, {d: d - (d > dim) for d in range(ndim) if d != dim})
        if dim == layout.rows and layout.streams is not None:
            return replace(result, streams=(layout.streams[index],))
        return result

    def reach(self, node: fx.Node) -> Reach:
        """The mask sliced in the same way."""
        source, (dim, index) = input_node(node), self._index(node)
        layout = layout_of(source)
        role, name = _role_at(layout, dim), source.name
        if role is None:
            return lambda masks: masks[name]
        axis, extent = ROLE_AXIS[role], layout.extent(shape_of(source))
        where = index if isinstance(index, slice) else slice(index, index + 1, 1)

        def reach(masks: Masks) -> Tensor:
            mask = masks[name]
            if mask.shape[axis] != extent[axis]:
                return mask
            key = [slice(None)] * 3
            key[axis] = where
            return mask[tuple(key)]

        return reach

    def home(self, node: fx.Node, source: fx.Node) -> tuple[Home, Home] | None:
        """The pixel itself."""
        layout, (dim, index) = layout_of(source), self._index(node)
        role = _role_at(layout, dim)
        if role not in ("h", "w"):
            return super().home(node, source)
        sizes = layout.extent(shape_of(source))
        homes = {"h": same_home(sizes[1], sizes[1]), "w": same_home(sizes[2], sizes[2])}
        first = torch.arange(sizes[ROLE_AXIS[role]])[index].reshape(-1)
        homes[role] = (first, first)
        return homes["h"], homes["w"]

    def cases(self) -> Sequence[Case]:
        """Channels, crops, strided crops, the batch."""
        return [
            Case("chunk", partial(Lambda, lambda x: torch.mul(*x.chunk(2, 1)))),
            Case("split", partial(Lambda, lambda x: torch.split(x, [1, 3], 1)[1].relu())),
            Case("crop", partial(Lambda, lambda x: x[:, :, 2:-3, 1:].relu())),
            Case(
                "focus", partial(Lambda, lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)),
                ((2, 3, 8, 12),),
            ),
            Case("select", partial(Lambda, lambda x: x[:, 1].relu())),
        ]  # fmt: skip
