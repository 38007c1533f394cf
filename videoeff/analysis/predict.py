"""Which magnitudes a convolution's expected change is made of."""

from __future__ import annotations

from torch import fx

from videoeff.analysis.regions import Region
from videoeff.ir.layout import info
from videoeff.ir.markers import is_cache, is_concat
from videoeff.ir.program import arguments, input_node
from videoeff.ops.base import bind, normal, op_name, op_of


def magnitude_terms(node: fx.Node) -> list[tuple[fx.Node, float]] | None:
    """The mean squared change of a value as a weighted sum over caches; None if it cannot be told.

    A concatenation's mean over channels is its parts' means weighted by their channels; a slice of
    channels is given the mean of the whole, which is what is known about it.
    """
    if is_cache(node):
        return [(node, 1.0)]
    op = op_of(node)
    if is_concat(node) or (op is not None and op.name == "concat"):
        total = info(node).numel
        terms: list[tuple[fx.Node, float]] = []
        for part in arguments(node)[0]:
            inner = magnitude_terms(part)
            if inner is None or _pixels(part) != _pixels(node):
                return None
            share = info(part).numel / total
            terms += [(cache, weight * share) for cache, weight in inner]
        return terms
    if op is not None and op_name(node) == "slice":
        layout, dim = info(node).layout, int(bind(node)["dim"])
        if layout is not None and normal(dim, len(info(node).shape or ())) not in (
            layout.rows,
            layout.h,
            layout.w,
        ):
            return magnitude_terms(input_node(node))
    return None


def _pixels(node: fx.Node) -> tuple[int, int, int] | None:
    value = info(node)
    return None if value.layout is None or value.shape is None else value.layout.extent(value.shape)


def residual_terms(region: Region) -> list[tuple[fx.Node, float]] | None:
    """The magnitudes of maps that enter the region behind its convolution, with the same pixels."""
    anchor, inside = region.anchors[0], set(region.nodes)
    terms: list[tuple[fx.Node, float]] = []
    for node in region.nodes:
        op = op_of(node)
        if node is anchor or op is None or op.role != "pixel":
            continue
        for source in node.all_input_nodes:
            if info(source).layout is None or (source in inside and _depends(source, anchor)):
                continue
            inner = magnitude_terms(source)
            if inner is None or _pixels(source) != _pixels(region.cache):
                return None
            terms += inner
    return terms


def _depends(node: fx.Node, on: fx.Node) -> bool:
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if current is on:
            return True
        if current in seen or is_cache(current) or current.op != "call_function":
            continue
        seen.add(current)
        stack.extend(current.all_input_nodes)
    return False


def not_predicted(region: Region) -> str:
    """Why the changes of a region cannot be predicted, "" if they can."""
    if region.dense:
        return region.dense
    anchors = region.anchors
    if len(anchors) != 1 or op_name(anchors[0]) != "conv2d":
        return "it is not a plain convolution"
    if magnitude_terms(input_node(anchors[0])) is None:
        return "the magnitude of its input's change is not kept"
    if residual_terms(region) is None:
        return "a map of other pixels enters behind the convolution"
    return ""
