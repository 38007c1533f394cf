"""What a source makes of connections, with a reader whose connections are written down."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import pytest

from tests.support.cameras import check_order, take, until
from tests.support.pictures import decoded
from videoeff.video.clip import Decoded
from videoeff.video.live import Source
from videoeff.video.live.handover import Handover
from videoeff.video.live.stream_source import StreamSource
from videoeff.video.live.transport import Backoff


@dataclass
class Connection:
    """What one connection gives, and how it is over."""

    pictures: Sequence[tuple[Decoded, float | None]] = ()
    why: str = "cut"
    hopeless: bool = False
    finished: bool = False
    bursts: bool = False
    refused: int = 0


@dataclass
class Script:
    """A reader whose connections come one after the other; the last one stays."""

    connections: list[Connection]
    why: str = ""
    hopeless: bool = False
    finished: bool = False
    bursts: bool = False
    step: float = 0.04
    opened: int = 0
    closed: list[int] = field(default_factory=list)

    def pictures(
        self, over: Callable[[], bool], refused: Callable[[], None]
    ) -> Generator[tuple[Decoded, float | None]]:
        number = self.opened
        self.opened += 1
        self.why, self.hopeless, self.finished = "", False, False
        if number >= len(self.connections):
            while not over():
                time.sleep(0.001)
            return
        connection = self.connections[number]
        self.bursts = connection.bursts
        try:
            for _ in range(connection.refused):
                refused()
            yield from connection.pictures
            self.why, self.hopeless = connection.why, connection.hopeless
            self.finished = connection.finished
        finally:
            self.closed.append(number)


class Waits(Backoff):
    """Notes what is asked of it, and hardly waits."""

    def __init__(self) -> None:
        super().__init__(0.001, 0.001)
        self.asked: list[tuple[bool, bool]] = []

    def wait(self, lived: float, hopeless: bool) -> float:
        self.asked.append((lived > 0, hopeless))
        return super().wait(lived, hopeless)


def some(
    count: int, begin: float = 0.0, size: tuple[int, int] = (48, 64)
) -> list[tuple[Decoded, float | None]]:
    return [(decoded(index, size), begin + index / 25) for index in range(count)]


def source_of(
    *connections: Connection,
    backoff: Backoff | None = None,
    policy: str = "every",
    frames: int | None = None,
    pace: bool = False,
    loop: bool = False,
) -> tuple[Source, Script]:
    script = Script(list(connections))
    handover = Handover(policy, 100, None)
    backoff = Waits() if backoff is None else backoff
    return StreamSource("camera", True, script, handover, backoff, frames, pace, loop), script


def test_numbers_and_times_go_on_over_connections() -> None:
    source, script = source_of(
        Connection(some(5)), Connection(), Connection(some(5, 1000.0)), Connection(some(5))
    )
    with source:
        pictures = take(source, 15)
        until(lambda: source.counters.lost == 3)
        counters = source.counters
    assert [p.number for p in pictures] == list(range(15))
    check_order(pictures)
    steps = [(b.time or 0.0) - (a.time or 0.0) for a, b in itertools.pairwise(pictures)]
    assert [s for i, s in enumerate(steps) if i % 5 != 4] == pytest.approx([0.04] * 12)
    assert all(s >= 0.04 - 1e-9 for s in steps)
    assert (counters.decoded, counters.connections, counters.lost) == (15, 3, 3)
    assert script.closed[:4] == [0, 1, 2, 3]


def test_states_as_they_come() -> None:
    states: list[tuple[str, str]] = []
    source, _ = source_of(Connection(why="refused"), Connection(some(1)), Connection(why="no name"))
    source.when_ready(lambda: states.append((source.state, source.why)))
    assert source.state == "connecting"
    with source:
        until(lambda: source.why == "no name")
    assert [k for k, _ in itertools.groupby(states)] == [
        ("lost", "refused"), ("live", ""), ("lost", "cut"), ("lost", "no name"), ("closed", "")
    ]  # fmt: skip


def test_what_the_back_off_is_told() -> None:
    waits = Waits()
    source, script = source_of(
        Connection(), Connection(some(2)), Connection(why="login", hopeless=True), backoff=waits
    )
    with source:
        until(lambda: script.opened == 4)
        assert source.why == "login"
    assert waits.asked == [(False, False), (True, False), (False, True)]


def test_a_size_that_changes_is_counted() -> None:
    source, _ = source_of(Connection(some(2) + some(2, 1.0, (64, 96))), Connection(some(2)))
    with source:
        pictures = take(source, 6)
        assert source.counters.resized == 2
    assert [p.size for p in pictures] == [(48, 64)] * 2 + [(64, 96)] * 2 + [(48, 64)] * 2


def test_damage_and_refused_packets_are_counted() -> None:
    pictures = [*some(1), (decoded(1, damaged=True), 0.04)]
    source, _ = source_of(Connection(pictures, refused=3), Connection(refused=1))
    with source:
        take(source, 2)
        until(lambda: source.counters.refused == 4)
        assert source.counters.damaged == 1


def test_a_stream_that_has_an_end() -> None:
    source, script = source_of(Connection(some(3), finished=True))
    with source:
        assert len(list(source)) == 3
        assert (source.state, source.why) == ("ended", "it came to its end")
        assert source.counters.lost == 0
    assert script.opened == 1
    source, _ = source_of(*[Connection(some(3), finished=True)] * 3, loop=True)
    with source:
        pictures = take(source, 9)
        assert source.counters.lost == 0
    check_order(pictures)


def test_an_end_without_a_picture_is_none() -> None:
    source, _ = source_of(Connection(finished=True, why="nothing in it"), Connection(some(1)))
    with source:
        take(source, 1)
        assert source.counters.connections == 1


def test_so_many_pictures() -> None:
    source, script = source_of(Connection(some(3)), Connection(some(30)), frames=5)
    with source:
        assert [p.number for p in source] == list(range(5))
        assert (source.state, source.why) == ("ended", "the 5 pictures asked for have come")
    assert script.closed == [0, 1]


@pytest.mark.parametrize(("pace", "bursts"), [(True, False), (False, True)])
def test_pictures_that_come_in_bursts_are_held_back(pace: bool, bursts: bool) -> None:
    source, _ = source_of(Connection(some(8), bursts=bursts), policy="latest", pace=pace)
    with source:
        pictures = take(source, 1)
        until(lambda: source.counters.decoded == 8)
        pictures += take(source, 1)
    assert pictures[-1].number == 7
    assert pictures[-1].arrived - pictures[0].arrived > 0.5 * 7 / 25


def test_closing_while_it_waits_for_another_attempt() -> None:
    source, _ = source_of(*[Connection()] * 5, backoff=Backoff(1000.0, 1000.0))
    with source:
        until(lambda: source.state == "lost")
        began = time.monotonic()
    assert time.monotonic() - began < 30
    assert source.state == "closed"


def test_taking_from_what_is_being_closed_gives_nothing() -> None:
    """Closing in another thread once made `take` raise."""
    for _ in range(50):
        source, _ = source_of(Connection(some(3)))
        closing = threading.Thread(target=source.close)
        closing.start()
        while source.state != "closed":
            source.take(0)
        assert source.take(None) is None
        closing.join()
