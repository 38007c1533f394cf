"""Lowering: a planned Program becomes a Plan, a flat list of calls with the state they keep.

A Plan's step is a function of (frame, state): it writes the state in place and returns the outputs. Only
``videoeff.engine`` owns buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.analysis import is_convolution, macs
from videoeff.analysis.predict import magnitude_terms, residual_terms
from videoeff.analysis.regions import Region, regions
from videoeff.errors import BackendError, LoweringError
from videoeff.function import compile_cone, steps_of
from videoeff.kernels import IMPLEMENTATIONS, Group, Implementation
from videoeff.ops.base import bind, op_of, pair, shape_of
from videoeff.ops.call import Context, Prediction, Read, RegionCall, Step, Test
from videoeff.ops.convolution import explicit_padding
from videoeff.ops.markers import cache_name, cache_option, is_cache
from videoeff.program import PixelLayout, Program, StateSpec, arguments, info, input_node
from videoeff.rewrite import drop_caches
from videoeff.state import allocate, device_of
from videoeff.verify import verify


@dataclass(frozen=True)
class Instruction:
    """One call, who runs it and why.

    Attributes:
        call: what is computed.
        kernel: the implementation's name.
        reason: why not one with a higher priority, "" for the first.
        streams: whether pixels can be followed through it.
        convolution_macs: multiply-accumulates of its convolutions.
    """

    call: RegionCall
    kernel: str
    reason: str
    streams: bool
    convolution_macs: int


@dataclass(frozen=True)
class Plan:
    """A lowered Program.

    Attributes:
        program: the Program it was made of, less the caches whose values are recomputed.
        instructions: the calls in order.
        steps: what runs them, in order; one step may run several.
        groups: those of the steps that run several calls as one.
        state: every buffer.
        frames: (shape, dtype) of each input tensor.
        outputs: the caches' buffers the outputs are read from.
        read_outputs: from those buffers to the flat outputs (views of them where nothing is moved).
    """

    program: Program
    instructions: tuple[Instruction, ...]
    steps: tuple[Callable[[Context], None], ...]
    groups: tuple[Group, ...]
    state: tuple[StateSpec, ...]
    frames: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    outputs: tuple[Read, ...]
    output_constants: tuple[str, ...]
    read_outputs: Callable[..., tuple[Any, ...]]

    @property
    def state_bytes(self) -> int:
        """Bytes of all buffers, all streams."""
        return sum(s.nbytes for s in self.state)

    def step(self, context: Context) -> None:
        """Run one frame: every call in order."""
        for run in self.steps:
            run(context)

    def read(self, context: Context) -> tuple[Any, ...]:
        """The outputs of the frame that was run."""
        buffers = [r.of(context.state) for r in self.outputs]
        return self.read_outputs(*buffers, *(context.constants[c] for c in self.output_constants))


def choose_implementations(backend: str) -> tuple[Implementation, ...]:
    """The implementations to try, best first.

    Raises:
        BackendError: a backend asked for by name is unknown or cannot serve here.
    """
    if backend == "auto":
        return tuple(i for i in IMPLEMENTATIONS if not i.unavailable())
    found = tuple(i for i in IMPLEMENTATIONS if i.backend == backend)
    names = sorted({i.backend for i in IMPLEMENTATIONS})
    if not found:
        raise BackendError(f"no backend {backend!r} in this version; there are auto, {', '.join(names)}")
    reasons = [i.unavailable() for i in found]
    if all(reasons):
        raise BackendError(f"backend {backend!r} cannot serve here: {reasons[0]}; use backend='auto'")
    return found


def lower(program: Program, backend: str = "auto") -> Plan:
    """Choose an implementation for every region and lay out the state.

    Raises:
        LoweringError: the Program is not planned.
        BackendError: the backend asked for declines a region.
        VerifyError: the Program is not legal.
    """
    if program.stage != "planned":
        raise LoweringError(
            f"{program.name}: the Program is {program.stage}; run insert-delta-caches before lowering"
        )
    verify(program)
    implementations = choose_implementations(backend)
    program = _without_recomputed(program, implementations)
    calls, states = _calls(program, implementations)
    instructions, chosen = [], []
    for region, call in calls:
        implementation, reason = _choose(call, implementations, backend)
        chosen.append(implementation)
        instructions.append(
            Instruction(call, implementation.name, reason, region.traced, _convolution_macs(region))
        )
    steps, groups = _steps([i.call for i in instructions], chosen)
    outputs, constants, read_outputs = _outputs(program)
    frames = tuple(n.meta["input"] for n in program.placeholders)
    return Plan(
        program=program,
        instructions=tuple(instructions),
        steps=steps,
        groups=groups,
        state=tuple(states.values()),
        frames=frames,
        outputs=outputs,
        output_constants=constants,
        read_outputs=read_outputs,
    )


def _calls(
    program: Program, implementations: Sequence[Implementation]
) -> tuple[list[tuple[Region, RegionCall]], dict[str, StateSpec]]:
    """All regions as calls, and the state they keep."""
    found = regions(program)
    predicted = _predictions(found)
    wanted = {name for p in predicted.values() for name, _ in (*p.sources, *p.residuals)}
    device = device_of(program.module).type
    states = _states(found, predicted, lambda channels: _pixel(implementations, channels, device))
    placeholders = {n: i for i, n in enumerate(program.placeholders)}
    buffers = allocate(list(states.values()), torch.device("meta"))
    return [(r, _call(program, r, states, predicted, wanted, placeholders, buffers)) for r in found], states


def _without_recomputed(program: Program, implementations: Sequence[Implementation]) -> Program:
    """The Program without the caches that are marked to be recomputed, where a kernel takes what is left."""
    marked = {
        cache_name(n): input_node(n).name
        for n in program.nodes
        if is_cache(n) and cache_option(n, "recompute") and cache_option(n, "threshold") == 0
    }
    takers = [i for i in implementations if i.recomputes]
    while marked and takers:
        merged = drop_caches(program, marked)
        refused: set[str] = set()
        for region, call in _calls(merged, implementations)[0]:
            nodes = {n.name for n in region.nodes}
            inside = {name for name, node in marked.items() if node in nodes}
            if inside and all(i.declines(call) for i in takers):
                refused |= inside
        if not refused:
            return merged
        marked = {name: node for name, node in marked.items() if name not in refused}
    return program


def _steps(
    calls: Sequence[RegionCall], chosen: Sequence[Implementation]
) -> tuple[tuple[Callable[[Context], None], ...], tuple[Group, ...]]:
    """What runs the calls: a group for neighbours of an implementation that groups, else a function each."""
    steps: list[Callable[[Context], None]] = []
    groups: list[Group] = []
    first = 0
    while first < len(calls):
        implementation, last = chosen[first], first + 1
        if implementation.grouping:
            while last < len(calls) and chosen[last] is implementation:
                last += 1
            elsewhere = (*calls[:first], *calls[last:])
            exported = frozenset(name for call in elsewhere for name in _followed(call))
            groups.append(implementation.build_group(calls[first:last], exported))
            steps.append(groups[-1].run)
        else:
            steps.append(implementation.build(calls[first]))
        first = last
    return tuple(steps), tuple(groups)


def _followed(call: RegionCall) -> set[str]:
    """The layers whose masks or magnitudes a call needs."""
    found = {name for name, _ in call.mask_reads}
    if call.prediction is not None:
        found |= {name for name, _ in (*call.prediction.sources, *call.prediction.residuals)}
    return found


def _choose(
    call: RegionCall, implementations: Sequence[Implementation], backend: str
) -> tuple[Implementation, str]:
    """The implementation that runs a call, and why those before it do not."""
    reasons: list[str] = []
    for implementation in implementations:
        reason = implementation.declines(call)
        if not reason:
            return implementation, "; ".join(reasons)
        reasons.append(f"{implementation.name}: {reason}")
    raise BackendError(f"{call.name}: backend {backend!r} declines it: {'; '.join(reasons) or 'none serves'}")


def _convolution_macs(region: Region) -> int:
    return sum(macs(node) for node in region.nodes if is_convolution(node))


def _pixel(implementations: Sequence[Implementation], channels: int, device: str) -> int:
    """Elements from pixel to pixel that the first implementation with a preference wants; 0 for no gap."""
    wishes = (i.pixel_of(channels, device) for i in implementations)
    wish = next((w for w in wishes if w), 0)
    return wish if wish > channels else 0


def _states(
    found: Sequence[Region], predicted: Mapping[str, Prediction], pixel: Callable[[int], int]
) -> dict[str, StateSpec]:
    specs: dict[str, StateSpec] = {}
    parents: dict[str, list[tuple[fx.Node, tuple[str, int, int, int]]]] = {}
    for region in found:
        into = cache_option(region.cache, "into")
        if into is not None:
            parents.setdefault(into[0], []).append((region.cache, into))
    for name, members in parents.items():
        node, (_, _, _, dim) = members[0]
        shape = list(shape_of(node))
        shape[dim] = max(start + (shape_of(n)[dim] - 1) * step + 1 for n, (_, start, step, _) in members)
        value = info(node)
        assert value.dtype is not None  # caches hold tensors
        assert value.layout is not None
        last = _channels_last(value.layout, len(shape))
        specs[f"{name}.buffer"] = StateSpec(
            f"{name}.buffer",
            tuple(shape),
            value.dtype,
            value.layout.rows,
            channels_last=last,
            pixel=pixel(shape[1]) if last else 0,
        )
    for region in found:
        cache, value = region.cache, info(region.cache)
        assert value.shape is not None  # caches hold tensors
        assert value.dtype is not None
        assert value.layout is not None
        into = cache_option(cache, "into")
        parent = None if into is None else f"{into[0]}.buffer"
        part = None if into is None else (into[3], into[1], into[2])
        key = f"{region.name}.value"
        last = _channels_last(value.layout, len(value.shape))
        gap = pixel(value.shape[1]) if last and parent is None else 0
        specs[key] = StateSpec(key, value.shape, value.dtype, value.layout.rows, parent, part, last, gap)
        rows = value.layout.extent(value.shape)[0]
        if _needs_scale(cache):
            key = f"{region.name}.scale"
            specs[key] = StateSpec(key, (rows,), torch.float32, 0)
        if region.name in predicted:
            key = f"{region.name}.pending"
            specs[key] = StateSpec(key, value.layout.extent(value.shape), torch.float32, 0)
    return specs


def _channels_last(layout: PixelLayout, ndim: int) -> bool:
    return ndim == 4 and (layout.rows, layout.h, layout.w) == (0, 2, 3)


def _needs_scale(cache: fx.Node) -> bool:
    return bool(cache_option(cache, "test") == "rms-relative" and cache_option(cache, "threshold") > 0)


def _predictions(found: Sequence[Region]) -> dict[str, Prediction]:
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


def _call(
    program: Program,
    region: Region,
    states: Mapping[str, StateSpec],
    predicted: Mapping[str, Prediction],
    wanted: set[str],
    placeholders: Mapping[fx.Node, int],
    buffers: Mapping[str, Tensor],
) -> RegionCall:
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
        reach = None if dense else _reach(region)
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
        scale=f"{name}.scale" if _needs_scale(cache) else "",
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


def _reach(region: Region) -> Callable[[Mapping[str, Tensor]], Tensor]:
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


def _outputs(program: Program) -> tuple[tuple[Read, ...], tuple[str, ...], Callable[..., tuple[Any, ...]]]:
    leaves = list(arguments(program.output)[0])
    return compile_cone(program, leaves, single=False)
