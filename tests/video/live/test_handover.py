"""Queues, states and counters between a decoding thread and its consumers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.cameras import DEADLINE, until
from tests.support.pictures import picture
from videoeff.errors import VideoError
from videoeff.video.live import Counters
from videoeff.video.live.handover import Handover


@pytest.fixture
def started() -> Iterator[Callable[[Callable[[], object]], threading.Thread]]:
    """Runs something in a thread, which has to end."""
    threads = []

    def start(work: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def taken(handover: Handover) -> list[int]:
    found = []
    while (next_one := handover.take(0)) is not None:
        found.append(next_one.number)
    return found


def test_only_the_newest_waits_and_what_it_replaces_is_late() -> None:
    handover = Handover("latest", 8, None)
    for number in range(5):
        handover.put(picture(number))
        assert handover.waiting() == 1
    assert taken(handover) == [4]
    assert handover.counters == Counters(decoded=5, delivered=1, late=4)


def test_every_picture_waits_and_the_decoder_waits_for_room(
    started: Callable[[Callable[[], object]], threading.Thread],
) -> None:
    handover = Handover("every", 3, None)

    def fill() -> None:
        for number in range(10):
            handover.put(picture(number))

    started(fill)
    until(lambda: handover.counters.decoded == 4)  # the fourth is in its hand
    assert handover.waiting() == 3
    found = [handover.take(DEADLINE) for _ in range(10)]
    assert [p.number for p in found if p is not None] == list(range(10))
    assert handover.counters == Counters(decoded=10, delivered=10)


def test_a_network_does_not_wait_for_ever() -> None:
    handover = Handover("every", 2, 0.3)
    began = time.monotonic()
    for number in range(20):
        handover.put(picture(number))
    # It waits once; until something is taken, there is no use in waiting again.
    assert 0.3 <= time.monotonic() - began < 0.3 * 18
    assert taken(handover) == [18, 19]
    assert handover.counters == Counters(decoded=20, delivered=2, late=18)


def test_taking_waits_and_gives_up(started: Callable[[Callable[[], object]], threading.Thread]) -> None:
    handover = Handover("latest", 1, None)
    assert handover.take(0) is None
    assert handover.take(0.01) is None
    found: list[object] = []
    started(lambda: found.append(handover.take(None)))
    handover.put(picture(7))
    until(lambda: bool(found))
    assert getattr(found[0], "number", None) == 7


@pytest.mark.parametrize("state", ["ended", "closed"])
def test_the_end_wakes_everybody(
    state: str, started: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    empty, full = Handover("every", 1, None), Handover("every", 1, None)
    full.put(picture(0))
    found: list[object] = []
    started(lambda: found.append(empty.take(None)))
    started(lambda: found.append(empty.pause(DEADLINE)))
    started(lambda: full.put(picture(1)))
    until(lambda: full.counters.decoded == 2)
    for handover in (empty, full):
        handover.become(state)
    until(lambda: len(found) == 2)
    assert {str(value) for value in found} == {"None", "True"}
    assert taken(full) == ([0] if state == "ended" else [])  # what waits at the end is given yet
    full.put(picture(2))
    assert full.waiting() == 0


def test_states() -> None:
    handover = Handover("latest", 1, None)
    assert (handover.state, handover.why, handover.over) == ("connecting", "", False)
    assert handover.become("lost", "cut")
    assert not handover.become("lost", "cut")
    assert handover.become("lost", "refused")
    assert (handover.state, handover.why) == ("lost", "refused")
    assert handover.become("live")
    assert handover.why == ""
    assert handover.become("ended", "its end")
    assert not handover.become("live")
    assert handover.over
    assert handover.become("closed")
    assert not handover.become("ended")
    assert handover.state == "closed"


def test_calls_after_each_picture() -> None:
    handover = Handover("every", 2, None)
    waiting: list[int] = []
    handover.when_ready(lambda: waiting.append(handover.waiting()))
    handover.when_ready(lambda: waiting.append(-1))
    for number in range(2):
        handover.put(picture(number))
    assert waiting == [1, -1, 2, -1]


def test_counters() -> None:
    handover = Handover("latest", 1, None)
    handover.count(lost=1, refused=3)
    handover.count(refused=True)
    assert handover.counters == Counters(lost=1, refused=4)
    assert handover.counters.to_json()["refused"] == 4
    assert list(handover.counters.to_json()) == (
        ["decoded", "delivered", "late", "damaged", "refused", "connections", "lost", "resized"]
    )


def test_wrong_arguments() -> None:
    with pytest.raises(VideoError, match=r"policy 'newest'; choose one of latest, every"):
        Handover("newest", 1, None)
    with pytest.raises(VideoError, match="queue=0"):
        Handover("every", 0, None)
