"""Pictures and videos of other pixel formats give the right 8-bit colours, or a named error."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.support.clips import corners, write
from videoeff.errors import VideoError
from videoeff.video.source import open_clip


def test_pictures_of_every_mode(tmp_path: Path) -> None:
    picture = Image.fromarray(corners())
    alpha = Image.fromarray(np.tile(np.arange(80, dtype=np.uint8), (48, 1)))
    faded = picture.copy()
    faded.putalpha(alpha)
    grey = picture.convert("L")
    pictures = {
        "grey": grey, "palette": picture.quantize(16), "faded": faded, "bits": grey.convert("1"),
        "grey-faded": Image.merge("LA", (grey, alpha)),
    }  # fmt: skip
    for name, made in pictures.items():
        path = tmp_path / f"{name}.png"
        made.save(path)
        found = next(iter(open_clip(path)))
        assert (found == np.array(made.convert("RGB"))).all(), name
    four = next(iter(open_clip(tmp_path / "faded.png", alpha=True)))
    assert (four == np.array(faded)).all()
    assert (next(iter(open_clip(tmp_path / "grey.png", alpha=True)))[..., 3] == 255).all()
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    printed = next(iter(open_clip(tmp_path / "print.jpg")))
    assert np.abs(printed.astype(int) - corners()).mean() < 6


def test_deeper_pictures(tmp_path: Path) -> None:
    deep = (np.arange(48 * 80).reshape(48, 80) * 17 % 65536).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.png", "deep.tif", "float.tif"):
        with pytest.raises(VideoError, match=rf"{name}: more than 8 bits per channel; convert it"):
            open_clip(tmp_path / name)


def test_files_of_several_pictures(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.roll(corners(), 5 * index, 0)) for index in range(3)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    folder = tmp_path / "moving"
    folder.mkdir()
    pages[0].save(folder / "1.webp", save_all=True, append_images=pages[1:], lossless=True)
    for source, name in (
        (tmp_path / "pages.tif", "pages.tif"),
        (folder, "1.webp"),
        (folder / "1.webp", "1.webp"),
    ):
        with pytest.raises(VideoError, match=rf"{name}: holds 3 pictures; write each to a file of its own"):
            open_clip(source)
    pages[0].save(tmp_path / "moving.png", save_all=True, append_images=pages[1:])
    frames = list(open_clip(tmp_path / "moving.png"))  # a video that is called a picture
    assert all((a == np.array(b)).all() for a, b in zip(frames, pages, strict=True))


def test_two_pictures_of_one_name_are_no_clip(tmp_path: Path) -> None:
    """Frames beside their masks: reading both would alternate between them."""
    for suffix in ("jpg", "png"):
        Image.fromarray(corners()).save(tmp_path / f"0001.{suffix}")
    with pytest.raises(VideoError, match=r"holds 0001\.jpg and 0001\.png, and only one of them"):
        open_clip(tmp_path)


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    Image.fromarray(corners()).save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"what macOS leaves on a memory stick")
    assert len(list(open_clip(tmp_path))) == 1


def test_names_are_sorted_by_number(tmp_path: Path) -> None:
    order = [1, 2, 3, 9, 10, 11, 100]
    for number in order:
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / f"{number}.png")
    assert [int(frame[0, 0, 0]) for frame in open_clip(tmp_path)] == order


def save_as(path: Path, pixels: str, codec: str, size: tuple[int, int], **flags: int) -> Path:
    """A clip of one frame in a pixel format and colour space, which the file states."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if codec == "libx264":
            stream.options = {"qp": "0" if "10" not in pixels else "4"}
        for name, value in flags.items():
            setattr(stream.codec_context, name, value)
        image = av.VideoFrame.from_ndarray(corners(size), format="rgb24")
        target = flags.get("colorspace")
        extra: dict[str, Any] = {"dst_colorspace": target} if target is not None else {}
        if "color_range" in flags:
            extra["dst_color_range"] = flags["color_range"]
        image = image.reformat(format=pixels, **extra)
        image.pts, image.time_base = 0, Fraction(1, 25)
        container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("pixels", "codec", "size", "flags"),
    [
        ("yuv420p", "libx264", (48, 80), {}),
        ("yuv444p", "libx264", (45, 63), {}),
        ("yuv420p10le", "libx264", (48, 80), {}),
        ("yuv422p10le", "libx264", (48, 80), {}),
        ("gray", "libx264", (48, 80), {}),
        ("yuvj420p", "mjpeg", (47, 81), {}),
        ("bgr0", "ffv1", (45, 63), {}),
        ("bgra", "ffv1", (45, 63), {}),
        ("gray16le", "ffv1", (45, 63), {}),
        ("gbrp10le", "ffv1", (45, 63), {}),
        ("yuv420p", "libx264", (48, 80), {"colorspace": 1, "color_range": 1}),
        ("yuv444p", "libx264", (48, 80), {"colorspace": 1, "color_range": 2}),
        ("yuv444p", "libx264", (48, 80), {"colorspace": 5, "color_range": 2}),
    ],
)
def test_videos_of_other_pixel_formats(
    tmp_path: Path, pixels: str, codec: str, size: tuple[int, int], flags: dict[str, int]
) -> None:
    path = save_as(tmp_path / "a.mkv", pixels, codec, size, **flags)
    with open_clip(path) as clip:
        assert clip.size == size
        found = next(iter(clip)).astype(int)
    expected = corners(size).astype(int)
    if "gray" in pixels:
        expected = np.array(Image.fromarray(corners(size)).convert("L")).astype(int)[..., None].repeat(3, 2)
    # The middle of each patch, where no chroma of a neighbour comes in. Wrong matrices are 15 away.
    rows, columns = slice(4, 10), slice(6, 16)
    for flip in (slice(None), slice(None, None, -1)):
        ours, theirs = found[:, flip][rows, columns], expected[:, flip][rows, columns]
        assert np.abs(ours - theirs).max() <= 6, (ours[0, 0], theirs[0, 0])


def test_opacity_of_a_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", [corners()] * 2)
    with open_clip(path, alpha=True) as clip:
        frame = next(iter(clip))
    assert frame.shape == (48, 80, 4)
    assert (frame[..., 3] == 255).all()
