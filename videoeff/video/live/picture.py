"""One decoded picture of a source."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from videoeff.video.clip import Decoded, Frame


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture.

    Attributes:
        number: counts all pictures that its source decoded, from 0, dropped ones too and over reconnections.
        time: when it is shown, in seconds after the source's first picture, on the source's clock. Later
            pictures have later times, also after a reconnection or where stamps begin anew or jump. Of a
            stream that carries no stamps, when the picture arrived. None for a folder of images.
        arrived: `time.monotonic()` when it was decoded, in seconds.
        wall: `time.time()` when it was decoded, in seconds.
        size: (H, W) in pixels, as it is shown.
    """

    number: int
    time: float | None
    arrived: float
    wall: float
    size: tuple[int, int]
    _pixels: _Pixels = field(repr=False)

    @classmethod
    def of(
        cls, decoded: Decoded, *, number: int = 0, time: float | None = None, arrived: float, wall: float
    ) -> Picture:
        """The picture of a frame as its decoder gave it."""
        return cls(number, time, arrived, wall, decoded.size, _Pixels(decoded))

    @property
    def frame(self) -> Frame:
        """(H, W, 3), uint8 RGB, turned as the stream says; converted when first asked for, and kept.

        Do not write into it: everybody who asks is given the same array. Any thread may ask.

        Raises:
            VideoError: the decoder gives pixels that cannot be made RGB.
        """
        return self._pixels.get()


class _Pixels:
    """Pixels that are converted once, by whoever asks first; then the decoder's frame is let go."""

    def __init__(self, decoded: Decoded) -> None:
        self._lock = threading.Lock()
        self._decoded: Decoded | None = decoded
        self._frame: Frame | None = None

    def get(self) -> Frame:
        with self._lock:
            if self._frame is None:
                assert self._decoded is not None
                self._frame = self._decoded.frame()
                self._decoded = None
            return self._frame
