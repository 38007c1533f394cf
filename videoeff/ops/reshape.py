"""Ops that only rename dimensions: reshape, permute, expand. They keep no buffer of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, fx

from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import arguments, input_node
from videoeff.ops.base import (
    Case,
    Lambda,
    Masks,
    NotLocal,
    Op,
    Reach,
    layout_of,
    normal,
    op_name,
    overloads,
    register,
    require_channels,
    shape_of,
)
from videoeff.ops.layout import ROLE_AXIS, moved
from videoeff.ops.pixel import any_mask


def _reduce_lost(source: PixelLayout, result: PixelLayout, mask: Tensor) -> Tensor:
    for role, axis in ROLE_AXIS.items():
        if getattr(source, role) is not None and getattr(result, role) is None:
            mask = mask.any(axis, keepdim=True)
    return mask


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
    elif layout.rows is None and kept.h not in (None, 0) and kept.w not in (None, 0) and result[0] == 1:
        rows, streams = 0, None if streams is None else streams[:1]  # a picture becomes a batch of one
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
        if op_name(node) == "channel_shuffle":
            require_channels(layout_of(source), (1,), "channel_shuffle")
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
        name, args = op_name(node), arguments(node)
        if name == "permute":
            order = [normal(int(d), ndim) for d in args[1]]
        elif name == "movedim":
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
