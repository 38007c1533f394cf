"""Turns: each to one worker at a time, and fair shares of the time."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from videoeff.fleet.turns import Turns


def _simulate(
    turns: Turns[str], costs: dict[str, float], demand: dict[str, int], seconds: float
) -> Counter[str]:
    """One worker with a clock of its own: ``demand`` pictures come a second, late ones are dropped."""
    served: Counter[str] = Counter()
    clock, due = 0.0, dict.fromkeys(costs, 0.0)
    while clock < seconds:
        for name, rate in demand.items():
            if due[name] <= clock:
                turns.ready(name)
                due[name] = clock + 1 / rate - (clock - due[name]) % (1 / rate)
        item = turns.take(0)
        if item is None:
            clock = min(due.values())
            continue
        clock += costs[item]
        served[item] += 1
        turns.done(item, costs[item])
    return served


def _turns(*names: str) -> Turns[str]:
    turns: Turns[str] = Turns()
    for name in names:
        turns.add(name)
    return turns


def test_all_are_served_in_full_while_there_is_time() -> None:
    served = _simulate(_turns("a", "b", "c"), dict.fromkeys("abc", 0.01), {"a": 10, "b": 20, "c": 5}, 10)
    assert served["a"] == pytest.approx(100, abs=2)
    assert served["b"] == pytest.approx(200, abs=2)
    assert served["c"] == pytest.approx(50, abs=2)


def test_a_full_worker_gives_each_the_same_time() -> None:
    """One is dear, one is cheap; one asks for less than its share and gets all it asks for."""
    costs, demand = {"dear": 0.05, "cheap": 0.01, "modest": 0.01}, {"dear": 100, "cheap": 100, "modest": 5}
    served = _simulate(_turns(*costs), costs, demand, 100)
    seconds = {name: served[name] * costs[name] for name in costs}
    assert served["modest"] == pytest.approx(500, rel=0.02)
    assert seconds["dear"] == pytest.approx(47.5, rel=0.03)
    assert seconds["cheap"] == pytest.approx(47.5, rel=0.03)


def test_who_was_idle_has_no_claim_to_the_past() -> None:
    turns, costs = _turns("busy"), {"busy": 0.01, "new": 0.01}
    assert _simulate(turns, {"busy": 0.01}, {"busy": 100}, 50)["busy"] == pytest.approx(5000, abs=2)
    turns.add("new")
    served = _simulate(turns, costs, {"busy": 100, "new": 100}, 10)
    assert served["busy"] == pytest.approx(500, rel=0.02)


def test_one_worker_at_a_time_and_nothing_is_forgotten() -> None:
    turns = _turns("a")
    turns.ready("a")
    turns.ready("a")
    assert turns.take(0) == "a"
    assert turns.take(0) is None
    turns.ready("a")  # while it is served
    assert turns.take(0) is None
    turns.done("a", 0.0)
    assert turns.take(0) == "a"
    turns.done("a", 0.0, more=True)
    assert turns.is_busy("a")
    assert turns.take(0) == "a"
    turns.done("a", 0.0)
    assert turns.busy == 0


def test_removal_waits_for_the_last_turn() -> None:
    turns = _turns("a", "b")
    turns.ready("a")
    turns.ready("b")
    assert turns.take(0) == "a"
    assert not turns.remove("a", 0.0)
    done = threading.Thread(target=turns.done, args=("a", 0.1), kwargs={"more": True})
    done.start()
    assert turns.remove("a", 30)
    done.join()
    turns.remove("b")
    turns.ready("b")
    assert turns.take(0) is None


def test_closing_wakes_who_waits() -> None:
    turns = _turns("a")
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(turns.take()))
    waiting.start()
    turns.close()
    waiting.join(30)
    assert found == [None]
