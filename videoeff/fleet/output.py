"""What a camera's network returned, and who wants to know."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from videoeff.video.live import Picture
    from videoeff.video.preprocess import Preprocess


@dataclass(frozen=True)
class Output:
    """What the network returned for one picture.

    Attributes:
        camera: the camera's name.
        picture: the picture; its frame is (H, W, 3), uint8 RGB.
        outputs: what the network returned; of one camera, also where several share a batch.
        preprocess: how the picture became the network's input.
        waited_ms: from decoding to the begin of computing.
        ms: preprocessing and network. Of a batch, the whole batch.
    """

    camera: str
    picture: Picture
    outputs: Any
    preprocess: Preprocess
    waited_ms: float
    ms: float

    @property
    def number(self) -> int:
        """The picture's number."""
        return self.picture.number

    @property
    def time(self) -> float | None:
        """When the picture was taken, in seconds of the source's clock."""
        return self.picture.time

    @property
    def wall(self) -> float:
        """When it was decoded, in seconds since 1970."""
        return self.picture.wall


class Subscription:
    """Every output of a camera from now on, for one reader, who may be slow: the oldest are lost then.

    Args:
        queue: outputs that wait at most.
        end: called with this subscription when it is closed.
    """

    def __init__(self, queue: int, end: Callable[[Subscription], None]) -> None:
        self._outputs: deque[Output] = deque()
        self._most, self._end = queue, end
        self._changed = threading.Condition()
        self._closed = False
        #: Outputs that were lost because they were not read in time.
        self.lost = 0

    @property
    def closed(self) -> bool:
        """Whether no more outputs come, because the camera was removed or the subscription closed."""
        return self._closed

    def put(self, output: Output) -> None:
        """Add an output."""
        with self._changed:
            if self._closed:
                return
            if len(self._outputs) >= self._most:
                self._outputs.popleft()
                self.lost += 1
            self._outputs.append(output)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Output | None:
        """The oldest output not read yet; None if none comes within ``timeout`` seconds, or ever."""
        limit = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._outputs:
                left = None if limit is None else limit - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
            return self._outputs.popleft()

    def close(self) -> None:
        """End it; what waits can still be read."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.notify_all()
        if first:
            self._end(self)

    def __iter__(self) -> Iterator[Output]:
        """Outputs until the camera is removed or the subscription closed."""
        while (output := self.get()) is not None:
            yield output

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
