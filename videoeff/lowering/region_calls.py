"""Regions of a planned Program as calls for a kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, fx

from videoeff.analysis.predict import magnitude_terms, residual_terms
from videoeff.analysis.regions import Region
from videoeff.errors import LoweringError
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program, input_node
from videoeff.kernels.call import Prediction, Read, RegionCall, StateSpec, Step, Test
from videoeff.lowering.buffers import device_of, needs_scale
from videoeff.lowering.cone import compile_cone, steps_of
from videoeff.ops.base import bind, op_of, pair, shape_of
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


def region_call(
    program: Program,
    region: Region,
    states: Mapping[str, StateSpec],
    predicted: Mapping[str, Prediction],
    wanted: set[str],
    placeholders: Mapping[fx.Node, int],
    buffers: Mapping[str, Tensor],
) -> RegionCall:
    """One region as a call.

    Args:
        program: the planned Program.
        region: one of its regions.
        states: every buffer of the plan.
        predicted: what :func:`predictions_of` found.
        wanted: layers whose magnitudes some prediction reads.
        placeholders: the number of each frame tensor.
        buffers: the plan's buffers without memory.
    """
    cache, value = region.cache, info(region.cache)
    assert value.layout is not None  # caches stream
    name, kind = region.name, str(cache_option(cache, "kind"))
    source = input_node(cache)
    test = Test(
        cache_option(cache, "test"),
        float(cache_option(cache, "threshold")),
        int(cache_option(cache, "block")),
        int(cache_option(cache, "dilation")),
    )
    reads: tuple[Read, ...] = ()
    constants: tuple[str, ...] = ()
    compute, reach, dense = _identity, None, ""
    steps: tuple[Step, ...] = ()
    result = None
    if source not in placeholders:
        reads, constants, compute = compile_cone(program, [source], single=True)
        steps, result = steps_of(source)
        dense = region.dense
        reach = None if dense else _reach_of(region)
    mask_reads = tuple(
        (cache_name(n), layout.streams)
        for n in region.reads
        if is_cache(n) and (layout := info(n).layout) is not None
    )
    return RegionCall(
        name=name,
        kind=kind,
        layout=value.layout,
        value=states[f"{name}.value"],
        scale=f"{name}.scale" if needs_scale(cache) else "",
        test=test,
        compute=compute,
        reads=reads,
        constants=constants,
        reach=reach,
        mask_reads=mask_reads,
        dense=dense,
        macs=region.macs,
        prediction=predicted.get(name),
        wants_magnitude=name in wanted,
        steps=steps,
        result=result,
        input_index=placeholders.get(source, -1),
        buffers=buffers,
        specs=states,
        device=device_of(program.module).type,
    )


def _identity(*tensors: Tensor) -> Tensor:
    return tensors[0]


def _reach_of(region: Region) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """The masks of a region's nodes, one after the other; constants have none."""
    steps = []
    for node in region.nodes:
        op = op_of(node)
        if op is None:
            raise LoweringError(
                f"{region.name}: {node.name} ({node.target}) has no rule and is not marked dense"
            )
        steps.append((node.name, op.reach(node)))
    reads = [(n.name, cache_name(n)) for n in region.reads]
    last = region.nodes[-1].name if region.nodes else reads[0][0]

    def reach(masks: Mapping[str, Tensor]) -> Tensor:
        inner = {node: masks[layer] for node, layer in reads}
        for name, step in steps:
            inner[name] = step(inner)
        return inner[last]

    return reach
