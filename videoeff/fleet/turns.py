"""Turns: who is computed next, so that each has a fair share of the time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Turns(Generic[Item]):
    """Hands those that have something to do to the workers, each to one worker at a time.

    Of those that wait, the one is next that had the least time so far; whoever waited for nothing has no
    claim to the time it did not ask for. So all are served in full until the workers are busy, and from then
    on each has the same share of the time (max-min fairness).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = threading.Condition(self._lock)  # a turn is over
        self._idle: list[threading.Condition] = []  # workers that wait, the last that was busy at the end
        self._heap: list[tuple[float, int, Item]] = []
        self._numbers = itertools.count()
        self._had: dict[Item, float] = {}  # seconds, of all that were added
        self._waiting: set[Item] = set()
        self._running: set[Item] = set()
        self._again: set[Item] = set()  # got something to do while they ran
        self._floor = 0.0  # what the last one served had had
        self._closed = False

    def add(self, item: Item) -> None:
        """Let it have turns from now on."""
        with self._lock:
            self._had[item] = self._floor

    def ready(self, item: Item) -> None:
        """It has something to do. Nothing happens where it was not added or was removed."""
        with self._lock:
            if item not in self._had:
                return
            if item in self._running:
                self._again.add(item)
            elif item not in self._waiting:
                self._push(item)

    def _push(self, item: Item, wake: bool = True) -> None:
        self._had[item] = max(self._had[item], self._floor)
        self._waiting.add(item)
        heapq.heappush(self._heap, (self._had[item], next(self._numbers), item))
        if wake and self._idle:
            self._idle.pop().notify()

    def take(self, timeout: float | None = None) -> Item | None:
        """The next one; None after ``timeout`` seconds, or once closed. Give it back by :meth:`done`."""
        limit = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while not self._closed:
                while self._heap:
                    had, _, item = heapq.heappop(self._heap)
                    if item not in self._waiting:
                        continue  # was removed
                    self._waiting.discard(item)
                    self._running.add(item)
                    self._floor = max(self._floor, had)
                    return item
                left = None if limit is None else limit - time.monotonic()
                if left is not None and left <= 0:
                    return None
                me = threading.Condition(self._lock)
                self._idle.append(me)
                if not me.wait(left) and me in self._idle:
                    self._idle.remove(me)
        return None

    def done(self, item: Item, seconds: float, *, more: bool = False) -> None:
        """It was served. The worker asks for the next one at once.

        Args:
            item: what was taken.
            seconds: that it took.
            more: it has still something to do.
        """
        with self._lock:
            self._running.discard(item)
            if item in self._had:
                self._had[item] += seconds
                if more or item in self._again:
                    self._push(item, wake=bool(self._waiting))  # the worker takes one of them
            self._again.discard(item)
            self._over.notify_all()

    def remove(self, item: Item, timeout: float | None = None) -> bool:
        """Let it have no more turns, and wait until its last one is over.

        Returns:
            Whether it was over within ``timeout`` seconds.
        """
        with self._lock:
            self._had.pop(item, None)
            self._waiting.discard(item)
            return self._over.wait_for(lambda: item not in self._running, timeout)

    @property
    def busy(self) -> int:
        """How many wait or are served."""
        with self._lock:
            return len(self._waiting) + len(self._running)

    def is_busy(self, item: Item) -> bool:
        """Whether it waits or is served."""
        with self._lock:
            return item in self._waiting or item in self._running

    @property
    def waiting(self) -> int:
        """How many wait."""
        with self._lock:
            return len(self._waiting)

    def close(self) -> None:
        """End all waiting for turns."""
        with self._lock:
            self._closed = True
            while self._idle:
                self._idle.pop().notify()
