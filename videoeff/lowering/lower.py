"""Lowering: a planned Program becomes a Plan, a flat list of calls with the state they keep.

A Plan's step is a function of (frame, state): it writes the state in place and returns the outputs. Only
``videoeff.runtime.engine`` owns buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from videoeff.analysis import is_convolution, macs
from videoeff.analysis.regions import Region, regions
from videoeff.analysis.verify import verify
from videoeff.errors import LoweringError
from videoeff.ir.edit import drop_caches
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program, arguments, input_node
from videoeff.kernels import Group, Implementation
from videoeff.kernels.call import Context, Read, RegionCall, StateSpec
from videoeff.lowering.buffers import allocate, device_of, pixel_stride, state_specs
from videoeff.lowering.choose import choose, choose_implementations
from videoeff.lowering.cone import compile_cone
from videoeff.lowering.plan import Instruction, Plan
from videoeff.lowering.region_calls import predictions_of, region_call


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
        implementation, reason = choose(call, implementations, backend)
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
    predicted = predictions_of(found)
    wanted = {name for p in predicted.values() for name, _ in (*p.sources, *p.residuals)}
    device = device_of(program.module).type
    states = state_specs(found, predicted, lambda channels: pixel_stride(implementations, channels, device))
    placeholders = {n: i for i, n in enumerate(program.placeholders)}
    buffers = allocate(list(states.values()), torch.device("meta"))
    return [
        (r, region_call(program, r, states, predicted, wanted, placeholders, buffers)) for r in found
    ], states


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


def _convolution_macs(region: Region) -> int:
    return sum(macs(node) for node in region.nodes if is_convolution(node))


def _outputs(program: Program) -> tuple[tuple[Read, ...], tuple[str, ...], Callable[..., tuple[Any, ...]]]:
    leaves = list(arguments(program.output)[0])
    return compile_cone(program, leaves, single=False)
