"""What passes between a decoding thread and whoever takes its pictures. Any thread may call any of it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable

from videoeff.errors import VideoError
from videoeff.video.live.picture import Picture
from videoeff.video.live.state import Counters

POLICIES = ("latest", "every")


class Handover:
    """Pictures that wait, the state and the counters of a source, under one lock.

    Args:
        policy: "latest": only the newest picture waits; "every": as many as `limit`.
        limit: pictures that may wait.
        patience: seconds for which the decoding thread waits while the queue is full, before the oldest
            picture is dropped; None: for as long as it takes. Where nobody took a picture since one was
            dropped, it does not wait again.

    Raises:
        VideoError: there is no such policy, or `limit` is not positive.
    """

    def __init__(self, policy: str, limit: int, patience: float | None) -> None:
        if policy not in POLICIES:
            raise VideoError(f"policy {policy!r}; choose one of {', '.join(POLICIES)}")
        if limit < 1:
            raise VideoError(f"queue={limit}: at least one picture waits; give a positive number")
        self._limit = 1 if policy == "latest" else limit
        self._patience = 0.0 if policy == "latest" else patience
        self._changed = threading.Condition()
        self._queue: deque[Picture] = deque()
        self._counters = Counters()
        self._state, self._why = "connecting", ""
        self._taken = True  # since a picture was dropped
        self._calls: list[Callable[[], None]] = []

    @property
    def over(self) -> bool:
        """Whether no more pictures come."""
        return self._state in ("ended", "closed")

    @property
    def state(self) -> str:
        """One of :data:`~videoeff.video.live.state.STATES`."""
        return self._state

    @property
    def why(self) -> str:
        """Why it is lost or has ended."""
        return self._why

    @property
    def counters(self) -> Counters:
        """The counters of this moment."""
        with self._changed:
            return self._counters

    def count(self, **more: int) -> None:
        """Add to counters, by their names."""
        with self._changed:
            self._add(more)

    def put(self, picture: Picture) -> None:
        """Let a picture wait; wait for room where the policy says so. Nothing where it is over."""
        with self._changed:
            self._add({"decoded": 1})
            if len(self._queue) >= self._limit and self._taken and self._patience != 0:
                self._changed.wait_for(lambda: len(self._queue) < self._limit or self.over, self._patience)
            if self.over:
                return
            if len(self._queue) >= self._limit:
                self._queue.popleft()
                self._add({"late": 1})
                self._taken = False
            self._queue.append(picture)
            self._changed.notify_all()
        self.tell()

    def take(self, timeout: float | None) -> Picture | None:
        """The picture that waits longest; None if none came in so many seconds, or no more will come."""
        with self._changed:
            if not self._queue and timeout != 0:
                self._changed.wait_for(lambda: self._queue or self.over, timeout)
            if not self._queue:
                return None
            self._add({"delivered": 1})
            self._taken = True
            self._changed.notify_all()
            return self._queue.popleft()

    def waiting(self) -> int:
        """Pictures that wait."""
        with self._changed:
            return len(self._queue)

    def become(self, state: str, why: str = "") -> bool:
        """Change the state; whether that was a change. What has ended can only be closed."""
        with self._changed:
            if (state, why) == (self._state, self._why) or self._state == "closed":
                return False
            if self._state == "ended" and state != "closed":
                return False
            self._state, self._why = state, why
            if state == "closed":
                self._queue.clear()
            self._changed.notify_all()
            return True

    def when_ready(self, call: Callable[[], None]) -> None:
        """Call this after each picture and each change of state."""
        with self._changed:
            self._calls.append(call)

    def tell(self) -> None:
        """Make these calls."""
        for call in tuple(self._calls):
            call()

    def pause(self, seconds: float) -> bool:
        """Wait, and tell whether it is over before the time is."""
        end = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: self.over, end - time.monotonic())

    def _add(self, more: dict[str, int]) -> None:
        counts = self._counters
        changes = {name: getattr(counts, name) + count for name, count in more.items()}
        self._counters = dataclasses.replace(counts, **changes)
