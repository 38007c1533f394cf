"""One clock for a source: time stamps that go on over reconnections and jumps."""

from __future__ import annotations

from videoeff.video.clip import RESTART

#: Seconds by which a stamp may step further ahead than its picture came later. Pictures get lost in bursts.
JUMP = 5.0

_LEAST = 1e-3  # seconds between two pictures
_BACK = 0.1  # seconds by which a live stamp may go back, since damage brings pictures out of order


class Stamps:
    """Turns a source's time stamps into times that only go forward, from 0 at the first picture.

    Args:
        live: pictures come as time passes. Then the time until the next connection counts, stamps that jump
            ahead of it are set right, and pictures without a stamp get the time of their arrival. Else, as
            with a file, the next pass goes on one step after the last picture, and no stamp means no time.
    """

    def __init__(self, live: bool) -> None:
        self._live = live
        self._last: float | None = None
        self._arrived = 0.0
        self._shift: float | None = None  # None: the next stamp begins anew
        self._doubt: float | None = None  # the shift if the last stamp, which fitted badly, was no error
        self._step, self._measured = 0.04, False

    def anew(self, step: float) -> None:
        """Stamps begin anew: another connection, or another pass over a file.

        Args:
            step: seconds from one picture to the next, about.
        """
        self._shift, self._doubt = None, None
        if not self._measured:
            self._step = step

    def next(self, stamp: float | None, arrived: float) -> float | None:
        """The time of the next picture.

        Args:
            stamp: of the picture, in seconds; None for none.
            arrived: when it came, in seconds of a clock that only goes forward.
        """
        if stamp is None and not self._live:
            return None
        passed = arrived - self._arrived
        last, self._arrived = self._last, arrived
        if last is None:
            found = 0.0
            self._shift = None if stamp is None else -stamp
        elif stamp is None:
            found = last + passed
        else:
            found = self._placed(stamp, last, passed)
        self._last = found if last is None else max(found, last + _LEAST)
        return self._last

    def _placed(self, stamp: float, last: float, passed: float) -> float:
        """The time of a stamp, where there was a picture before."""
        for shift in (self._shift, self._doubt):
            if shift is not None and self._fits(stamp + shift - last, passed):
                self._shift, self._doubt = shift, None
                step = stamp + shift - last
                if self._live and 0 < step < 1:
                    self._step, self._measured = step, True
                return stamp + shift
        # One damaged stamp must not move the clock: only where the next one agrees with it, stamps jumped.
        found = last + (max(self._step, passed) if self._live else self._step)
        self._doubt = found - stamp
        if self._shift is None or not self._live:
            self._shift = self._doubt
        return found

    def _fits(self, step: float, passed: float) -> bool:
        if not self._live:
            return step >= -RESTART
        return -_BACK <= step <= passed + JUMP
