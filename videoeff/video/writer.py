"""Writing video files. Frames are uint8 RGB (H, W, 3); PyAV is imported when first needed."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoEffError, VideoError
from videoeff.video.clip import ROUNDING

if TYPE_CHECKING:
    from av.container import OutputContainer

CONTAINERS = {".avi": "avi", ".mkv": "matroska", ".mov": "mov", ".mp4": "mp4"}

#: Least number of time stamps a second, so that a varying rate keeps its times.
_TICKS = 15_000


def check_writable(path: str | Path, error: type[VideoEffError] = VideoError) -> Path:
    """Make sure that a file can be written at `path`, leaving nothing behind; return it as a `Path`.

    Raises:
        VideoEffError: of the class given as `error`, when the folder is missing or cannot be written to, or
            when `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise error(f"{path}: this is a folder; give the name of a file in it")
    if not path.parent.is_dir():
        raise error(f"{path}: the folder {path.parent} does not exist; create it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        path.exists()
    except OSError as problem:
        raise error(f"{path}: cannot write here ({problem.strerror}); choose another place") from problem
    return path


class ClipWriter:
    """Write frames to a video file: H.264 where PyAV can encode it, MPEG-4 part 2 otherwise.

    The file appears under its name when the `with` block ends cleanly; an error leaves nothing behind and
    an older file of that name untouched. Odd sizes are padded to even by repeating the last row or column,
    as 4:2:0 video requires.

    Frames that are written with a time keep it, so a clip of a varying rate plays as fast as it did. AVI
    knows no times; there they are rounded to its rate.

    Args:
        path: the file to write; `.mp4` by habit, `.mov`, `.mkv` and `.avi` work too.
        fps: frames per second.
        size: (H, W) of the frames, in pixels.

    Raises:
        VideoError: the file cannot be written there, its suffix is unknown, or fps or size is not positive.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]) -> None:
        self.path = check_writable(path)
        if self.path.suffix.lower() not in CONTAINERS:
            raise VideoError(f"{self.path}: unknown kind of video; name it {', '.join(CONTAINERS)}")
        if not 0 < fps < 1e5:
            raise VideoError(f"{self.path}: {fps} frames per second; give a positive rate")
        if min(size) < 1:
            raise VideoError(f"{self.path}: frames of {size[1]}x{size[0]} pixels cannot be written")
        self.fps, self.size = float(fps), (int(size[0]), int(size[1]))
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._container: OutputContainer | None = None
        self._stream: Any = None
        self._count = 0
        self._begin: float | None = None
        self._last = -1
        self._rate = max(Fraction(self.fps).limit_denominator(1001), Fraction(1, 1001))
        ticks = self._rate.numerator * math.ceil(_TICKS / self._rate.numerator)
        self._unit = 1 / self._rate if self.path.suffix.lower() == ".avi" else Fraction(1, ticks)
        self._step = int(1 / self._rate / self._unit)  # it divides

    def __enter__(self) -> Self:
        import av

        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        suffix = self.path.suffix.lower()
        options = {"movflags": "faststart"} if suffix in (".mp4", ".mov") else {}
        try:
            self._container = av.open(
                str(self._partial), "w", format=CONTAINERS[suffix], container_options=options
            )
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.time_base = self._stream.codec_context.time_base = self._unit
            self._stream.height, self._stream.width = (side + side % 2 for side in self.size)
            self._stream.pix_fmt = "yuv420p"
            if codec == "libx264":
                self._stream.options = {"crf": "18", "preset": "veryfast"}
                if suffix == ".avi":  # which stamps frames in the order of decoding
                    self._stream.options |= {"bf": "0"}
            else:
                self._stream.bit_rate = max(1_000_000, int(0.2 * self.fps * self.size[0] * self.size[1]))
        except (av.FFmpegError, OSError) as error:
            self._discard()
            raise VideoError(f"{self.path}: cannot start writing ({error}); choose another place") from error
        return self

    def write(self, frame: NDArray[np.uint8], time: float | None = None) -> None:
        """Append one frame (H, W, 3), uint8 RGB, of the writer's size.

        Args:
            frame: the frame.
            time: when it is shown, in seconds from any moment on; None: one step after the frame before.

        Raises:
            VideoError: the frame has another shape or type, the writer is not open, or encoding failed.
        """
        import av

        if self._container is None:
            raise VideoError(f"{self.path}: not open; write inside a with block")
        if frame.dtype != np.uint8 or frame.shape != (*self.size, 3):
            raise VideoError(
                f"{self.path}: frame {self._count} is {frame.dtype} {tuple(frame.shape)}; "
                f"expected uint8 {(*self.size, 3)}"
            )
        padded = np.pad(frame, ((0, self.size[0] % 2), (0, self.size[1] % 2), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        image.pts, image.time_base = self._stamp(time), self._unit
        try:
            self._container.mux(self._stream.encode(image))
        except (av.FFmpegError, OSError) as error:
            raise VideoError(f"{self.path}: writing frame {self._count} failed: {error}") from error
        self._count += 1

    def _stamp(self, time: float | None) -> int:
        """The time stamp of the next frame, in units. A time that is off by rounding alone is set right."""
        regular = self._count * self._step
        stamp = self._last + self._step if self._last >= 0 else 0
        if time is not None:
            self._begin = time if self._begin is None else self._begin
            stamp = round((time - self._begin) / self._unit)
            if abs(stamp - regular) * self._unit <= ROUNDING:
                stamp = regular
        self._last = max(stamp, self._last + 1)
        return self._last

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import av

        try:
            if kind is None:
                if not self._count:
                    raise VideoError(f"{self.path}: no frame was written, so there is no clip")
                assert self._container is not None
                self._container.mux(self._stream.encode(None))
                self._container.close()
                os.replace(self._partial, self.path)
        except (av.FFmpegError, OSError) as problem:
            raise VideoError(f"{self.path}: finishing the file failed: {problem}") from problem
        finally:
            self._discard()

    def _discard(self) -> None:
        import av

        if self._container is not None:
            with contextlib.suppress(av.FFmpegError, OSError):  # it is being thrown away
                self._container.close()
            self._container = None
        self._partial.unlink(missing_ok=True)
