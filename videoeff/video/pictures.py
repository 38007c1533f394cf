"""Pictures as a clip: a folder of them, or one alone. Pillow reads them."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from videoeff.errors import VideoError
from videoeff.video.clip import DEFAULT_FPS, Clip, Decoded, Frame
from videoeff.video.orientation import shown_size

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


class PictureClip(Clip):
    """Pictures of one size, through Pillow, turned as their EXIF data say."""

    def __init__(self, source: str, paths: Sequence[Path], limit: int | None, alpha: bool) -> None:
        import PIL

        super().__init__(source, limit)
        self._paths, self._alpha = list(paths), alpha
        self.size = self._load(self._paths[0]).shape[:2]
        for path in self._paths[1:limit]:
            self._check_size(path)
        self.fps = DEFAULT_FPS
        self.frame_count = self._count(len(self._paths))
        self.decoder = f"pillow {PIL.__version__} / {self._paths[0].suffix.lower().lstrip('.')}"

    def _check_size(self, path: Path) -> None:
        from PIL import Image

        with contextlib.suppress(OSError), Image.open(path) as image:  # damage is reported when read
            height, width = shown_size(image)
            if (height, width) != self.size:
                raise VideoError(
                    f"{path}: {width}x{height}, but {self._paths[0].name} is "
                    f"{self.size[1]}x{self.size[0]}; a clip needs images of one size"
                )

    def _read(self) -> Iterator[tuple[Decoded, float | None]]:
        for index, path in enumerate(self._paths):
            try:
                frame = self._load(path)
            except VideoError as error:
                if index == 0:
                    raise
                self.truncated = f"image {index} of {len(self._paths)}: {error}"
                return
            yield Decoded((frame.shape[0], frame.shape[1]), functools.partial(_same, frame)), None

    def _load(self, path: Path) -> Frame:
        from PIL import Image, ImageOps

        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":
                    raise VideoError(f"{path}: more than 8 bits per channel; convert it to 8-bit RGB")
                if picture_count(image) > 1:
                    raise VideoError(
                        f"{path}: holds {picture_count(image)} pictures; write each to a file of its own"
                    )
                turned = ImageOps.exif_transpose(image)
                return np.array(turned.convert("RGBA" if self._alpha else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # Pillow raises the first three on damaged files
            raise VideoError(f"{path}: not a readable image ({error}); remove or replace it") from error


def _same(frame: Frame) -> Frame:
    return frame


def picture_count(image: object) -> int:
    """How many pictures an opened file holds, a page or a moment each; cameras' previews are none."""
    return 1 if getattr(image, "format", "") == "MPO" else int(getattr(image, "n_frames", 1))


def open_folder(folder: Path, limit: int | None, alpha: bool) -> PictureClip:
    """The pictures of a folder in natural order.

    Raises:
        VideoError: it holds none, they differ in size, or two have one name.
    """
    paths = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != "."]
    if not paths:
        raise VideoError(f"{folder}: no images in this folder; it needs {', '.join(IMAGE_SUFFIXES)}")
    paths.sort(key=natural)
    stems: dict[str, Path] = {}
    for path in paths:
        twin = stems.setdefault(path.stem.lower(), path)
        if twin is not path:
            raise VideoError(
                f"{folder}: holds {twin.name} and {path.name}, and only one of them can be the frame; keep "
                "one kind in this folder"
            )
    return PictureClip(str(folder), paths, limit, alpha)


def is_one_picture(path: Path) -> bool:
    """Whether a file is a picture and no moving one, which a video decoder reads."""
    from PIL import Image

    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    try:
        with Image.open(path) as image:
            return image.format in ("TIFF", "WEBP") or picture_count(image) == 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return True  # the error is told when it is read


def natural(path: Path) -> list[tuple[int, str]]:
    """The key that sorts ``img2`` before ``img10``."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdecimal() else (-1, part.lower()) for part in parts]
