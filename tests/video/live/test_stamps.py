"""Times go forward: over reconnections, passes, jumps and damage."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from videoeff.video.live.stamps import Stamps


def times(stamps: Stamps, given: Iterable[float | None], *, begin: float = 0.0) -> list[float]:
    """The times of stamps of pictures that arrive at 25 a second."""
    found = [stamps.next(stamp, begin + index / 25) for index, stamp in enumerate(given)]
    assert None not in found
    return [time for time in found if time is not None]


def steady(count: int, start: float = 0.0) -> list[float]:
    return [start + index / 25 for index in range(count)]


@pytest.mark.parametrize("start", [0.0, 1.4, 95443.7])
@pytest.mark.parametrize("live", [False, True])
def test_times_begin_at_0(start: float, live: bool) -> None:
    assert times(Stamps(live), steady(10, start)) == pytest.approx(steady(10))


def test_the_time_between_two_connections_counts() -> None:
    stamps = Stamps(live=True)
    stamps.anew(0.04)
    first = times(stamps, steady(10))
    stamps.anew(0.04)
    second = times(stamps, steady(10), begin=20.0)
    assert second == pytest.approx(steady(10, first[-1] + 20.0 - 9 / 25))


def test_another_pass_over_a_file_goes_on_after_a_step() -> None:
    stamps = Stamps(live=False)
    found: list[float] = []
    for _ in range(3):
        stamps.anew(0.04)
        found += times(stamps, steady(10))
    assert found == pytest.approx(steady(30))


@pytest.mark.parametrize("start", [7200.0, 100.0, -5000.0, -0.36])
def test_stamps_that_jump_go_on(start: float) -> None:
    found = times(Stamps(live=True), steady(10) + steady(10, start) + steady(10, start + 90000.0))
    assert found == pytest.approx(steady(30))


def test_one_damaged_stamp_does_not_move_the_clock() -> None:
    for wrong in (50000.0, -3.0, 20.0):
        given = [*steady(10), wrong, *steady(10, 11 / 25)]
        assert times(Stamps(live=True), given) == pytest.approx(steady(21)), wrong


def test_pictures_out_of_order_keep_their_clock() -> None:
    given = [0.0, 0.04, 0.12, 0.08, 0.16, 0.20]
    found = times(Stamps(live=True), given)
    assert all(a < b for a, b in itertools.pairwise(found))
    assert found[-2:] == pytest.approx([0.16, 0.20])


def test_a_pause_of_the_source_is_kept() -> None:
    """A camera that stands still for a minute sends no picture."""
    stamps = Stamps(live=True)
    assert times(stamps, steady(5))[-1] == pytest.approx(4 / 25)
    assert stamps.next(60.0, 59.9) == pytest.approx(60.0)
    slow = Stamps(live=False)
    assert [slow.next(stamp, 0.0) for stamp in (0.0, 3600.0, 7200.0)] == [0.0, 3600.0, 7200.0]


def test_pictures_without_stamps() -> None:
    assert times(Stamps(live=True), [None] * 5) == pytest.approx(steady(5))
    assert Stamps(live=False).next(None, 1.0) is None
    mixed = times(Stamps(live=True), [None, 0.04, 0.08, None, 0.16])  # RTSP's first has none
    assert mixed == pytest.approx(steady(5))
