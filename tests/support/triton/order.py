"""What the lanes of a plan keep in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ordered(slots: Sequence[Any]) -> list[set[int]]:
    """The steps that are done before each one, by its lane and by what it waits for."""
    done: list[set[int]] = []
    last: dict[int, int] = {}
    for number, slot in enumerate(slots):
        ahead = {*slot.waits, *([last[slot.lane]] if slot.lane in last else [])}
        done.append(ahead.union(*(done[n] for n in ahead)))
        last[slot.lane] = number
    return done
