"""Pictures at their own rate, where they could be had faster."""

from __future__ import annotations

import time

from videoeff.video.live.handover import Handover


class Pace:
    """Holds pictures back until their time has come.

    Args:
        strict: the schedule stands: after a delay pictures come faster until it is caught up with. Else it is
            put off by the delay.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._origin: float | None = None

    def hold(self, due: float, handover: Handover) -> bool:
        """Wait until a picture's time, in seconds of its source's clock; False if the source ends before."""
        now = time.monotonic()
        if self._origin is None:
            self._origin = now - due
        early = self._origin + due - now
        if early <= 0:
            self._origin -= 0.0 if self._strict else early
            return True
        return not handover.pause(early)
