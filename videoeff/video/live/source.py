"""What a source of pictures is, and what all sources share: a decoding thread and its handover."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from videoeff.errors import VideoError, first_line
from videoeff.video.clip import Decoded
from videoeff.video.live.ending import CLOSING, stop_at_end
from videoeff.video.live.handover import Handover
from videoeff.video.live.pace import Pace
from videoeff.video.live.picture import Picture
from videoeff.video.live.state import Counters


@runtime_checkable
class Source(Protocol):
    """Pictures of a file, a folder, a camera or a network, decoded in a thread of its own.

    Best used in a `with` block, which starts and closes it; iterating starts it too.

    Attributes:
        address: what was opened, with passwords blanked; every message names it.
        network: whether it is reached over a network.
    """

    address: str
    network: bool

    @property
    def state(self) -> str:
        """One of :data:`~videoeff.video.live.state.STATES`."""

    @property
    def why(self) -> str:
        """Why it is "lost" or "ended"; "" in other states."""

    @property
    def counters(self) -> Counters:
        """What it counted, all at one moment."""

    def start(self) -> None:
        """Start the decoding thread; starting again does nothing.

        Raises:
            VideoError: it was closed.
        """

    def take(self, timeout: float | None = 0) -> Picture | None:
        """The picture that waits longest; with the policy "latest" that is the newest.

        Args:
            timeout: seconds to wait for one; None waits until one comes or the source has ended.

        Returns:
            None if none came in time, or if no more will come.
        """

    def waiting(self) -> int:
        """Pictures that wait to be taken."""

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have `call` called after each picture that was queued and after each change of state.

        It is called from the decoding thread, and holds it up as long as it runs. Where that thread never
        ran or has ended, closing calls it.
        """

    def close(self) -> None:
        """Stop, within about a second; closing twice is fine. Pictures that wait are dropped.

        A thread that hangs in FFmpeg is left behind. It ends by itself when the time of its
        :class:`~videoeff.video.live.transport.Transport` is over, and closes its connection then.
        """

    def __iter__(self) -> Iterator[Picture]:
        """Yield pictures until the source has ended or is closed."""

    def __enter__(self) -> Self:
        """Start."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class DecodingSource(abc.ABC):
    """A :class:`Source` with a thread that decodes.

    Args:
        address: what was opened, with passwords blanked.
        network: whether it is reached over a network.
        handover: where pictures go.
        frames: end after so many pictures; None for no end.
    """

    def __init__(self, address: str, network: bool, handover: Handover, frames: int | None) -> None:
        self.address, self.network = address, network
        self._handover, self._frames = handover, frames
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._number = 0
        self._size: tuple[int, int] | None = None
        self._told = False  # that it is closed

    @property
    def state(self) -> str:
        """One of :data:`~videoeff.video.live.state.STATES`."""
        return self._handover.state

    @property
    def why(self) -> str:
        """Why it is "lost" or "ended"; "" in other states."""
        return self._handover.why

    @property
    def counters(self) -> Counters:
        """What it counted, all at one moment."""
        return self._handover.counters

    def start(self) -> None:
        """Start the decoding thread; starting again does nothing.

        Raises:
            VideoError: it was closed.
        """
        if not self._begin():
            raise VideoError(f"{self.address}: the source is closed; open it again")

    def _begin(self) -> bool:
        """Start the thread where there is none; False if the source is closed."""
        with self._starting:
            if self.state == "closed":
                return False
            if self._thread is None:
                # A daemon: what hangs in FFmpeg must not keep the program from ending.
                self._thread = threading.Thread(
                    target=self._work, name=f"videoeff source {self.address}", daemon=True
                )
                self._thread.start()
                stop_at_end(self._thread, self._handover)
            return True

    def take(self, timeout: float | None = 0) -> Picture | None:
        """The picture that waits longest, as :meth:`Source.take`; starts the source."""
        self._begin()
        return self._handover.take(timeout)

    def waiting(self) -> int:
        """Pictures that wait to be taken."""
        return self._handover.waiting()

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have `call` called after each picture and each change of state, as :meth:`Source.when_ready`."""
        self._handover.when_ready(call)

    def close(self) -> None:
        """Stop, within about a second, as :meth:`Source.close`."""
        with self._starting:
            self._handover.become("closed")
            thread = self._thread
        if thread is None:
            self._release()
        elif thread is not threading.current_thread():
            thread.join(CLOSING)
        if thread is None or not thread.is_alive():
            self._tell_closed()

    def __iter__(self) -> Iterator[Picture]:
        """Yield pictures until the source has ended or is closed."""
        while (picture := self.take(None)) is not None:
            yield picture

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}: {self.state}>"

    @abc.abstractmethod
    def _run(self) -> str:
        """Decode until it is over; why there is no more."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Let go of what is open."""

    def _work(self) -> None:
        """The decoding thread."""
        why = "its decoding thread failed"
        try:
            why = self._run()
        except VideoError as error:
            why = first_line(error)
        finally:
            try:
                self._release()
            finally:
                self._become("ended", why)
                if self.state == "closed":
                    self._tell_closed()

    def _become(self, state: str, why: str = "") -> None:
        """Change the state, and say so."""
        if self._handover.become(state, why):
            self._handover.tell()

    def _tell_closed(self) -> None:
        with self._starting:
            told, self._told = self._told, True
        if not told:
            self._handover.tell()

    def _hand_on(self, decoded: Decoded, when: float | None, pace: Pace | None, due: float | None) -> bool:
        """Hand a picture on, at its time; whether more are wanted.

        Args:
            decoded: the picture.
            when: its time, in seconds.
            pace: holds it back until its time; None for at once.
            due: its time for that, in seconds.
        """
        if pace is not None and due is not None and not pace.hold(due, self._handover):
            return False
        if self._handover.over:
            return False
        self._handover.count(
            damaged=decoded.damaged, resized=self._size is not None and decoded.size != self._size
        )
        self._size = decoded.size
        picture = Picture.of(
            decoded, number=self._number, time=when, arrived=time.monotonic(), wall=time.time()
        )
        self._number += 1
        self._handover.put(picture)
        return self._number != self._frames and not self._handover.over
