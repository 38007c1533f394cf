"""Frames come as they are meant to be seen: display matrices of videos, EXIF data of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.support.clips import MATRICES, STORED, corners, matrix_of, write
from videoeff.errors import VideoError
from videoeff.video.orientation import shown, shown_size
from videoeff.video.source import open_clip

ORIENTATION = 0x0112


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("exif", MATRICES)
def test_videos_are_turned_and_mirrored(tmp_path: Path, exif: int, suffix: str) -> None:
    seen = corners()
    path = write(tmp_path / f"a.{suffix}", [STORED[exif](seen)] * 3, matrix=matrix_of(exif))
    with open_clip(path) as clip:
        assert clip.size == seen.shape[:2]
        frames = list(clip)
    assert len(frames) == 3
    for frame in frames:
        assert frame.flags.c_contiguous
        # Compression costs about 2; any other orientation more than 30.
        assert np.abs(frame.astype(int) - seen).mean() < 5


def test_a_matrix_as_phones_write_it_has_shifts_and_scales() -> None:
    """The shift brings the turned picture back to the origin; a scale belongs to the shape of pixels."""
    stored = STORED[6](corners())
    for numbers in ((0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30), (9, 90000, 0, -65536, 7, 0, 0, 0, 1)):
        assert (shown(stored, np.array(numbers, np.int32).tobytes(), "x") == corners()).all()
    assert shown(stored, np.zeros(9, np.int32).tobytes(), "x") is stored
    assert shown(stored, None, "x") is stored


def test_other_angles_are_refused_by_name(tmp_path: Path) -> None:
    tilted = (46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)
    path = write(tmp_path / "a.mp4", [corners()] * 3, matrix=tilted)
    with pytest.raises(VideoError, match=r"a\.mp4: is to be shown turned by 45 degrees; only quarter turns"):
        open_clip(path)


def save(path: Path, exif: int) -> Path:
    """A picture that says how it is to be turned, as cameras write it."""
    data = Image.Exif()
    data[ORIENTATION] = exif
    picture = Image.fromarray(np.ascontiguousarray(STORED[exif](corners())))
    quality = (
        {"lossless": True} if path.suffix == ".webp" else {"quality": 95} if path.suffix == ".jpg" else {}
    )
    if path.suffix in (".tif", ".tiff"):
        picture.save(path, tiffinfo={ORIENTATION: exif})
    else:
        picture.save(path, exif=data, **quality)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "tif", "webp"])
@pytest.mark.parametrize("exif", MATRICES)
def test_pictures_are_turned_as_their_exif_data_say(tmp_path: Path, exif: int, suffix: str) -> None:
    paths = [save(tmp_path / f"{index}.{suffix}", exif) for index in (1, 2, 10)]
    expected = np.array(ImageOps.exif_transpose(Image.open(paths[0])).convert("RGB"))
    for source, count in ((tmp_path, 3), (paths[0], 1)):
        with open_clip(source) as clip:
            assert (clip.size, clip.frame_count) == ((48, 80), count)
            frames = list(clip)
            assert clip.truncated is None
        assert len(frames) == count
        for frame in frames:
            assert (frame == expected).all()
            assert np.abs(frame.astype(int) - corners()).mean() < (4 if suffix == "jpg" else 1e-9)


def test_sizes_are_compared_as_shown(tmp_path: Path) -> None:
    """A camera held upright for one picture stores the same size and shows another."""
    save(tmp_path / "1.jpg", 6)
    save(tmp_path / "2.jpg", 1)
    assert list(open_clip(tmp_path))[1].shape == (48, 80, 3)
    Image.fromarray(corners()).save(tmp_path / "3.jpg", exif=Image.Exif())
    assert len(list(open_clip(tmp_path))) == 3
    data = Image.Exif()
    data[ORIENTATION] = 8
    Image.fromarray(corners()).save(tmp_path / "4.jpg", exif=data)
    with pytest.raises(VideoError, match=r"4\.jpg: 48x80, but 1\.jpg is 80x48"):
        open_clip(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
@pytest.mark.parametrize("exif", MATRICES)
def test_the_size_shown_is_known_without_the_pixels(tmp_path: Path, exif: int, suffix: str) -> None:
    with Image.open(save(tmp_path / f"a.{suffix}", exif)) as image:
        assert shown_size(image) == (48, 80)
