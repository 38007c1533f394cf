"""How a source on a network is reached, and how long is waited for it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from videoeff.errors import VideoError

PROTOCOLS = ("tcp", "udp", "auto")


@dataclass(frozen=True)
class Transport:
    """How a source on a network is reached.

    Attributes:
        protocol: what carries RTSP's pictures: "tcp", "udp", or "auto", which tries them in turn and keeps
            the one that gave pictures. The other schemes have a carrier of their own.
        timeout: seconds that connecting may take, and as long again the first look at the stream.
        stall: seconds without a picture after which the connection counts as lost. Until a connection's first
            picture, which a key frame has to come for, it is at least `timeout`.
        backoff: seconds before the second attempt, and at most before any; doubled from one to the next, of
            which between half and all is waited. A connection that lived longer than was waited for it
            begins anew.
        options: further options of FFmpeg for the connection, as text. They go before those set here.

    Raises:
        VideoError: a value is out of its range.
    """

    protocol: str = "tcp"
    timeout: float = 10.0
    stall: float = 5.0
    backoff: tuple[float, float] = (0.5, 30.0)
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold passwords

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise VideoError(f"transport: protocol {self.protocol!r}; choose one of {', '.join(PROTOCOLS)}")
        for name in ("timeout", "stall"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise VideoError(f"transport: {name}={value}; give a positive number of seconds")
        first, most = self.backoff
        if not 0 < first <= most < math.inf:
            raise VideoError(
                f"transport: backoff={self.backoff}; give (first, most) seconds, 0 < first <= most"
            )
        wrong = [k for k, v in self.options.items() if not (isinstance(k, str) and isinstance(v, str))]
        if wrong:
            raise VideoError(f"transport: option {wrong[0]!r} is no text; write numbers as text, such as '1'")


class Backoff:
    """How long to wait before the next attempt.

    Args:
        first: seconds before the second attempt.
        most: seconds at most.
    """

    def __init__(self, first: float, most: float) -> None:
        self._first, self._most = first, most
        self._attempts = 0
        self._random = random.Random()  # of its own: nobody's seed makes all cameras come back at once
        self._waited = 0.0

    def wait(self, lived: float, hopeless: bool) -> float:
        """Seconds to wait after an attempt.

        Args:
            lived: seconds for which it gave pictures.
            hopeless: only a change at the other end would help, so there is no hurry.
        """
        if lived > self._waited:
            self._attempts = 0
        full = self._most if hopeless else min(self._first * 2.0 ** min(self._attempts, 64), self._most)
        self._attempts += 1
        self._waited = full * self._random.uniform(0.5, 1.0)
        return self._waited
