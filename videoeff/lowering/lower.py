"""Lowering: a planned Program becomes a Plan, a flat list of calls with the state they keep.

A Plan's step is a function of (frame, state): it writes the state in place and returns the outputs. Only
``videoeff.runtime.engine`` owns buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from videoeff.analysis import is_convolution, macs
from videoeff.analysis.regions import Region, regions
from videoeff.analysis.verify import verify
from videoeff.errors import LoweringError
from videoeff.ir.edit import drop_caches
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program, arguments, input_node
from videoeff.kernels import Backend, Declined, Group
from videoeff.kernels.call import RegionCall, StateSpec
from videoeff.lowering.bounds import bounds_of
from videoeff.lowering.buffers import allocate, device_of, pixel_stride, state_specs
from videoeff.lowering.choose import Answers, Choice, choose, choose_backends
from videoeff.lowering.computation import outputs_of
from videoeff.lowering.joins import neighbours, with_joins
from videoeff.lowering.plan import Instruction, Plan, Runner
from videoeff.lowering.region_calls import Surroundings, predictions_of, region_call


def lower(program: Program, backend: str = "auto", answers: Answers | None = None) -> Plan:
    """Choose a backend for every region and lay out the state.

    Args:
        program: the planned Program; it is lowered for the device its constants lie on.
        backend: "auto" or a backend's name.
        answers: what backends said of the regions of this Program before, kept by who lowers it again.

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
    answers = Answers() if answers is None else answers
    backends = choose_backends(backend)
    calls = _without_recomputed(program, backends, answers)
    chosen = [choose(call, backends, backend, answers) for call in calls.calls]
    runners, groups = _runners(chosen)
    outputs = outputs_of(arguments(calls.program.output)[0])
    return Plan(
        program=calls.program,
        instructions=tuple(_instruction(r, c) for r, c in zip(calls.regions, chosen, strict=True)),
        runners=runners,
        groups=groups,
        state=calls.state,
        frame_specs=tuple(n.meta["input"] for n in calls.program.placeholders),
        outputs=with_joins(outputs),
        neighbours=neighbours(outputs, {spec.name: spec for spec in calls.state}),
        build=lambda: _runners(chosen),
    )


@dataclass(frozen=True)
class _Calls:
    """The regions of a Program as calls, and the state they keep."""

    program: Program
    regions: Sequence[Region]
    calls: Sequence[RegionCall]
    state: tuple[StateSpec, ...]


def _calls(program: Program, backends: Sequence[Backend[Any]]) -> _Calls:
    found = regions(program)
    predicted, bounds = predictions_of(found), bounds_of(found)
    device = device_of(program.module).type
    states = state_specs(
        found, predicted, bounds, program.streams, lambda channels: pixel_stride(backends, channels, device)
    )
    around = Surroundings(
        states=states,
        buffers=allocate(list(states.values()), torch.device("meta")),
        predicted=predicted,
        bounds=bounds,
        wanted={name for p in predicted.values() for name in p.layers},
        inputs={n: i for i, n in enumerate(program.placeholders)},
        device=device,
    )
    return _Calls(program, found, [region_call(r, around) for r in found], tuple(states.values()))


def _without_recomputed(program: Program, backends: Sequence[Backend[Any]], answers: Answers) -> _Calls:
    """The calls without the caches that are marked to be recomputed, where a backend takes what is left."""
    marked = {
        cache_name(n): input_node(n).name
        for n in program.nodes
        if is_cache(n) and cache_option(n, "recompute") and cache_option(n, "threshold") == 0
    }
    takers = [b for b in backends if b.recomputes]
    while marked and takers:
        merged = _calls(drop_caches(program, marked), backends)
        refused: set[str] = set()
        for region, call in zip(merged.regions, merged.calls, strict=True):
            nodes = {n.name for n in region.nodes}
            inside = {name for name, node in marked.items() if node in nodes}
            if inside and all(isinstance(answers.ask(b, call), Declined) for b in takers):
                refused |= inside
        if not refused:
            return merged
        marked = {name: node for name, node in marked.items() if name not in refused}
    return _calls(program, backends)


def _instruction(region: Region, choice: Choice) -> Instruction:
    work = sum(macs(node) for node in region.nodes if is_convolution(node))
    return Instruction(choice.accepted.call, choice.backend.name, choice.reason, region.traced, work)


def _runners(chosen: Sequence[Choice]) -> tuple[tuple[Runner, ...], tuple[Group, ...]]:
    """What runs the calls: a group for neighbours of a backend that groups, else a function each."""
    runners: list[Runner] = []
    groups: list[Group] = []
    first = 0
    while first < len(chosen):
        backend, last = chosen[first].backend, first + 1
        if backend.grouping:
            while last < len(chosen) and chosen[last].backend is backend:
                last += 1
            elsewhere = (*chosen[:first], *chosen[last:])
            exported = frozenset(name for c in elsewhere for name in _followed(c.accepted.call))
            groups.append(backend.build_group([c.accepted for c in chosen[first:last]], exported))
            runners.append(groups[-1].run)
        else:
            runners.append(backend.build(chosen[first].accepted))
        first = last
    return tuple(runners), tuple(groups)


def _followed(call: RegionCall) -> set[str]:
    """The layers whose masks or magnitudes a call needs."""
    layers = () if call.prediction is None else call.prediction.layers
    sources = () if call.bound is None else (near.layer for near in call.bound.vicinity.near)
    return {*(name for name, _ in call.mask_reads), *layers, *sources}
