"""Opening sources of all kinds."""

from __future__ import annotations

from pathlib import Path

from videoeff.errors import VideoError
from videoeff.video.address import is_address, read_address
from videoeff.video.live.clip_source import ClipSource
from videoeff.video.live.handover import Handover
from videoeff.video.live.reasons import check_served
from videoeff.video.live.source import Source
from videoeff.video.live.stream_reader import StreamReader
from videoeff.video.live.stream_source import StreamSource
from videoeff.video.live.transport import Backoff, Transport
from videoeff.video.source import camera_device, open_clip


def open_source(
    source: str | Path | int,
    *,
    policy: str | None = None,
    queue: int = 8,
    transport: Transport | None = None,
    pace: bool = False,
    loop: bool = False,
    frames: int | None = None,
) -> Source:
    """Open a file, a folder of images, a camera or an address on a network as a source of pictures.

    A file is looked into at once; a camera and a network are connected to when the source is started, and
    again as long as it takes whenever they are lost.

    Args:
        source: what :func:`~videoeff.video.source.open_clip` takes, or an address: rtsp://, rtsps://,
            rtmp://, rtmps://, http://, https:// (also HLS) or srt://.
        policy: "latest": only the newest picture waits to be taken, and what it replaces counts as late;
            "every": up to `queue` pictures wait, and decoding waits while they are so many. A network and a
            camera do not wait for ever: where nothing was taken for `transport.stall` seconds, the oldest
            picture is dropped and counts as late. None: "every" for files and folders, else "latest".
        queue: pictures that wait at most, with the policy "every".
        transport: how a network is reached, and how long is waited for it and for a camera.
        pace: give a file's pictures at the file's own rate, as a camera would; 25 a second for images.
        loop: begin again at the end.
        frames: end after so many pictures; None for no end.

    Raises:
        VideoError: what no waiting mends: a malformed address, a scheme that is not read, a protocol that
            this FFmpeg lacks, no such file or camera, no video in it, or an argument out of its range.
    """
    if frames is not None and frames < 1:
        raise VideoError(f"frames={frames}: a source gives at least one; give a positive number or None")
    transport = Transport() if transport is None else transport
    live = Handover("latest" if policy is None else policy, queue, transport.stall)
    smooth = policy in (None, "latest")
    backoff = Backoff(*transport.backoff)
    if isinstance(source, str) and is_address(source):
        address = read_address(source)
        check_served(address)
        reader = StreamReader(address.shown, address, transport, smooth)
        return StreamSource(address.shown, True, reader, live, backoff, frames, pace, loop)
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        reader = StreamReader(f"camera {source}", camera_device(int(source)), transport, smooth)
        return StreamSource(f"camera {source}", False, reader, live, backoff, frames, pace, loop)
    handover = Handover("every" if policy is None else policy, queue, None)
    return ClipSource(open_clip(source), handover, frames, pace, loop)
