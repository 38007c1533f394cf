"""Regions of a planned Program as calls for a kernel."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from videoeff.analysis.predict import magnitude_terms, residual_terms
from videoeff.analysis.regions import Region
from videoeff.errors import LoweringError
from videoeff.ir.layout import info, streamed_info
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import input_node
from videoeff.kernels.call import Bound, Input, Prediction, Reach, RegionCall, StateSpec, Test
from videoeff.kernels.computation import Computation, Operand
from videoeff.lowering.buffers import needs_scale
from videoeff.lowering.computation import computation_of
from videoeff.ops.base import Op, bind, op_of, pair, shape_of
from videoeff.ops.base import Reach as ReachRule
from videoeff.ops.convolution import explicit_padding


def predictions_of(found: Sequence[Region]) -> dict[str, Prediction]:
    """The predicted changes of the regions that have them switched on, by layer name.

    Raises:
        LoweringError: they cannot be predicted there.
    """
    result: dict[str, Prediction] = {}
    for region in found:
        factor = float(cache_option(region.cache, "predict"))
        if factor <= 0 or float(cache_option(region.cache, "threshold")) <= 0:
            continue
        anchor = region.anchors[0]
        bound = bind(anchor)
        sources, residuals = magnitude_terms(bound["input"]), residual_terms(region)
        if sources is None or residuals is None:
            raise LoweringError(f"{region.name}: changes cannot be predicted here; set its predict to 0")
        pads = explicit_padding(bound, shape_of(bound["weight"])[2:])
        stride, dilation = pair(bound["stride"]), pair(bound["dilation"])
        result[region.name] = Prediction(
            factor,
            tuple((cache_name(n), w) for n, w in sources),
            tuple((cache_name(n), w) for n, w in residuals),
            str(bound["weight"].target),
            (stride[0], stride[1]),
            (pads[0], pads[1]),
            (dilation[0], dilation[1]),
            f"{region.name}.pending",
        )
    return result


@dataclass(frozen=True)
class Surroundings:
    """What all regions of a Program share.

    Attributes:
        states: every buffer of the plan.
        buffers: the same without memory.
        predicted: what :func:`predictions_of` found.
        bounds: what ``bounds_of`` found.
        wanted: layers whose magnitudes some prediction reads.
        inputs: the number of each frame tensor.
        device: the kind of device.
    """

    states: Mapping[str, StateSpec]
    buffers: Mapping[str, Tensor]
    predicted: Mapping[str, Prediction]
    bounds: Mapping[str, Bound]
    wanted: Collection[str]
    inputs: Mapping[fx.Node, int]
    device: str


def region_call(region: Region, around: Surroundings) -> RegionCall:
    """One region as a call."""
    cache, value = region.cache, streamed_info(region.cache)
    name, producer = region.name, input_node(cache)
    test = Test(
        cache_option(cache, "test"),
        float(cache_option(cache, "threshold")),
        int(cache_option(cache, "block")),
        int(cache_option(cache, "dilation")),
        cache_option(cache, "noise"),
        float(cache_option(cache, "weak")),
        int(cache_option(cache, "grow")),
        cache_option(cache, "watched"),
    )
    source: Input | Computation[Operand]
    reach, dense = None, ""
    if producer in around.inputs:
        source = Input(around.inputs[producer])
    else:
        source, dense = computation_of(producer), region.dense
        reach = None if dense else _reach_of(region)
    mask_reads = tuple(
        (cache_name(n), layout.streams)
        for n in region.reads
        if is_cache(n) and (layout := info(n).layout) is not None
    )
    return RegionCall(
        name=name,
        kind=str(cache_option(cache, "kind")),
        layout=value.layout,
        value=around.states[f"{name}.value"],
        scale=f"{name}.scale" if needs_scale(cache) else "",
        test=test,
        source=source,
        reach=reach,
        mask_reads=mask_reads,
        dense=dense,
        macs=region.macs,
        prediction=around.predicted.get(name),
        wants_magnitude=name in around.wanted,
        bound=around.bounds.get(name),
        buffers=around.buffers,
        specs=around.states,
        device=around.device,
        computed=value.dtype,
    )


def _reach_of(region: Region) -> Reach:
    """The masks of a region's nodes, one after the other; constants have none.

    The rules of the nodes are asked when a mask is, which only backends do that have no rules of their own.
    """
    rules: list[tuple[fx.Node, Op]] = []
    for node in region.nodes:
        op = op_of(node)
        if op is None:
            raise LoweringError(
                f"{region.name}: {node.name} ({node.target}) has no rule and is not marked dense"
            )
        rules.append((node, op))
    reads = [(n.name, cache_name(n)) for n in region.reads]
    last = region.nodes[-1].name if region.nodes else reads[0][0]

    @functools.cache
    def steps() -> list[tuple[str, ReachRule]]:
        return [(node.name, op.reach(node)) for node, op in rules]

    def reach(masks: Mapping[str, Tensor]) -> Tensor:
        inner = {node: masks[layer] for node, layer in reads}
        for name, step in steps():
            inner[name] = step(inner)
        return inner[last]

    return reach
