"""A video file or a camera as a clip, through PyAV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from videoeff.errors import VideoError
from videoeff.video.clip import DEFAULT_FPS, Clip, Decoded
from videoeff.video.decoding import Converter, Reading, time_of, video_stream

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream


class VideoClip(Clip):
    """A video file or a camera, through PyAV."""

    def __init__(self, source: str, device: str | None, limit: int | None, alpha: bool) -> None:
        super().__init__(source, limit)
        self._device, self._converter = device, Converter("rgba" if alpha else "rgb24", source)
        self._container: InputContainer | None = None
        self._ready: Iterator[tuple[Decoded, float | None]] | None = None
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
        stream = video_stream(self._container, self.source)
        codec = stream.codec_context.name
        self.decoder = f"pyav {av.__version__} / {codec}"
        state = Reading(*((None, None) if self._device is not None else _declared(self._container, stream)))
        state.decoding_order = self._container.format.name == "avi"
        rate = stream.average_rate or stream.guessed_rate
        self.fps = float(rate) if rate else DEFAULT_FPS
        if state.indexed and state.span and abs(state.indexed / float(state.span) / self.fps - 1.0) > 0.01:
            self.fps = state.indexed / float(state.span)  # AVI may count fields; the index counts frames
        self.frame_count = self._count(state.indexed or stream.frames or None)
        frames = self._decode(self._container, stream, state)
        first = next(frames, None)
        if first is None:
            why = f"decoder: {state.last_error}" if state.last_error else state.reason
            raise VideoError(
                f"{self.source}: no frame could be decoded ({why or 'the stream is empty'}); "
                "the file is damaged or cut short"
            )
        self.size = first[0].size
        self._ready = itertools.chain([first], frames)

    def _read(self) -> Iterator[tuple[Decoded, float | None]]:
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
        self, container: InputContainer, stream: VideoStream, state: Reading
    ) -> Iterator[tuple[Decoded, float | None]]:
        """Yield frames to the end, past damaged ones; then say what was lost and how it ended."""
        import av

        size: tuple[int, int] | None = None
        for packet in _packets(container, stream, state):
            if packet is not None:
                state.note(packet, stream.codec_context.name)
            try:
                images = stream.codec_context.decode(packet)
            except av.FFmpegError as error:
                state.failed(packet, error)
                self.lost = state.errors
                continue
            for image in images:
                frame = self._converter.decoded(image)
                size = size or frame.size
                if frame.size != size and not self.any_size:
                    self.truncated = f"frame {state.frames} has another size: {frame.size} after {size}"
                    return
                state.frames += 1
                self.damaged += frame.damaged
                yield frame, time_of(image, stream, state)
        if not state.frames:
            return
        self.lost = max(state.errors, state.expected - state.frames)
        if self._device is None:
            self.truncated = state.reason or _missing(state, stream, self.fps)
        else:
            self.truncated = state.reason

    def close(self) -> None:
        """Release the file or the camera."""
        self._ready = None
        if self._container is not None:
            self._container.close()
            self._container = None


def _packets(
    container: InputContainer, stream: VideoStream, state: Reading
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


def _missing(state: Reading, stream: VideoStream, fps: float) -> str | None:
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
