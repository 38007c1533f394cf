"""Recompute expansions: values that are cheaper to compute anew than to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from videoeff.analysis.regions import region_of
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.ops.base import bind, op_name, pair, shape_of
from videoeff.ops.convolution import explicit_padding
from videoeff.passes.base import Notes, Pass

_FEW = 256  # products of a pixel and a channel up to which the fringe of a change is cheap


@dataclass(frozen=True)
class RecomputeExpansions(Pass):
    """Mark large maps that are cheap to compute and that one depthwise convolution or maximum alone reads.

    These are the results of 1x1 convolutions, and of those over a few channels that networks begin with; and
    the result of a depthwise convolution that one 1x1 convolution reads. An inverted residual (Sandler et
    al., MobileNetV2, CVPR 2018) widens a map, filters every channel and narrows it again. Its two wide maps
    are most of a network's memory traffic: written, compared and read at every frame. A kernel that computes
    all three convolutions at once needs neither of them. Exact; a kernel that cannot keeps them, and so does
    a threshold, which has to know the value last passed on.

    Attributes:
        least: bytes of a map of one stream from which on it is marked; a smaller one stays in the cache.
            Twice as many where the map behind what reads it has to be kept. A value counts as 4 bytes at
            least: to round and to compare one of bfloat16 or of 8 bits costs no less.
        widest: channels of a map up to which it is marked: of more, neither some rows nor the weights stay in
            the cache while they are recomputed.
    """

    least: int = 3 << 19
    widest: int = 256

    name: ClassVar[str] = "recompute-expansions"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Mark caches."""
        for option in ("least", "widest"):
            value = getattr(self, option)
            if value < 0:
                raise PassError(f"recompute-expansions: {option} must be 0 or larger; it is {value}")
        found = {cache: kind for cache in edit.caches(program) if (kind := _place(cache))}
        changed = False
        for cache, place in found.items():
            after = next((u for user in cache.users for u in _readers(user)), None)
            alone = place == "before" and (after is None or found.get(after) != "behind")
            if self._is_large(cache, 2 if alone else 1):
                changed |= edit.set_option(cache, recompute=True)
        return changed

    def _is_large(self, cache: fx.Node, times: int) -> bool:
        value = info(cache)
        if value.layout is None or value.shape is None or value.dtype is None:
            return False
        rows, height, width = value.layout.extent(value.shape)
        channels = value.numel // (rows * height * width)
        size = value.numel * max(value.dtype.itemsize, torch.float32.itemsize)
        return channels <= self.widest and size >= times * self.least * rows


def _readers(node: fx.Node) -> list[fx.Node]:
    """The caches that a call's result is kept in, behind what is fused with it."""
    if is_cache(node):
        return [node]
    return [found for user in node.users for found in _readers(user)] if len(node.users) == 1 else []


def _place(cache: fx.Node) -> str:
    """Where a map lies: "before" a depthwise convolution or a maximum; "behind" the former, before a 1x1 one.

    "" for any other map, and where more is computed than these two and an activation.
    """
    user = next(iter(cache.users), None)
    if len(cache.users) != 1 or user is None or cache_option(cache, "kind") != "map":
        return ""
    if any(cache_option(cache, option) for option in ("into", "dense")):
        return ""
    region = region_of(cache)
    if len(region.anchors) != 1 or len(region.reads) != 1 or len(region.nodes) > 2:
        return ""
    kinds = _kind(region.anchors[0]), _kind(user)
    if kinds[0] in ("1x1", "small") and kinds[1] in ("depthwise", "maximum"):
        place = "before"
    elif kinds == ("depthwise", "1x1"):
        place = "behind"
    else:
        return ""
    return place if next(iter(bind(user).values())) is cache else ""


def _kind(node: fx.Node) -> str:
    """What a node is: "1x1", "depthwise", "small" (of few inputs) or "maximum"; "" for anything else."""
    name = op_name(node)
    if name not in ("conv2d", "max_pool2d") or info(node).dense:
        return ""
    if name == "max_pool2d":
        return "maximum"
    bound = bind(node)
    weight, source = bound["weight"], bound["input"]
    if weight.op != "get_attr":
        return ""
    outputs, inputs, height, width = shape_of(weight)
    if int(bound["groups"]) == outputs == shape_of(source)[1] and inputs == 1 and outputs > 1:
        return "depthwise"
    if int(bound["groups"]) != 1:
        return ""
    still = explicit_padding(bound, (height, width)) == [(0, 0), (0, 0)] and pair(bound["stride"]) == (1, 1)
    if (height, width) == (1, 1) and still:
        return "1x1"
    return "small" if inputs * height * width <= _FEW else ""
