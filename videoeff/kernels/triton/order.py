"""Which steps of a frame may run side by side: lanes, and what each step waits for.

Steps are the launches of one region, in the order in which they were planned. A step comes after those that
write what it reads, and after those that read what it writes. Two that write one thing need no order: lists
are appended to by atomic operations, and values share memory only as slices of a concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton.binding import Launch
from videoeff.kernels.triton.worklist import Worklist

#: Lanes at most: as many as HRNet has branches.
LANES = 4


@dataclass(frozen=True)
class Step:
    """What a region's launches read and write, by name."""

    reads: frozenset[str]
    writes: frozenset[str]


@dataclass(frozen=True)
class Slot:
    """Where a step runs.

    Attributes:
        lane: which lane; steps of a lane run one after the other.
        waits: steps of other lanes, by number, that have to be done before.
    """

    lane: int
    waits: tuple[int, ...]


#: What opens a frame.
OPENING = Step(frozenset(), frozenset({"frame"}))


def step_of(
    name: str, own: Sequence[Worklist], call: RegionCall | None = None, spec: RegionSpec | None = None
) -> Step:
    """The step of a layer with the lists ``own``; without a call, that of a mask made elsewhere."""
    reads = {"frame", *(f"list {w.name}" for w in own)}
    writes = {f"mask {name}", *(f"list {e.target.name}" for w in own for e in w.feeds)}
    if call is not None and spec is not None:
        views = [v for v in (spec.input, *spec.arguments) if v is not None]
        reads |= {f"value {v.source}" for v in views if isinstance(v.source, str)}
        writes.add(f"value {call.value.name}")
        if call.prediction is not None:
            reads |= {f"mask {source}" for source in call.prediction.layers}
        if call.bound is not None:
            reads.add(f"vicinity {call.bound.vicinity.name}")
    return Step(frozenset(reads), frozenset(writes))


def before(steps: Sequence[Step]) -> list[set[int]]:
    """The steps that each one comes after, not counting what those come after."""
    found: list[set[int]] = []
    writers: dict[str, list[int]] = {}
    readers: dict[str, list[int]] = {}
    for number, step in enumerate(steps):
        ahead = {n for name in step.reads for n in writers.get(name, ())}
        ahead |= {n for name in step.writes for n in readers.get(name, ())}
        found.append(ahead)
        for name in step.writes:
            writers.setdefault(name, []).append(number)
        for name in step.reads:
            readers.setdefault(name, []).append(number)
    return found


def chain(steps: Sequence[Step], lengths: Sequence[int]) -> int:
    """Launches that have to run one after the other, ``lengths`` of them a step."""
    done: list[int] = []
    for length, ahead in zip(lengths, before(steps), strict=True):
        done.append(length + max((done[n] for n in ahead), default=0))
    return max(done, default=0)


def slots(steps: Sequence[Step], most: int = LANES) -> list[Slot]:
    """A lane for each step: that of a step it comes after, if that is the last of its lane."""
    found: list[Slot] = []
    last: list[int] = []  # of each lane
    depth: list[int] = []  # of each step: how many come before it, one after the other
    known: list[dict[int, int]] = []  # by step, what is done when it is: the last of each lane
    for number, ahead in enumerate(before(steps)):
        depth.append(1 + max((depth[n] for n in ahead), default=0))
        open_ends = [n for n in ahead if n in last]
        if open_ends:
            lane = found[max(open_ends, key=lambda n: (depth[n], n))].lane
        elif len(last) < most:
            lane = len(last)
            last.append(-1)
        else:
            lane = min(range(most), key=lambda k: depth[last[k]])
        done = dict(known[last[lane]]) if last[lane] >= 0 else {}
        waits = []
        for n in sorted(ahead, reverse=True):  # the latest may have waited for the others
            if n > done.get(found[n].lane, -1):
                waits.append(n)
                done = {k: max(done.get(k, -1), known[n].get(k, -1)) for k in done | known[n]}
        done[lane] = number
        known.append(done)
        last[lane] = number
        found.append(Slot(lane, tuple(waits)))  # what comes before in its own lane is done
    return found


def side_by_side(
    launches: Iterable[Launch],
    slots: Sequence[Slot],
    streams: Sequence[Any],
    on: Callable[[Any], AbstractContextManager[Any]],
) -> None:
    """Queue launches on a stream for each lane, with events between them; the first stream ends last.

    Args:
        launches: in the order of their steps.
        slots: of the steps.
        streams: CUDA streams; the others begin behind the first.
        on: what makes a stream the current one.
    """
    awaited = {n for slot in slots for n in slot.waits}
    ends: dict[int, Any] = {}
    for number, part in groupby(launches, key=lambda launch: launch.step):
        slot = slots[number]
        stream = streams[slot.lane]
        for other in slot.waits:
            stream.wait_event(ends[other])
        with on(stream):
            for launch in part:
                launch.run(full=False, counting=True)
        if number in awaited:
            ends[number] = stream.record_event()
    for stream in streams[1:]:
        streams[0].wait_stream(stream)
