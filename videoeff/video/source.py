"""Clips in and out: video files, folders of images, cameras.

Frames are numpy arrays of shape (H, W, 3), uint8, red first. PyAV reads video files and Pillow reads images;
both are imported when first needed. Writing (`videoeff.video.writer`) and how a frame becomes a model's
input (`videoeff.video.preprocess`) are offered here too; drawing on frames is in `videoeff.video.overlay`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from videoeff.errors import VideoError
from videoeff.video.address import blanked, is_address
from videoeff.video.clip import Clip, Frame
from videoeff.video.pictures import PictureClip, is_one_picture, open_folder
from videoeff.video.preprocess import Preprocess
from videoeff.video.video_file import VideoClip
from videoeff.video.writer import ClipWriter, check_writable

__all__ = ["Clip", "ClipWriter", "Frame", "Preprocess", "check_writable", "open_clip"]


def open_clip(source: str | Path | int, *, frames: int | None = None, alpha: bool = False) -> Clip:
    """Open a video file, a folder of images or a camera.

    Pictures and videos come turned and mirrored as their EXIF data or display matrix say.

    Args:
        source: a video file; a folder of png, jpg, bmp, tiff or webp images of one size, read in natural
            order (`img2` before `img10`); one such image; or a camera index, as an int or as text of digits
            (write `./0` for a file called `0`).
        frames: stop after this many frames; None reads all.
        alpha: give frames (H, W, 4) with the opacity as the fourth channel, 255 where the source has none.

    Raises:
        VideoError: there is no such file or camera, it is an address on a network, it holds no video, no
            frame of it can be decoded, the images differ in size, or `frames` is not positive.
    """
    if frames is not None and frames < 1:
        raise VideoError(f"frames={frames}: a clip has at least one frame; give a positive number or None")
    if isinstance(source, int) or (isinstance(source, str) and source.isdecimal()):
        return VideoClip(str(source), camera_device(int(source)), frames, alpha)
    if is_address(source):
        raise VideoError(
            f"{blanked(str(source))}: an address on a network, where a clip was asked for; record some of it "
            "with ffmpeg -i ADDRESS -c copy clip.mp4, or read it with videoeff run or videoeff.video.live"
        )
    path = Path(source)
    if path.is_dir():
        return open_folder(path, frames, alpha)
    if not path.exists():
        raise VideoError(f"{path}: no such file or folder; check the path")
    if path.stat().st_size == 0 and path.is_file():
        raise VideoError(f"{path}: the file is empty; copy or record the clip again")
    if is_one_picture(path):
        return PictureClip(str(path), [path], frames, alpha)
    return VideoClip(str(path), None, frames, alpha)


def camera_device(index: int) -> str:
    """The device file of a camera's number.

    Raises:
        VideoError: there is no such camera.
    """
    device = f"/dev/video{index}"
    if not sys.platform.startswith("linux"):
        raise VideoError(f"camera {index}: cameras are read through Video4Linux, which this system lacks")
    if index < 0 or not Path(device).exists():
        found = ", ".join(sorted(str(path) for path in Path("/dev").glob("video[0-9]*"))) or "none"
        raise VideoError(f"camera {index}: no such camera ({device}); cameras found: {found}")
    return device
