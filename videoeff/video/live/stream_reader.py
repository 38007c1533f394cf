"""Reads a network's or a camera's pictures through PyAV, one connection after the other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from videoeff.errors import VideoError, first_line
from videoeff.video.address import Address
from videoeff.video.clip import DEFAULT_FPS, Decoded
from videoeff.video.decoding import Converter, Reading, time_of, video_stream
from videoeff.video.live.reasons import why_cut, why_not_opened
from videoeff.video.live.transport import Transport

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.stream import Stream
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

#: Formats that fetch piece by piece, each as fast as it comes.
_SEGMENTED = ("hls", "dash")

#: Formats without time stamps, for which FFmpeg makes some up at 25 frames a second.
_UNSTAMPED = ("mpjpeg", "mjpeg", "h264", "hevc", "m4v", "mpegvideo", "obu")

#: How long FFmpeg looks at a stream before it gives a picture: µs and frames. By itself 5 s and 20 frames.
_FIRST_LOOK = {"analyzeduration": "1000000", "fpsprobesize": "0"}

_LONGEST = 60.0  # seconds to wait for a first picture at most, where data come


class StreamReader:
    """Reads a network's or a camera's pictures.

    Args:
        shown: what is read, for messages.
        target: an address on a network, or the device of a camera.
        transport: how it is reached.
        smooth: a recording comes as fast as it is shown.
    """

    def __init__(self, shown: str, target: Address | str, transport: Transport, smooth: bool) -> None:
        self.why, self.hopeless, self.finished, self.bursts = "", False, False, False
        self.step = 1.0 / DEFAULT_FPS
        self._shown, self._target, self._transport, self._smooth = shown, target, transport, smooth
        self._address = target if isinstance(target, Address) else None
        self._carriers = ["tcp", "udp"] if transport.protocol == "auto" else [transport.protocol]
        self._thorough = False  # look for long and at all, since a quick look found no video
        self._patience = max(transport.timeout, transport.stall)

    def pictures(
        self, over: Callable[[], bool], refused: Callable[[], None]
    ) -> Generator[tuple[Decoded, float | None]]:
        """Connect and yield pictures with their stamps until the connection is over; then `why` says why."""
        import av

        self.why, self.hopeless, self.finished = "", False, False
        began = time.monotonic()
        try:
            container = self._open()
        except (av.FFmpegError, OSError, ValueError) as error:
            took = time.monotonic() - began
            self.why, self.hopeless = why_not_opened(error, self._address, self._transport, took)
            # What an RTSP server says that was asked to play none of its streams: perhaps it has no video.
            self._thorough |= isinstance(error, av.error.HTTPOtherClientError)
            self._turn()
            return
        with contextlib.closing(container):
            try:
                stream = video_stream(container, self._shown)
            except VideoError as error:
                self.why, self._thorough = self._own(error).partition(";")[0], True
                return
            seen = False
            try:
                for picture in self._decode(container, stream, over, refused):
                    seen = True
                    yield picture
            except VideoError as error:
                self.why, self.hopeless = self._own(error), True
            if not seen:
                self._turn()

    def _open(self) -> InputContainer:
        import av

        transport = self._transport
        options = {} if self._thorough else dict(_FIRST_LOOK)
        if self._address is None:
            assert isinstance(self._target, str)
            return av.open(
                self._target,
                format="v4l2",
                container_options=dict(transport.options),
                metadata_errors="replace",
            )
        if self._address.scheme in ("rtsp", "rtsps"):
            options["rtsp_transport"] = self._carriers[0]
            if not self._thorough:
                options["allowed_media_types"] = "video"
        return av.open(
            self._address.url,
            container_options=options | dict(transport.options),
            metadata_errors="replace",  # what cameras are called is no reason to fail
            timeout=(transport.timeout, transport.stall),
        )

    def _decode(
        self,
        container: InputContainer,
        stream: VideoStream,
        over: Callable[[], bool],
        refused: Callable[[], None],
    ) -> Iterator[tuple[Decoded, float | None]]:
        self._look(container, stream)
        kind, length = container.format.name, container.duration
        state = Reading(None, None)
        state.decoding_order = kind == "avi"
        converter = Converter("rgb24", self._shown)
        last, allowed = time.monotonic(), self._patience
        for packet in self._packets(container):
            if over():
                return
            for image in self._images(packet, stream, state, refused):
                stamp = time_of(image, stream, state)
                yield converter.decoded(image), None if kind in _UNSTAMPED else stamp
                state.frames += 1
                last, allowed = time.monotonic(), self._transport.stall
            if time.monotonic() - last > allowed:
                self.why = f"no picture came for {allowed:g} s, though data did"
                break
        base = max(self._transport.timeout, self._transport.stall)
        # A key frame may be long in coming: whoever hung up too early is given more time.
        early = state.packets and not state.frames
        self._patience = min(2 * self._patience, max(_LONGEST, base)) if early else base
        if not self.why:
            self.why = "the server ended the stream"
            self.finished = self._whole(container, stream, state, length)

    def _look(self, container: InputContainer, stream: VideoStream) -> None:
        """What is to be known before the first picture."""
        import av

        if stream.codec_context is None:
            raise VideoError(f"{self._shown}: this FFmpeg has no decoder for its video")
        stream.codec_context.thread_count = 1  # threads would be many with many cameras, and gain little
        rate = stream.average_rate or stream.guessed_rate
        self.step = min(max(1.0 / float(rate), 0.001), 1.0) if rate else 1.0 / DEFAULT_FPS
        segmented, recorded = container.format.name in _SEGMENTED, bool(container.duration)
        self.bursts = self._smooth if recorded else segmented
        if segmented:
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = av.stream.Discard.all  # or every variant would be fetched

    def _packets(self, container: InputContainer) -> Iterator[Packet[Stream] | None]:
        """The packets of all streams, then None, at which a decoder gives what it still has."""
        import av

        demuxer = container.demux()
        while True:
            try:
                packet = next(demuxer, None)
            except (av.FFmpegError, OSError) as error:
                self.why = why_cut(error, self._address, self._transport)
                break
            if packet is None:
                break
            if packet.size:
                yield packet
        yield None

    def _images(
        self,
        packet: Packet[Stream] | None,
        stream: VideoStream,
        state: Reading,
        refused: Callable[[], None],
    ) -> Sequence[VideoFrame]:
        """The frames that a packet gives; none for a packet of another stream."""
        import av

        video = cast("Packet[VideoStream] | None", packet)
        if video is not None:
            if video.stream.index != stream.index:
                return ()
            state.note(video, stream.codec_context.name)
        try:
            return stream.codec_context.decode(video)
        except av.FFmpegError as error:
            if video is not None:
                state.failed(video, error)
                refused()
            return ()

    def _whole(
        self, container: InputContainer, stream: VideoStream, state: Reading, length: int | None
    ) -> bool:
        """Whether what the server ended was something that has an end, and was whole."""
        if self._address is None:
            return False
        if container.format.name in _SEGMENTED:
            return bool(length)  # a list of pieces that goes on has none
        if length and state.first is not None and stream.time_base is not None:
            return (state.last - state.first) * stream.time_base >= 0.9 * length / 1e6 - 1.0
        return not length and container.size > 0

    def _turn(self) -> None:
        """Try the next carrier."""
        self._carriers.append(self._carriers.pop(0))

    def _own(self, error: VideoError) -> str:
        return first_line(error).removeprefix(f"{self._shown}: ")
