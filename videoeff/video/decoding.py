"""What every reader of videos does with FFmpeg's packets and frames: times, sizes, RGB pixels."""

from __future__ import annotations

import functools
import heapq
import threading
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from videoeff.errors import VideoError
from videoeff.video.clip import Decoded, Frame
from videoeff.video.orientation import quarter_turn, shown

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

_NOT_CODED = 8  # bytes: MPEG-4 says with so short a packet that the frame before goes on
_SHOWN = 0x10  # bit of a VP8 packet's first byte; a hidden frame is only referred to


@dataclass
class Reading:
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


class Converter:
    """Makes the RGB pixels of a source's frames. One for a source; any thread may use it.

    Args:
        pixels: "rgb24" or "rgba".
        source: where the frames come from, for errors.
    """

    def __init__(self, pixels: str, source: str) -> None:
        self._pixels, self._source = pixels, source
        self._lock = threading.Lock()
        self._reformatter: VideoReformatter | None = None  # kept: to set one up costs more than a frame

    def decoded(self, image: VideoFrame) -> Decoded:
        """A frame as it came from its decoder. It is kept as long as what is returned.

        Raises:
            VideoError: it is to be shown turned by something else than quarter turns.
        """
        found: Any = image.side_data.get("DISPLAYMATRIX")
        matrix = None if found is None else bytes(found)
        turn = quarter_turn(matrix, self._source)
        across = turn is not None and turn.across
        size = (image.width, image.height) if across else (image.height, image.width)
        return Decoded(size, functools.partial(self._frame, image, matrix), bool(image.is_corrupt))

    def _frame(self, image: VideoFrame, matrix: bytes | None) -> Frame:
        import av

        try:
            with self._lock:
                if self._reformatter is None:
                    self._reformatter = av.video.reformatter.VideoReformatter()
                # One thread: scaling a picture with several makes and ends them each time.
                image = self._reformatter.reformat(image, format=self._pixels, threads=1)
            frame = image.to_ndarray().astype(np.uint8, copy=False)
        except av.FFmpegError as error:
            raise VideoError(
                f"{self._source}: its pixels, {image.format.name}, cannot be made RGB ({error.strerror}); "
                "write it anew with ffmpeg -pix_fmt yuv420p"
            ) from error
        return shown(frame, matrix, self._source)


def time_of(image: VideoFrame, stream: VideoStream, state: Reading) -> float | None:
    """When a frame is shown, in seconds."""
    stamp = image.pts
    if state.decoding_order:
        earliest = heapq.heappop(state.waiting) if state.waiting else None
        stamp = earliest if stream.codec_context.has_b_frames else image.dts
    # Not image.time: frames that come last, at the end of the file, know no unit.
    return None if stamp is None or stream.time_base is None else float(stamp * stream.time_base)


def video_stream(container: InputContainer, source: str) -> VideoStream:
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


def _gives_a_frame(packet: Packet[VideoStream], codec: str) -> bool:
    if codec == "vp8":
        content: Any = packet  # a buffer, which its types do not say
        return bool(memoryview(content)[0] & _SHOWN)
    return not ("mpeg4" in codec and packet.size <= _NOT_CODED)
