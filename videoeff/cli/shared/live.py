"""Addresses on a network as the clip of a command."""

from __future__ import annotations

import functools
import time
from collections.abc import Generator, Iterator
from typing import Any

import click
import numpy as np

from videoeff.errors import VideoError
from videoeff.video.clip import DEFAULT_FPS, Clip, Decoded, Frame
from videoeff.video.live import Picture, Source, Transport, open_source

#: Seconds that the first picture may take.
FIRST = 30.0

_LOOK = 0.5  # seconds between two looks at what the source says of itself


class LiveClip(Clip):
    """A network's pictures as a clip: what a command reads until it is stopped.

    Args:
        source: opened; the clip closes it.
        limit: stop after this many frames; None for no limit.
        seconds: stop so many seconds after the first frame was asked for; None for no limit.
        command: that reads it, for messages.

    Attributes:
        alpha: give frames (H, W, 4), with the opacity 255.
        resizes: go on where frames of another size come; else the clip ends there and says so.

    Raises:
        VideoError: no picture came within :data:`FIRST` seconds.
    """

    def __init__(self, source: Source, limit: int | None, seconds: float | None, command: str) -> None:
        import av

        super().__init__(source.address, limit)
        self.alpha = self.resizes = False
        self.fps, self.frame_count, self.decoder = DEFAULT_FPS, limit, f"pyav {av.__version__}"
        self._live, self._seconds, self._command = source, seconds, command
        self._said = ""
        try:
            self._first = self._wait(FIRST)
        except BaseException:
            source.close()
            raise
        self.size = self._first.size

    def _wait(self, most: float) -> Picture:
        self._live.start()
        picture = self._take(time.monotonic() + most)
        if picture is None:
            why = self._live.why or "it gave none"
            raise VideoError(f"{self.source}: no picture came within {most:g} s: {why}; check the address")
        return picture

    def _take(self, end: float) -> Picture | None:
        """The next picture; None if none comes until then, or any more."""
        while True:
            over = self._live.state in ("ended", "closed")  # asked for first: its last picture may yet wait
            picture = self._live.take(max(0.0, min(_LOOK, end - time.monotonic())))
            self._say()
            counts = self._live.counters
            self.lost, self.damaged = counts.refused, counts.damaged
            if picture is not None or over or time.monotonic() >= end:
                return picture

    def _say(self) -> None:
        """Tell of a connection that was lost, or is there again."""
        why = self._live.why if self._live.state == "lost" else ""
        if why != self._said:
            text = f"lost: {why}; trying again" if why else "there again"
            click.echo(f"videoeff {self._command}: {self.source}: {text}", err=True)
            self._said = why

    def decoded(self, *, any_size: bool = False) -> Generator[Decoded]:
        """Yield pictures from the first one on, until there are enough of them."""
        self.truncated = None
        for count, (picture, shown) in enumerate(self._read()):
            if picture.size != self.size and not (any_size or self.resizes):
                self.truncated = f"frame {count} has another size: {picture.size} after {self.size}"
                return
            self.time = shown
            if shown > 0:
                self.fps = count / shown
            yield picture
            if count + 1 == self._limit:
                return

    def _read(self) -> Iterator[tuple[Decoded, float]]:
        end = float("inf") if self._seconds is None else time.monotonic() + self._seconds
        picture: Picture | None = self._first
        begin = self._first.time or 0.0
        while picture is not None:
            yield (
                Decoded(picture.size, functools.partial(self._frame, picture)),
                (picture.time or 0.0) - begin,
            )
            picture = None if time.monotonic() >= end else self._take(end)

    def _frame(self, picture: Picture) -> Frame:
        if not self.alpha:
            return picture.frame
        opacity = np.full((*picture.size, 1), 255, np.uint8)
        return np.concatenate([picture.frame, opacity], axis=2)

    def close(self) -> None:
        """Close the source."""
        self._live.close()

    def to_json(self) -> dict[str, Any]:
        """What the source says of itself, for reports."""
        live = self._live
        return {
            "address": self.source,
            "state": live.state,
            "why": live.why,
            "counters": live.counters.to_json(),
        }

    def notes(self) -> tuple[str, ...]:
        """The same for people."""
        live, counts = self._live, self._live.counters
        state = f"{live.state} ({live.why})" if live.why else live.state
        found = [
            f"{self.source}: {state} at the end; connected {counts.connections} time(s), lost {counts.lost}",
            f"of {counts.decoded} decoded frame(s) {counts.late} came too late and were dropped",
        ]
        if counts.resized:
            found.append(f"the size of the frames changed {counts.resized} time(s)")
        return tuple(found)


def open_live(
    address: str,
    frames: int | None,
    seconds: float | None,
    *,
    command: str,
    protocol: str | None,
    policy: str | None,
    stall: float | None,
) -> LiveClip:
    """Open an address on a network for a command; options that are None keep their defaults.

    Raises:
        VideoError: it cannot be read, or no picture came in time.
    """
    given = {"protocol": protocol, "stall": stall}
    transport = Transport(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    return LiveClip(open_source(address, policy=policy, transport=transport), frames, seconds, command)
