"""What a clip is: frames in order, the time of each, and what was found wrong on the way."""

from __future__ import annotations

import abc
import itertools
import statistics
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

DEFAULT_FPS = 25.0  # for images and cameras that state no rate

#: Seconds by which time stamps may be off where a container keeps whole milliseconds.
ROUNDING = 0.002

#: Seconds that time stamps may go back by damage; further back they began anew, as in files put together.
RESTART = 1.0


@dataclass(frozen=True, eq=False)
class Decoded:
    """A frame as its decoder gave it, not yet made RGB.

    Attributes:
        size: (H, W) in pixels, as it is shown.
        frame: makes (H, W, 3), uint8 RGB, of it; (H, W, 4) with alpha where that was asked for. Each call
            does the work again. It may be called after the clip is closed, and in any thread.
        damaged: the decoder says that parts are made up.
    """

    size: tuple[int, int]
    frame: Callable[[], Frame]
    damaged: bool = False


class Clip(abc.ABC):
    """A clip opened for reading: iterate over it, best inside a `with` block.

    Each iteration over a file or a folder starts at the first frame; a camera goes on where it is.

    Attributes:
        source: what was opened, as text.
        size: (H, W) of every frame as it is shown, in pixels.
        fps: frames per second. 25.0 where the source does not say. What the header says before an iteration;
            after one the mean rate of the frames read, where their times disagree with the header.
        frame_count: frames that iterating gives if the clip is whole; None if the source does not say.
        decoder: name and version of what decodes the frames, e.g. "pyav 18.1.0 / h264".
        time: when the frame that came last is shown, in seconds after the first; None where the source does
            not say. Stamps that begin anew on the way count on.
        truncated: None, or after an iteration that ended early, the reason it did.
        lost: packets of the file that gave no frame, because they or what they build on are damaged. Complete
            when an iteration has ended by itself.
        damaged: frames that came, of which the decoder says that parts are made up.
        skipped: frames that the time stamps step over in a clip of an otherwise steady rate, and that are not
            among the lost ones: the file does not hold them. Known after an iteration.
        any_size: whether an iteration goes on where frames of another size come.
    """

    source: str
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    decoder: str
    time: float | None = None
    truncated: str | None = None
    lost: int = 0
    damaged: int = 0
    skipped: int = 0
    any_size: bool = False

    def __init__(self, source: str, limit: int | None) -> None:
        self.source = source
        self._limit = limit

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames (H, W, 3), uint8 RGB; (H, W, 4) with alpha where that was asked for.

        Damaged frames in the middle are left out and counted in `lost`; where nothing more can be read, the
        loop ends and `truncated` is set.
        """
        for decoded in self.decoded():
            yield decoded.frame()

    def decoded(self, *, any_size: bool = False) -> Generator[Decoded]:
        """Iterate as over the clip itself, but leave the making of RGB pixels to who wants them.

        Args:
            any_size: go on where frames of another size come; else the clip ends there and says so.
        """
        self.any_size = any_size
        self.truncated, self.time = None, None
        times: list[float] = []
        begin: float | None
        begin, shift = None, 0.0  # of the stamps since they began anew
        reader = self._read()
        try:
            for decoded, time in itertools.islice(reader, self._limit):
                if time is not None:
                    begin = time if begin is None else begin
                    if times and (time <= begin or time + shift < times[-1] - RESTART):
                        begin, shift = time, times[-1] + 1.0 / self.fps - time
                    times.append(time + shift)
                self.time = None if time is None else times[-1] - times[0]
                yield decoded
        finally:
            self._judge_times(times)

    def _judge_times(self, times: Sequence[float]) -> None:
        """Correct the rate by the times of the frames that were read, and look for frames left out."""
        times = sorted(times)  # damage can bring frames out of order
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        if span <= 0:
            return
        jumped, steady = stepped_over(times)
        self.skipped = max(0, jumped - self.lost) if steady else 0
        shown = len(times) - 1 + min(self.lost, jumped) + self.skipped
        # Of a damaged file nobody knows how much it lacks: if the gaps fit the header's rate, it holds.
        counts = [shown, len(times) - 1 + jumped] if self.lost else [shown]
        if all(abs(count / self.fps - span) > max(0.01 * span, ROUNDING) for count in counts):
            self.fps = shown / span

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - a folder has nothing to release
        """Release the file or the camera. Closing twice is fine."""

    @abc.abstractmethod
    def _read(self) -> Iterator[tuple[Decoded, float | None]]:
        """Yield every frame from the start and its time in seconds; set `truncated` when stopping early."""

    def _count(self, known: int | None) -> int | None:
        return known if known is None or self._limit is None else min(known, self._limit)


def stepped_over(times: Sequence[float]) -> tuple[int, bool]:
    """How many frames of the usual distance would fit into the gaps between times, in seconds.

    Returns:
        The number, and whether the clip has one rate all the same: nine of ten steps have the usual length,
        and the others are multiples of it.
    """
    steps = [b - a for a, b in itertools.pairwise(times) if b > a]
    if not steps:
        return 0, False
    usual = statistics.median(steps)
    odd = [s for s in steps if abs(s - usual) > max(0.1 * usual, ROUNDING)]
    steady = len(odd) <= 0.1 * len(steps) and all(abs(s / usual - round(s / usual)) <= 0.1 for s in odd)
    return sum(round(s / usual) - 1 for s in odd if s > usual), steady
