"""Clips in and out: video files, folders of images, cameras.

Frames are numpy arrays of shape (H, W, 3), uint8, red first. PyAV reads video files and Pillow reads images;
both are imported when first needed. Writing (`videoeff.video.writer`) and how a frame becomes a model's
input (`videoeff.video.preprocess`) are offered here too; drawing on frames is in `videoeff.video.overlay`.
"""

from __future__ import annotations

import abc
import contextlib
import re
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess
from videoeff.video.writer import ClipWriter, check_writable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["Clip", "ClipWriter", "Frame", "Preprocess", "check_writable", "open_clip"]

Frame = NDArray[np.uint8]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
DEFAULT_FPS = 25.0  # for images and cameras that state no rate


class Clip(abc.ABC):
    """A clip opened for reading: iterate over it, best inside a `with` block.

    Each iteration over a file or a folder starts at the first frame; a camera goes on where it is.

    Attributes:
        source: what was opened, as text.
        size: (H, W) of every frame, in pixels.
        fps: frames per second. 25.0 where the source does not say.
        frame_count: frames that iterating gives if the clip is whole; None if the source does not say.
        decoder: name and version of what decodes the frames, e.g. "pyav 18.1.0 / h264".
        truncated: None, or after an iteration that ended early, the reason it did.
    """

    source: str
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    decoder: str
    truncated: str | None = None

    def __init__(self, source: str, limit: int | None) -> None:
        self.source = source
        self._limit = limit

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames (H, W, 3), uint8 RGB. Damage half-way ends the loop and sets `truncated`."""
        self.truncated = None
        if self._limit is None:
            yield from self._read()
            return
        reader = self._read()
        for _ in range(self._limit):
            frame = next(reader, None)
            if frame is None:
                return
            yield frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 - a folder has nothing to release
        """Release the file or the camera. Closing twice is fine."""

    @abc.abstractmethod
    def _read(self) -> Iterator[Frame]:
        """Yield every frame from the start; set `truncated` when stopping early."""

    def _count(self, known: int | None) -> int | None:
        return known if known is None or self._limit is None else min(known, self._limit)


def open_clip(source: str | Path | int, *, frames: int | None = None) -> Clip:
    """Open a video file, a folder of images or a camera.

    Args:
        source: a video file; a folder of png, jpg or bmp images of one size, read in natural order
            (`img2` before `img10`); or a camera index, as an int or as text of digits (write `./0` for a
            file called `0`).
        frames: stop after this many frames; None reads all.

    Raises:
        VideoError: there is no such file or camera, it holds no video, no frame of it can be decoded, the
            images differ in size, or `frames` is not positive.
    """
    if frames is not None and frames < 1:
        raise VideoError(f"frames={frames}: a clip has at least one frame; give a positive number or None")
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return _VideoClip(str(source), _camera_device(int(source)), frames)
    path = Path(source)
    if path.is_dir():
        return _FolderClip(path, frames)
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder; check the path")
    if path.stat().st_size == 0 and path.is_file():
        raise VideoError(f"{path}: the file is empty; copy or record the clip again")
    return _VideoClip(str(path), None, frames)


def _camera_device(index: int) -> str:
    device = f"/dev/video{index}"
    if not sys.platform.startswith("linux"):
        raise VideoError(f"camera {index}: cameras are read through Video4Linux, which this system lacks")
    if index < 0 or not Path(device).exists():
        found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
        raise VideoError(f"camera {index}: no such camera ({device}); cameras found: {found}")
    return device


class _VideoClip(Clip):
    """A video file or a camera, through PyAV."""

    def __init__(self, source: str, device: str | None, limit: int | None) -> None:
        super().__init__(source, limit)
        self._device = device
        self._container: InputContainer | None = None
        self._ready: Iterator[Frame] | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the source, read its header and decode the first frame, which tells the true size."""
        import av

        self.close()
        try:
            if self._device is None:
                self._container = av.open(self.source)
            else:
                self._container = av.open(self._device, format="v4l2")
        except (av.FFmpegError, OSError) as error:
            if self._device is not None:
                raise VideoError(f"camera {self.source}: cannot open {self._device}: {error}") from error
            raise VideoError(
                f"{self.source}: not a video, or its index is cut off ({error}); check that it plays"
            ) from error
        stream = _video_stream(self._container, self.source)
        codec = stream.codec_context.name
        self.decoder = f"pyav {av.__version__} / {codec}"
        indexed, span = (None, None) if self._device is not None else _declared(self._container, stream)
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else DEFAULT_FPS
        if indexed and span and abs(indexed / float(span) / self.fps - 1.0) > 0.01:
            self.fps = indexed / float(span)  # an AVI header may count fields; the index counts frames
        self.frame_count = self._count(indexed or stream.frames or None)
        decoded = self._decode(self._container, stream, indexed, span)
        first = next(decoded, None)
        if first is None:
            raise VideoError(
                f"{self.source}: no frame could be decoded ({self.truncated or 'the stream is empty'}); "
                "the file is damaged or cut short"
            )
        self.size = (first.shape[0], first.shape[1])
        self._ready = _chain(first, decoded)

    def _read(self) -> Iterator[Frame]:
        if self._device is not None:
            if self._ready is None:
                raise VideoError(f"camera {self.source}: the clip is closed; open it again")
            return self._ready
        if self._ready is None:
            self._open()
        ready, self._ready = self._ready, None
        assert ready is not None
        return ready

    def _decode(
        self, container: InputContainer, stream: VideoStream, indexed: int | None, span: Fraction | None
    ) -> Iterator[Frame]:
        """Yield frames until the end or the first damage after a good frame; then say how it ended."""
        import av

        got = packets = 0
        shape: tuple[int, ...] | None = None
        first: int | None = None
        last = 0
        reason: str | None = None
        demuxer = container.demux(stream)
        while reason is None:
            try:
                packet = next(demuxer, None)
            except (av.FFmpegError, OSError) as error:
                reason = f"reading failed after {got} frames: {error}"
                packet = None
            if packet is None:
                break
            try:
                if packet.is_corrupt and packet.size:
                    reason = f"the data ends inside a frame, after {packets} whole ones"
                    decoded: list[VideoFrame] = stream.codec_context.decode(None)
                else:
                    decoded = stream.codec_context.decode(packet if packet.size else None)
            except av.FFmpegError as error:
                decoded = []
                if got:
                    reason = f"frame {got} could not be decoded: {error}"
                elif self._device is None:
                    self.truncated = f"decoder: {error}"
            for image in decoded:
                frame = _to_rgb(image)
                shape = shape or frame.shape
                if frame.shape != shape:
                    reason = f"frame {got} has another size: {frame.shape[:2]} after {shape[:2]}"
                    break
                got += 1
                self.truncated = None
                yield frame
            if packet.size:
                packets += 1
                if packet.pts is not None:
                    first = packet.pts if first is None else min(first, packet.pts)
                    last = max(last, packet.pts + (packet.duration or 0))
        if reason is None and got and self._device is None:
            if indexed is not None:
                if packets < indexed:
                    reason = f"{got} frames decoded where the file declares {indexed}"
            elif span is not None and first is not None and stream.time_base is not None:
                missing = float(span - (last - first) * stream.time_base)
                if missing * self.fps > 1.5:
                    reason = (
                        f"{got} frames decoded; the last {missing:.2f} s of the declared length are missing"
                    )
        if got:
            self.truncated = reason

    def close(self) -> None:
        self._ready = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _video_stream(container: InputContainer, source: str) -> VideoStream:
    """The first real video stream: neither a cover picture nor text drawn as video."""
    import av

    if container.format.name == "tty":
        raise VideoError(f"{source}: not a video but text; give a video file or a folder of images")
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoError(f"{source}: no video stream in it (it holds: {kinds}); give a file with a picture")


def _declared(container: InputContainer, stream: VideoStream) -> tuple[int | None, Fraction | None]:
    """What the header promises: packets in the index (None without one), and the length in seconds."""
    kind = container.format.name.split(",")[0]
    if kind == "mov":
        indexed = len(stream.index_entries) or None
    elif kind == "avi":
        # A cut file has a part of an index or a few entries left by probing; a whole one reaches the end.
        last = stream.index_entries[-1].timestamp if len(stream.index_entries) else -1
        indexed = len(stream.index_entries) if 0 <= stream.frames - 3 <= last else None
    else:
        indexed = None
    if kind == "avi" and stream.frames and stream.average_rate:
        return indexed, stream.frames / stream.average_rate  # its duration is guessed from the file's size
    if stream.duration and stream.time_base:
        return indexed, stream.duration * stream.time_base
    if container.duration and len(container.streams) == 1:
        return indexed, Fraction(container.duration, 1_000_000)
    return indexed, None


def _to_rgb(image: VideoFrame) -> Frame:
    frame = image.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    turns = round(image.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(frame, turns)) if turns else frame


def _chain(first: Frame, rest: Iterable[Frame]) -> Iterator[Frame]:
    yield first
    yield from rest


class _FolderClip(Clip):
    """A folder of images of one size, through Pillow."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        import PIL
        from PIL import Image

        super().__init__(str(folder), limit)
        self._paths = sorted(
            (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES), key=_natural
        )
        if not self._paths:
            raise VideoError(f"{folder}: no images in this folder; it needs {', '.join(IMAGE_SUFFIXES)}")
        self.size = self._load(self._paths[0]).shape[:2]
        for path in self._paths[1:limit]:
            with contextlib.suppress(OSError), Image.open(path) as image:  # damage is reported when read
                if (image.height, image.width) != self.size:
                    raise VideoError(
                        f"{path}: {image.width}x{image.height}, but {self._paths[0].name} is "
                        f"{self.size[1]}x{self.size[0]}; a clip needs images of one size"
                    )
        self.fps = DEFAULT_FPS
        self.frame_count = self._count(len(self._paths))
        self.decoder = f"pillow {PIL.__version__} / {self._paths[0].suffix.lower().lstrip('.')}"

    def _read(self) -> Iterator[Frame]:
        for index, path in enumerate(self._paths):
            try:
                frame = self._load(path)
            except VideoError as error:
                if index == 0:
                    raise
                self.truncated = f"image {index} of {len(self._paths)}: {error}"
                return
            yield frame

    @staticmethod
    def _load(path: Path) -> Frame:
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":
                    raise VideoError(f"{path}: more than 8 bits per channel; convert it to 8-bit RGB")
                return np.array(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
            raise VideoError(f"{path}: not a readable image ({error}); remove or replace it") from error


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
