"""A camera of a fleet: where its pictures come from, what was made of them, and who is told."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from videoeff.fleet.output import Output, Subscription
from videoeff.fleet.status import CameraStatus, Figures, Spread

if TYPE_CHECKING:
    from videoeff.runtime.fidelity import Drift
    from videoeff.runtime.report import Report
    from videoeff.video.live import Picture, Source

#: Pictures that percentiles of times are of.
REMEMBERED = 512
#: Seconds that the rate is a mean over.
RATE_OVER = 10.0
#: Seconds that a heat map goes on being made after it was asked for.
HEAT_KEPT = 10.0

log = logging.getLogger("videoeff.fleet")


@dataclass
class Tally:
    """What became of a camera's pictures."""

    frames: int = 0
    refused: int = 0
    skipped: int = 0
    ms: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    waited_ms: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=2048))  # of the last pictures, monotonic

    def rate(self, now: float, since: float) -> float:
        """Pictures a second over the last ten, or since the camera was added."""
        span = min(RATE_OVER, now - since)
        if self.ends.maxlen == len(self.ends):
            span = min(span, now - self.ends[0])
        return sum(end > now - span for end in self.ends) / span if span > 0 else 0.0


class Served(Protocol):
    """What a camera asks of the lane that it is in."""

    @property
    def seats(self) -> int:
        """Cameras that its stream serves, free seats included."""

    @property
    def evicted(self) -> bool:
        """Whether its state lies on the disk."""

    def figures(self) -> Figures:
        """What its stream says of itself."""

    def report(self) -> Report | None:
        """The stream's report."""

    def reset(self, seat: int) -> None:
        """Compute the next picture of a seat whole."""


class Camera:
    """One camera of a fleet. Made by ``Fleet.add``.

    Attributes:
        name: its name.
        source: where its pictures come from.
        latest: the last output; None before there is one.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        lane: Served,
        seat: int,
        *,
        fps: float | None = None,
        on_output: Callable[[Output], None] | None = None,
    ) -> None:
        self.name, self.source = name, source
        self.latest: Output | None = None
        self._lane, self._seat, self._fps, self._on_output = lane, seat, fps, on_output
        self._lock = threading.Lock()
        self._tally, self._since = Tally(), time.monotonic()
        self._failing = ""
        self._drifting = False
        self._due: float | None = None  # when the next picture may be taken, for `fps`
        self._subscriptions: tuple[Subscription, ...] = ()
        self._heat: NDArray[np.float32] | None = None
        self._heat_until = 0.0

    # -- for users -------------------------------------------------------------------------------------

    def status(self) -> CameraStatus:
        """What it does."""
        lane, now = self._lane, time.monotonic()
        found = lane.figures()
        with self._lock:
            tally, failing = self._tally, self._failing
            state = self.source.state
            return CameraStatus(
                name=self.name,
                address=self.source.address,
                state="failing" if failing and state == "live" else state,
                why=failing or self.source.why,
                counters=self.source.counters,
                frames=tally.frames,
                refused=tally.refused,
                skipped=tally.skipped,
                waiting=self.source.waiting(),
                fps=tally.rate(now, self._since),
                work_share=found.work_share,
                ms=Spread.of(tally.ms),
                waited_ms=Spread.of(tally.waited_ms),
                audit_error=found.audit_error,
                drifting=self._drifting,
                state_bytes=found.state_bytes,
                batch=lane.seats,
                evicted=lane.evicted,
                uptime=now - self._since,
            )

    def subscribe(self, queue: int = 8) -> Subscription:
        """Every output from now on; a reader that is too slow loses the oldest.

        Args:
            queue: outputs that wait at most.
        """
        made = Subscription(max(1, queue), self._unsubscribe)
        with self._lock:
            self._subscriptions = (*self._subscriptions, made)
        return made

    def report(self) -> Report | None:
        """The report of its stream, or of the batch that it is in; None while its state lies on the disk."""
        return self._lane.report()

    def heat(self) -> NDArray[np.float32] | None:
        """Share of the layers computing at each place, of the last picture: (h, w), 0..1, over the frame.

        It is made from the picture after the first call on, and until nobody asked for ten seconds; that
        costs time. None before there is one.
        """
        self._heat_until = time.monotonic() + HEAT_KEPT
        return self._heat

    def reset(self) -> None:
        """Compute the next picture whole."""
        self._lane.reset(self._seat)

    # -- for the lane ----------------------------------------------------------------------------------

    @property
    def wants_heat(self) -> bool:
        """Whether somebody asked for a heat map of late."""
        return time.monotonic() < self._heat_until

    def take(self) -> Picture | None:
        """The picture that is computed next; those that come too soon for the rate asked for are left out."""
        while (picture := self.source.take(0)) is not None:
            if self._is_due(picture):
                return picture
            with self._lock:
                self._tally.skipped += 1
        return None

    def _is_due(self, picture: Picture) -> bool:
        if self._fps is None:
            return True
        step, slack = 1.0 / self._fps, 0.1 / self._fps  # cameras do not keep to their rate to the millisecond
        if self._due is not None and picture.arrived < self._due - slack:
            return False
        late = self._due is None or picture.arrived > self._due + step
        self._due = (picture.arrived if late else self._due or 0.0) + step
        return True

    def computed(self, output: Output, heat: NDArray[np.float32] | None) -> None:
        """A picture was computed: keep it and tell whoever wants to know."""
        with self._lock:
            self._tally.frames += 1
            self._tally.ms.append(output.ms)
            self._tally.waited_ms.append(output.waited_ms)
            self._tally.ends.append(time.monotonic())
            self._failing = ""
            self.latest, self._heat = output, heat
            subscriptions = self._subscriptions
        for subscription in subscriptions:
            subscription.put(output)
        if self._on_output is not None:
            try:
                self._on_output(output)
            except Exception as error:  # noqa: BLE001 - the user's code; the camera goes on
                log.warning("camera %s: on_output failed: %r", self.name, error)

    def refuse(self, why: str) -> None:
        """A picture could not be computed."""
        with self._lock:
            self._tally.refused += 1
            changed, self._failing = why != self._failing, why
        if changed:
            log.warning("camera %s: %s", self.name, why)

    def drifted(self, drift: Drift | None) -> None:
        """An audit found that the fidelity left its bound, or (None) that it is inside again."""
        self._drifting = drift is not None
        if drift is not None:
            log.warning("camera %s: %s", self.name, drift)

    def end(self) -> None:
        """It was removed: nobody is told anything any more."""
        for subscription in self._subscriptions:
            subscription.close()

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)


def shown_heat(heat: Any, preprocess: Any, size: tuple[int, int], scale: int) -> NDArray[np.float32]:
    """The part of a heat map of the network's input that shows the frame, without a letterbox's padding.

    Args:
        heat: makes the map (h, w) of a size.
        preprocess: how the frame became the input.
        size: (H, W) of the frame.
        scale: pixels of the frame or input to a pixel of the map.
    """
    inside = preprocess.size or size
    there = preprocess.place(size)
    h, w = (max(1, n // scale) for n in inside)
    top, bottom = (round(n * h / inside[0]) for n in (there.top, there.top + there.height))
    left, right = (round(n * w / inside[1]) for n in (there.left, there.left + there.width))
    found: NDArray[np.float32] = heat(h, w)[top : max(bottom, top + 1), left : max(right, left + 1)]
    return found
