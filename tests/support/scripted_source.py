"""A source of pictures that a test holds in its hand."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from videoeff.video.clip import Decoded
from videoeff.video.live import Counters, Picture

Frame = NDArray[np.uint8]


class ScriptedSource:
    """A source whose pictures a test gives. ``keep=1`` is the policy "latest"; None keeps all."""

    network = False

    def __init__(
        self, frames: Iterable[Frame] = (), *, keep: int | None = None, address: str = "script"
    ) -> None:
        self.address, self.state, self.why = address, "connecting", ""
        self._keep, self._waiting = keep, deque[Picture]()
        self._counts = {"decoded": 0, "delivered": 0, "late": 0}
        self._lock, self._calls = threading.Condition(), list[Callable[[], None]]()
        self._first = list(frames)
        self._then_end = bool(self._first)
        self.started = 0

    # -- for the test ----------------------------------------------------------------------------------

    def give(self, frame: Frame, *, arrived: float | None = None) -> None:
        now = time.monotonic() if arrived is None else arrived
        with self._lock:
            if self.state == "closed":
                return
            number = self._counts["decoded"]
            self._counts["decoded"] += 1
            self._waiting.append(
                Picture.of(
                    Decoded((frame.shape[0], frame.shape[1]), lambda: frame),
                    number=number,
                    time=number / 10,
                    arrived=now,
                    wall=time.time(),
                )
            )
            while self._keep is not None and len(self._waiting) > self._keep:
                self._waiting.popleft()
                self._counts["late"] += 1
        self.become("live")

    def become(self, state: str, why: str = "") -> None:
        with self._lock:
            if self.state != "closed":
                self.state, self.why = state, why
            calls = list(self._calls)
            self._lock.notify_all()
        for call in calls:
            call()

    # -- the protocol ----------------------------------------------------------------------------------

    @property
    def counters(self) -> Counters:
        with self._lock:
            return Counters(**self._counts)

    def start(self) -> None:
        self.started += 1
        if self.started == 1:
            for frame in self._first:
                self.give(frame)
            if self._then_end:
                self.become("ended")

    def take(self, timeout: float | None = 0) -> Picture | None:
        with self._lock:
            if not self._waiting:
                self._lock.wait_for(lambda: bool(self._waiting), timeout)
            if not self._waiting:
                return None
            self._counts["delivered"] += 1
            return self._waiting.popleft()

    def waiting(self) -> int:
        with self._lock:
            return len(self._waiting)

    def when_ready(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.append(call)

    def close(self) -> None:
        self.become("closed")

    def __iter__(self) -> Iterator[Picture]:
        while (shot := self.take(1)) is not None:
            yield shot

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
