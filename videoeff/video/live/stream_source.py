"""Cameras and networks as a source, which connects again when it is lost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Protocol

from videoeff.video.clip import Decoded
from videoeff.video.live.handover import Handover
from videoeff.video.live.pace import Pace
from videoeff.video.live.source import DecodingSource
from videoeff.video.live.stamps import Stamps
from videoeff.video.live.transport import Backoff


class Reader(Protocol):
    """Reads one connection after the other.

    Attributes:
        why: why the last connection is over.
        hopeless: only a change at the other end would help.
        finished: the stream has come to its end.
        bursts: pictures come in bursts, far faster than they are shown. Known from the first picture on.
        step: seconds from one picture to the next, about. Known from the first picture on.
    """

    why: str
    hopeless: bool
    finished: bool
    bursts: bool
    step: float

    def pictures(
        self, over: Callable[[], bool], refused: Callable[[], None]
    ) -> Generator[tuple[Decoded, float | None]]:
        """Connect, and yield pictures with their time stamps, in seconds, until the connection is over.

        Args:
            over: whether to give up; asked for between packets.
            refused: called for each packet that the decoder refused.
        """


class StreamSource(DecodingSource):
    """A camera or a network as a source.

    Args:
        address: what was opened, with passwords blanked.
        network: whether it is reached over a network.
        reader: reads it.
        handover: where pictures go.
        backoff: how long is waited before it connects again.
        frames: end after so many pictures; None for no end.
        pace: give pictures at their own rate also where the policy is to wait for all of them.
        loop: begin again when the stream has come to its end.
    """

    def __init__(
        self,
        address: str,
        network: bool,
        reader: Reader,
        handover: Handover,
        backoff: Backoff,
        frames: int | None,
        pace: bool,
        loop: bool,
    ) -> None:
        super().__init__(address, network, handover, frames)
        self._reader, self._backoff, self._paced, self._loop = reader, backoff, pace, loop

    def _run(self) -> str:
        stamps = Stamps(live=True)
        while True:
            lived = self._connection(stamps)
            if self._handover.over:
                return ""
            if self._number == self._frames:
                return f"the {self._frames} pictures asked for have come"
            finished = self._reader.finished and lived is not None
            if finished and not self._loop:
                return "it came to its end"
            if not finished:
                self._handover.count(lost=lived is not None)
                self._become("lost", self._reader.why)
                if self._handover.pause(self._backoff.wait(lived or 0.0, self._reader.hopeless)):
                    return ""

    def _connection(self, stamps: Stamps) -> float | None:
        """Read one connection; for how many seconds it gave pictures, None for never."""
        began: float | None = None
        pace: Pace | None = None
        reading = self._reader.pictures(lambda: self._handover.over, lambda: self._handover.count(refused=1))
        with contextlib.closing(reading):
            for decoded, stamp in reading:
                now = time.monotonic()
                if began is None:
                    began = now
                    stamps.anew(self._reader.step)
                    pace = Pace(strict=False) if self._paced or self._reader.bursts else None
                    self._handover.count(connections=1)
                    self._become("live")
                when = stamps.next(stamp, now)
                if not self._hand_on(decoded, when, pace, when):
                    break
        return None if began is None else time.monotonic() - began

    def _release(self) -> None:
        """Nothing: a connection is closed when it is over."""
