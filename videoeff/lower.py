"""Lowering: a planned Program becomes a Plan, a flat list of calls with the state they keep.

A Plan's step is a function of (frame, state): it writes the state in place and returns the outputs. Only
``videoeff.engine`` owns buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from videoeff.analysis import is_convolution, macs
from videoeff.analysis.predict import magnitude_terms, residual_terms
from videoeff.analysis.regions import Region, cone, planned_slice, regions
from videoeff.errors import BackendError, LoweringError
from videoeff.kernels import IMPLEMENTATIONS, Group, Implementation
from videoeff.ops.base import bind, op_of, pair, shape_of
from videoeff.ops.call import Context, Operand, Prediction, Read, RegionCall, Step, Test
from videoeff.ops.convolution import explicit_padding
from videoeff.ops.markers import cache_name, cache_option, is_cache
from videoeff.program import PixelLayout, Program, StateSpec, arguments, info, input_node
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
        instructions: the calls in order.
        steps: what runs them, in order; one step may run several.
        groups: those of the steps that run several calls as one.
        state: every buffer.
        frames: (shape, dtype) of each input tensor.
        outputs: the caches' buffers the outputs are read from.
        read_outputs: from those buffers to the flat outputs (views of them where nothing is moved).
    """

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
    found = regions(program)
    predicted = _predictions(found)
    wanted = {name for p in predicted.values() for name, _ in (*p.sources, *p.residuals)}
    device = device_of(program.module).type
    states = _states(found, predicted, lambda channels: _pixel(implementations, channels, device))
    placeholders = {n: i for i, n in enumerate(program.placeholders)}
    buffers = allocate(list(states.values()), torch.device("meta"))
    instructions, chosen = [], []
    for region in found:
        call = _call(program, region, states, predicted, wanted, placeholders, buffers)
        implementation, reason = _choose(call, implementations, backend)
        chosen.append(implementation)
        instructions.append(
            Instruction(call, implementation.name, reason, region.traced, _convolution_macs(region))
        )
    steps, groups = _steps([i.call for i in instructions], chosen)
    outputs, constants, read_outputs = _outputs(program)
    frames = tuple(n.meta["input"] for n in program.placeholders)
    return Plan(
        tuple(instructions), steps, groups, tuple(states.values()), frames, outputs, constants, read_outputs
    )


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


def compile_cone(
    program: Program, results: Sequence[Any], single: bool
) -> tuple[tuple[Read, ...], tuple[str, ...], Callable[..., Any]]:
    """A Python function for part of the graph.

    Args:
        program: the planned Program.
        results: nodes (or literals) to return.
        single: return the one result itself, not a tuple.

    Returns:
        The buffers it reads, the constants it reads (by path), and ``function(*buffers, *constants)``.
    """
    order = _order(results)
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    needed = _needed(order, results)
    reads, constants = _sources(needed)
    for node in (*reads, *constants):
        env[node] = graph.placeholder(node.name)
    for node in order:
        if node in env or node not in needed:
            continue
        env[node] = graph.node_copy(node, lambda n: env[n])
        env[node].meta = {}
    values = [env[r] if isinstance(r, fx.Node) else r for r in results]
    graph.output(values[0] if single else tuple(values))
    module = fx.GraphModule(torch.nn.Module(), graph)
    function: Callable[..., Any] = module.forward
    return tuple(reads.values()), tuple(constants.values()), function


def steps_of(value: fx.Node) -> tuple[tuple[Step, ...], Operand]:
    """A value's operators one by one, and what the value is among them; numbered as ``compile_cone`` does."""
    order = _order([value])
    needed = _needed(order, [value])
    reads, constants = ({n: i for i, n in enumerate(found)} for found in _sources(needed))
    inside = {n: i for i, n in enumerate(n for n in order if n in needed and n not in reads)}

    def operand(node: fx.Node) -> Operand:
        source, found = next(
            (what, among[node])
            for what, among in (("read", reads), ("constant", constants), ("step", inside))
            if node in among
        )
        known = info(node)
        masks: tuple[str, ...] = ()
        if source == "read":
            masks = tuple(cache_name(n) for n in ([node] if is_cache(node) else arguments(node)[0]))
        shape, dtype = known.shape or (), known.dtype or torch.float32  # several results: never read as one
        return Operand(source, found, shape, dtype, known.layout, masks)

    steps = []
    for node in inside:
        target: Any = node.target
        bound = bind(node) if isinstance(target, torch._ops.OpOverload) else _positional(node)
        given: dict[str, Any] = {k: fx.map_arg(v, cast(Any, operand)) for k, v in bound.items()}
        known = info(node)
        steps.append(
            Step(str(target), given, known.shape, known.dtype, known.layout, not known.dense, target)
        )
    return tuple(steps), operand(value)


def _positional(node: fx.Node) -> dict[str, Any]:
    return {**{str(i): a for i, a in enumerate(node.args)}, **node.kwargs}


def _order(results: Sequence[Any]) -> list[fx.Node]:
    order: list[fx.Node] = []
    for result in results:
        if isinstance(result, fx.Node):
            order += [n for n in cone(result) if n not in order]
    return order


def _sources(needed: Iterable[fx.Node]) -> tuple[dict[fx.Node, Read], dict[fx.Node, str]]:
    """The buffers and the constants among the nodes that are evaluated."""
    reads: dict[fx.Node, Read] = {}
    constants: dict[fx.Node, str] = {}
    for node in needed:
        if is_cache(node):
            reads[node] = Read(f"{cache_name(node)}.value")
        elif node.op == "get_attr":
            constants[node] = str(node.target)
        elif (part := planned_slice(node)) is not None:
            buffer, dim, first, _, last = part
            reads[node] = Read(f"{buffer}.buffer", (dim, first, last))
    return reads, constants


def _needed(order: Sequence[fx.Node], results: Sequence[Any]) -> dict[fx.Node, None]:
    """Nodes really evaluated: what lies behind a planned concatenation is not."""
    needed: dict[fx.Node, None] = {}
    stack = [r for r in results if isinstance(r, fx.Node)]
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        needed[node] = None
        if is_cache(node) or node.op != "call_function" or planned_slice(node) is not None:
            continue
        stack.extend(node.all_input_nodes)
    position = {n: i for i, n in enumerate(order)}
    return dict.fromkeys(sorted(needed, key=lambda n: position.get(n, -1)))


def _outputs(program: Program) -> tuple[tuple[Read, ...], tuple[str, ...], Callable[..., tuple[Any, ...]]]:
    leaves = list(arguments(program.output)[0])
    return compile_cone(program, leaves, single=False)
