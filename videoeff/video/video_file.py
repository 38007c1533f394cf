"""A video file or a camera as a clip, through PyAV."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from videoeff.errors import VideoError
from videoeff.video.clip import DEFAULT_FPS, Clip, Frame
from videoeff.video.orientation import shown

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

_NOT_CODED = 8  # bytes: MPEG-4 says with so short a packet that the frame before goes on
_SHOWN = 0x10  # bit of a VP8 packet's first byte; a hidden frame is only referred to


@dataclass
class _Reading:
    """One pass over a file.

    Attributes:
        indexed: packets that the file's index promises, None without one.
        span: length that the file promises, in seconds.
        packets: packets read whole.
        expected: of these, how many should give a frame.
        frames: frames that came.
        errors: packets that the decoder refused.
        last_error: what it said.
        reason: why reading ended early.
        first: earliest time stamp, in the stream's unit.
        last: end of the latest packet.
        decoding_order: packets are stamped in the order of decoding alone, as AVI does.
        waiting: then the stamps of packets whose frames are still to come, where that order is another.
    """

    indexed: int | None
    span: Fraction | None
    packets: int = 0
    expected: int = 0
    frames: int = 0
    errors: int = 0
    last_error: str = ""
    reason: str | None = None
    first: int | None = None
    last: int = 0
    decoding_order: bool = False
    waiting: list[int] = field(default_factory=list)

    def note(self, packet: Packet[VideoStream], codec: str) -> None:
        """A packet that is about to be decoded."""
        self.packets += 1
        self.expected += not packet.is_discard and _gives_a_frame(packet, codec)
        if packet.pts is not None:
            self.first = packet.pts if self.first is None else min(self.first, packet.pts)
            self.last = max(self.last, packet.pts + (packet.duration or 0))
        if self.decoding_order and packet.dts is not None:
            heapq.heappush(self.waiting, packet.dts)

    def failed(self, packet: Packet[VideoStream] | None, error: Exception) -> None:
        """The decoder refused a packet."""
        self.last_error = str(error)
        if packet is None:
            return
        self.errors += 1
        if packet.dts in self.waiting:
            self.waiting.remove(packet.dts)
            heapq.heapify(self.waiting)


class VideoClip(Clip):
    """A video file or a camera, through PyAV."""

    def __init__(self, source: str, device: str | None, limit: int | None, alpha: bool) -> None:
        super().__init__(source, limit)
        self._device, self._format = device, "rgba" if alpha else "rgb24"
        self._container: InputContainer | None = None
        self._ready: Iterator[tuple[Frame, float | None]] | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        """Open the source, read its header and decode the first frame, which tells the true size."""
        import av

        self.close()
        self.lost = self.damaged = self.skipped = 0
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
        state = _Reading(*((None, None) if self._device is not None else _declared(self._container, stream)))
        state.decoding_order = self._container.format.name == "avi"
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else DEFAULT_FPS
        if state.indexed and state.span and abs(state.indexed / float(state.span) / self.fps - 1.0) > 0.01:
            self.fps = state.indexed / float(state.span)  # AVI may count fields; the index counts frames
        self.frame_count = self._count(state.indexed or stream.frames or None)
        decoded = self._decode(self._container, stream, state)
        first = next(decoded, None)
        if first is None:
            why = f"decoder: {state.last_error}" if state.last_error else state.reason
            raise VideoError(
                f"{self.source}: no frame could be decoded ({why or 'the stream is empty'}); "
                "the file is damaged or cut short"
            )
        self.size = (first[0].shape[0], first[0].shape[1])
        self._ready = itertools.chain([first], decoded)

    def _read(self) -> Iterator[tuple[Frame, float | None]]:
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
        self, container: InputContainer, stream: VideoStream, state: _Reading
    ) -> Iterator[tuple[Frame, float | None]]:
        """Yield frames to the end, past damaged ones; then say what was lost and how it ended."""
        import av

        shape: tuple[int, ...] | None = None
        for packet in _packets(container, stream, state):
            if packet is not None:
                state.note(packet, stream.codec_context.name)
            try:
                decoded = stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                state.failed(packet, error)
                self.lost = state.errors
                continue
            for image in decoded:
                frame = self._frame(image)
                shape = shape or frame.shape
                if frame.shape != shape:
                    self.truncated = (
                        f"frame {state.frames} has another size: {frame.shape[:2]} after {shape[:2]}"
                    )
                    return
                state.frames += 1
                self.damaged += image.is_corrupt
                yield frame, _time(image, stream, state)
        if not state.frames:
            return
        self.lost = max(state.errors, state.expected - state.frames)
        if self._device is None:
            self.truncated = state.reason or _missing(state, stream, self.fps)
        else:
            self.truncated = state.reason

    def _frame(self, image: VideoFrame) -> Frame:
        frame = image.to_ndarray(format=self._format).astype(np.uint8, copy=False)
        matrix: Any = image.side_data.get("DISPLAYMATRIX")
        return shown(frame, None if matrix is None else bytes(matrix), self.source)

    def close(self) -> None:
        """Release the file or the camera."""
        self._ready = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _packets(
    container: InputContainer, stream: VideoStream, state: _Reading
) -> Iterator[Packet[VideoStream] | None]:
    """The packets that hold something, then None, at which a decoder gives what it still has.

    A packet that is cut off is damage if another follows, and else the end of what there is of the file.
    """
    import av

    cut: Packet[VideoStream] | None = None
    demuxer = container.demux(stream)
    while True:
        try:
            packet = next(demuxer, None)
        except (av.FFmpegError, OSError) as error:
            state.reason = f"reading failed after {state.frames} frames: {error}"
            break
        if packet is None:
            break
        if not packet.size:  # AVI: the frame before goes on; a decoder would take it for the end
            continue
        if cut is not None:
            yield cut
        cut = packet if packet.is_corrupt else None
        if cut is None:
            yield packet
    if cut is not None and state.reason is None:
        state.reason = f"the data ends inside a frame, after {state.packets} whole ones"
    yield None


def _gives_a_frame(packet: Packet[VideoStream], codec: str) -> bool:
    if codec == "vp8":
        content: Any = packet  # a buffer, which its types do not say
        return bool(memoryview(content)[0] & _SHOWN)
    return not ("mpeg4" in codec and packet.size <= _NOT_CODED)


def _time(image: VideoFrame, stream: VideoStream, state: _Reading) -> float | None:
    """When a frame is shown, in seconds."""
    stamp = image.pts
    if state.decoding_order:
        earliest = heapq.heappop(state.waiting) if state.waiting else None
        stamp = earliest if stream.codec_context.has_b_frames else image.dts
    # Not image.time: frames that come last, at the end of the file, know no unit.
    return None if stamp is None or stream.time_base is None else float(stamp * stream.time_base)


def _missing(state: _Reading, stream: VideoStream, fps: float) -> str | None:
    """What the header promised and the file does not hold, as a sentence; None for a whole file."""
    if state.indexed is not None:
        if state.packets < state.indexed:
            return f"{state.frames} frames decoded where the file declares {state.indexed}"
    elif state.span is not None and state.first is not None and stream.time_base is not None:
        missing = float(state.span - (state.last - state.first) * stream.time_base)
        if missing * fps > 1.5:
            return (
                f"{state.frames} frames decoded; the last {missing:.2f} s of the declared length are missing"
            )
    return None


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
