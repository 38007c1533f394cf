"""Steps in lanes: nothing runs before what it comes after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.triton.order import ordered

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs triton, which is not installed here"
)

NAMES = st.frozensets(st.sampled_from("abcdefgh"), max_size=3)
STEPS = st.lists(st.tuples(NAMES, NAMES), max_size=16)


def made(pairs: Sequence[tuple[frozenset[str], frozenset[str]]]) -> list[Any]:
    """An opening and steps that read and write."""
    from videoeff.kernels.triton.order import OPENING, Step

    return [OPENING, *(Step(reads | {"frame"}, writes) for reads, writes in pairs)]


@given(pairs=STEPS, most=st.integers(1, 5))
def test_lanes_keep_the_order(pairs: list[Any], most: int) -> None:
    """Every step comes after what wrote what it reads and what read what it writes; no wait is idle."""
    from videoeff.kernels.triton.order import slots

    steps = made(pairs)
    found = slots(steps, most)
    assert {s.lane for s in found} <= set(range(most))
    earlier = ordered(found)
    for number, step in enumerate(steps):
        for other, before in enumerate(steps[:number]):
            if step.reads & before.writes or step.writes & before.reads:
                assert other in earlier[number], (other, number)
        for wait in found[number].waits:
            assert found[wait].lane != found[number].lane
            rest = [w for w in found[number].waits if w != wait]
            assert all(wait not in earlier[w] for w in rest)


@given(pairs=STEPS, lengths=st.lists(st.integers(1, 3), min_size=17, max_size=17))
def test_the_longest_chain(pairs: list[Any], lengths: list[int]) -> None:
    """As found by trying every chain."""
    from videoeff.kernels.triton.order import chain

    steps = made(pairs)

    def longest(number: int) -> int:
        step = steps[number]
        ahead = [
            longest(n) for n, s in enumerate(steps[:number]) if step.reads & s.writes or step.writes & s.reads
        ]
        return lengths[number] + max(ahead, default=0)

    assert chain(steps, lengths[: len(steps)]) == max(longest(n) for n in range(len(steps)))


def test_branches_take_a_lane_each() -> None:
    """Two chains of three, begun by one step and joined by another."""
    from videoeff.kernels.triton.order import chain, slots

    def pair(reads: str, writes: str) -> tuple[frozenset[str], frozenset[str]]:
        return frozenset(reads), frozenset(writes)

    steps = made(
        [pair("", "a"), pair("a", "b"), pair("a", "e"), pair("b", "c"), pair("e", "f"), pair("cf", "g")]
    )
    found = slots(steps, 4)
    assert [s.lane for s in found] == [0, 0, 0, 1, 0, 1, 1]
    assert [s.waits for s in found] == [(), (), (), (1,), (), (), (4,)]
    assert chain(steps, [1] * 7) == 5
    assert {s.lane for s in slots(steps, 1)} == {0}


# ---------------------------------------------------------------- onto streams


@dataclass
class Event:
    """What is done when it is reached."""

    done: set[Any]


@dataclass
class Stream:
    """A CUDA stream that notes what comes before each launch."""

    done: set[Any] = field(default_factory=set)

    def wait_event(self, event: Event) -> None:
        self.done |= event.done

    def record_event(self) -> Event:
        return Event(set(self.done))

    def wait_stream(self, other: Stream) -> None:
        self.done |= other.done


@dataclass
class Queued:
    """A launch that notes what was done when it was queued."""

    step: int
    part: int
    current: list[Stream]
    before: set[Any] = field(default_factory=set)

    def run(self, full: bool, counting: bool) -> None:
        assert (full, counting) == (False, True)
        self.before = set(self.current[-1].done)
        self.current[-1].done.add((self.step, self.part))


@given(pairs=STEPS, most=st.integers(1, 4))
def test_streams_keep_the_order(pairs: list[Any], most: int) -> None:
    """With events between streams, and the first of them ends behind all."""
    from videoeff.kernels.triton.order import side_by_side, slots

    steps = made(pairs)
    found = slots(steps, most)
    streams = [Stream() for _ in range(max(s.lane for s in found) + 1)]
    current: list[Stream] = []

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    launches = [Queued(n, part, current) for n in range(len(steps)) for part in range(1 + n % 2)]
    side_by_side(launches, found, streams, on)  # type: ignore[arg-type] # they are like launches
    assert streams[0].done == {(launch.step, launch.part) for launch in launches}
    earlier = ordered(found)
    for launch in launches:
        expected = {(o.step, o.part) for o in launches if o.step in earlier[launch.step]}
        assert expected <= launch.before, launch.step
