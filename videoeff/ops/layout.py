"""Ops that only move values: concatenate, slice, permute, reshape. They keep no buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

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
    overloads,
    register,
    shape_of,
)
from videoeff.ops.markers import cache_option, concat, delta_cache
from videoeff.ops.pixel import any_mask
from videoeff.program import PixelLayout, arguments, info, input_node

_ROLE_AXIS = {"rows": 0, "h": 1, "w": 2}


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
    return next((r for r in _ROLE_AXIS if getattr(layout, r) == dim), None)


def _reduce_lost(source: PixelLayout, result: PixelLayout, mask: Tensor) -> Tensor:
    for role, axis in _ROLE_AXIS.items():
        if getattr(source, role) is not None and getattr(result, role) is None:
            mask = mask.any(axis, keepdim=True)
    return mask


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
        return parts, normal(int(options["dim"]), len(shape_of(node))), "stack" in str(node.target)

    def layout(self, node: fx.Node) -> PixelLayout:
        """The parts' common layout; streams joined where the batch is concatenated."""
        parts, dim, stacked = self._parts(node)
        layouts = [info(p).layout for p in parts]
        known = [lay for lay in layouts if lay is not None]
        best = max(known, key=lambda lay: (lay.h is not None) + (lay.w is not None) + (lay.rows is not None))
        for lay in known:
            for name in _ROLE_AXIS:
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
        axis = _ROLE_AXIS[role]
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
        name, bound = str(node.target), bind(node)
        dim = normal(int(bound["dim"]), ndim)
        size = shape_of(node.args[0])[dim]
        if "select" in name:
            return dim, normal(int(bound["index"]), size)
        if "narrow" in name:
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
        axis, extent = _ROLE_AXIS[role], layout.extent(shape_of(source))
        where = index if isinstance(index, slice) else slice(index, index + 1, 1)

        def reach(masks: Masks) -> Tensor:
            mask = masks[name]
            if mask.shape[axis] != extent[axis]:
                return mask
            key = [slice(None)] * 3
            key[axis] = where
            return mask[tuple(key)]

        return reach

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


def _factor(source: Sequence[int], result: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest groups of dimensions with equal products, ones left out."""
    left = [d for d, s in enumerate(source) if s != 1]
    right = [d for d, s in enumerate(result) if s != 1]
    groups: list[tuple[list[int], list[int]]] = []
    while left or right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        a, b = source[ins[0]], result[outs[0]]
        while a != b:
            if a < b:
                ins.append(left.pop(0))
                a *= source[ins[-1]]
            else:
                outs.append(right.pop(0))
                b *= result[outs[-1]]
        groups.append((ins, outs))
    return groups


def reshaped(layout: PixelLayout, source: Sequence[int], result: Sequence[int]) -> PixelLayout:
    """The layout after a reshape: a role survives where its dimension stays whole.

    The stream dimension also survives being merged with, or split off, what lies inside it.
    """
    if 0 in source:
        raise NotLocal("it has no elements")
    where: dict[int, int] = {}
    streams, rows = layout.streams, None
    for ins, outs in _factor(source, result):
        if len(ins) == len(outs) == 1:
            where[ins[0]] = outs[0]
        elif layout.rows == ins[0] and streams is not None:
            before, after = source[ins[0]], result[outs[0]]
            if after % before == 0:
                rows, streams = outs[0], tuple(s for s in streams for _ in range(after // before))
            elif before % after == 0:
                groups = [streams[i : i + before // after] for i in range(0, before, before // after)]
                if all(len(set(g)) == 1 for g in groups):
                    rows, streams = outs[0], tuple(g[0] for g in groups)
    kept = moved(replace(layout, rows=None), where)
    if layout.rows is not None and layout.rows in where:
        rows = where[layout.rows]
    elif layout.rows is not None and source[layout.rows] == 1 and len(result) > 0 and result[0] == 1:
        rows = 0
    if rows is not None:
        return replace(kept, rows=rows, streams=streams)
    return replace(kept, streams=streams if streams is not None and len(set(streams)) == 1 else None)


@register
class Reshape(Op):
    """``view``, ``reshape``, ``flatten``, ``unsqueeze`` and the like."""

    name = "reshape"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """Reshaping overloads."""
        return overloads(
            "view.default", "reshape.default", "flatten.using_ints", "unflatten.int", "unsqueeze.default",
            "squeeze.dim", "squeeze.dims", "squeeze.default", "_unsafe_view.default", "view_as.default",
            "channel_shuffle.default",
        )  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """Roles whose dimension stays whole survive."""
        source = node.args[0]
        if "channel_shuffle" in str(node.target):
            return layout_of(source)
        return reshaped(layout_of(source), shape_of(source), shape_of(node))

    def reach(self, node: fx.Node) -> Reach:
        """The same mask; lost roles become "anywhere"."""
        source = input_node(node)
        before, after = layout_of(source), info(node).layout
        assert after is not None  # reach is asked of local nodes only
        name = source.name
        rows_before, rows_after = before.extent(shape_of(source))[0], after.extent(shape_of(node))[0]

        def reach(masks: Masks) -> Tensor:
            mask = _reduce_lost(before, after, masks[name])
            if rows_after > rows_before and mask.shape[0] == rows_before > 1:
                mask = mask.repeat_interleave(rows_after // rows_before, 0)
            elif rows_after < rows_before and mask.shape[0] == rows_before:
                mask = mask.reshape(rows_after, -1, *mask.shape[1:]).any(1)
            return mask

        return reach

    def cases(self) -> Sequence[Case]:
        """Channel shuffle, groups of channels, a head."""

        def shuffle(x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w).relu()

        def head(x: Tensor) -> Tensor:
            return x.relu().mean((2, 3)).flatten(1) * 2.0

        def windows(x: Tensor) -> Tensor:
            b, c, h, w = x.shape
            tiles = x.view(b, c, h // 3, 3, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 6, c)
            tiles = tiles.softmax(1)
            return tiles.view(b, h // 3, w // 2, 3, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w).relu()

        return [
            Case("shuffle", partial(Lambda, shuffle)),
            Case("head", partial(Lambda, head)),
            Case("windows", partial(Lambda, windows), ((2, 4, 9, 8),)),
        ]


@register
class Permute(Op):
    """``permute``, ``transpose`` and their kin."""

    name = "permute"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """Permuting overloads."""
        return overloads("permute.default", "transpose.int", "movedim.int", "t.default", "mT.default",
                         "swapaxes.default")  # fmt: skip

    def layout(self, node: fx.Node) -> PixelLayout:
        """Roles follow their dimension."""
        ndim = len(shape_of(node.args[0]))
        order = list(range(ndim))
        name, args = str(node.target), arguments(node)
        if "permute" in name:
            order = [normal(int(d), ndim) for d in args[1]]
        elif "movedim" in name:
            a, b = normal(int(args[1]), ndim), normal(int(args[2]), ndim)
            order.insert(b, order.pop(a))
        elif ndim > 1:  # aten.t leaves a vector as it is
            a, b = (normal(int(d), ndim) for d in (args[1:3] if len(args) > 2 else (-2, -1)))
            order[a], order[b] = order[b], order[a]
        return moved(layout_of(node.args[0]), {old: new for new, old in enumerate(order)})

    def reach(self, node: fx.Node) -> Reach:
        """The same mask, whose order never changes."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """Channels last and back; rows and columns swapped."""
        return [
            Case("nhwc", partial(Lambda, lambda x: x.permute(0, 2, 3, 1).softmax(-1).permute(0, 3, 1, 2))),
            Case("swap", partial(Lambda, lambda x: x.transpose(2, 3).relu())),
        ]


@register
class Expand(Op):
    """``expand``: a value repeated along dimensions of size one."""

    name = "expand"
    role = "layout"

    def targets(self) -> Sequence[Any]:
        """Expanding overloads."""
        return overloads("expand.default", "expand_as.default")

    def layout(self, node: fx.Node) -> PixelLayout:
        """Roles keep their dimension, counted from the end."""
        source = node.args[0]
        before, after = shape_of(source), shape_of(node)
        layout = layout_of(source)
        shift = len(after) - len(before)
        result = moved(layout, {d: d + shift for d in range(len(before))})
        if result.rows is not None and after[result.rows] != before[result.rows - shift]:
            streams = result.streams if len(set(result.streams or ())) == 1 else None
            return replace(result, streams=None if streams is None else streams * after[result.rows])
        return result

    def reach(self, node: fx.Node) -> Reach:
        """The same mask, which broadcasts."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """A pooled vector spread over the map."""

        def spread(x: Tensor) -> Tensor:
            return x + x.mean((2, 3), keepdim=True).expand(-1, -1, 11, 13)

        return [Case("spread", partial(Lambda, spread))]
