"""Clips as cameras, phones and networks leave them: turned, of a varying rate, with packets damaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

#: The two rows of the display matrix that show a stored picture as its EXIF value would: (a, b, c, d).
MATRICES: Mapping[int, tuple[int, int, int, int]] = {
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip

#: A picture as stored, of the picture as shown, by EXIF value: what the camera did.
STORED: Mapping[int, Callable[[Frame], Frame]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


def corners(size: tuple[int, int] = (48, 80)) -> Frame:
    """A picture (H, W, 3) that no turn and no mirror leaves as it is: every corner has its own colour."""
    frame = np.full((*size, 3), 60, np.uint8)
    high, wide = size[0] // 3, size[1] // 3
    frame[:high, :wide], frame[:high, -wide:] = (220, 30, 30), (30, 220, 30)
    frame[-high:, :wide], frame[-high:, -wide:] = (30, 30, 220), (220, 220, 220)
    return frame


def numbered(index: int, size: tuple[int, int] = (48, 64)) -> Frame:
    """A flat picture whose grey level is its number, 8 levels apart; :func:`number_of` reads it back."""
    return np.full((*size, 3), 16 + 8 * (index % 28), np.uint8)


def number_of(frame: Frame) -> int:
    """The number of a :func:`numbered` picture after compression."""
    return round((float(frame.mean()) - 16) / 8)


def write(
    path: Path,
    frames: Sequence[Frame],
    *,
    rate: int = 25,
    times: Sequence[float] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    matrix: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    b_frames: int = 0,
) -> Path:
    """Write a clip with PyAV alone.

    Args:
        path: the file.
        frames: (H, W, 3), uint8 RGB.
        rate: frames per second that the header says.
        times: of the frames in seconds, where they do not follow from the rate.
        codec: the encoder.
        pixels: its pixel format.
        matrix: nine numbers of the display matrix, in FFmpeg's fixed point.
        options: of the encoder.
        b_frames: frames between two that refer to one another.
    """
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        stream.options = {"bf": str(b_frames), "qp": "10", "g": "8"} if options is None else dict(options)
        unit = Fraction(1, rate) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for index, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image = image.reformat(format=pixels)
            image.pts = index if times is None else round(times[index] * 1000)
            image.time_base = unit
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


def matrix_of(exif: int) -> tuple[int, ...]:
    """The display matrix that shows a video as an EXIF value shows a picture."""
    a, b, c, d = (v << 16 for v in MATRICES[exif])
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


def copy(
    source: Path,
    target: Path,
    *,
    drop: Sequence[int] = (),
    damage: Mapping[int, Callable[[bytes], bytes]] | None = None,
) -> Path:
    """Copy a clip packet by packet, leaving some out or changing their bytes."""
    import av

    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        stream = before.streams.video[0]
        out = after.add_stream_from_template(stream)
        packets = [packet for packet in before.demux(stream) if packet.size]
        for index, packet in enumerate(packets):
            if index in drop:
                continue
            if damage is not None and index in damage:
                packet = _with_bytes(packet, damage[index](bytes(packet)))
            packet.stream = out
            after.mux(packet)
    return target


def _with_bytes(packet: Any, data: bytes) -> Any:
    import av

    made = av.Packet(data)
    made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
    made.time_base, made.is_keyframe = packet.time_base, packet.is_keyframe
    return made


def zeros(data: bytes) -> bytes:
    """A packet of which nothing arrived but its length."""
    return bytes(len(data))


def first_half(data: bytes) -> bytes:
    """A packet that was cut off."""
    return data[: len(data) // 2]
