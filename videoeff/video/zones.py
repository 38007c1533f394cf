"""Zones of a fixed camera's frame: polygons that are watched or ignored.

Trees, a street behind a fence and a time stamp in the picture change all the time, and nobody asks about
them. A stream with zones takes no notice of what changes there, and spends nothing on it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from videoeff.errors import ArtifactError, VideoError
from videoeff.video.fit import Place

if TYPE_CHECKING:
    import torch

#: Corners (x, y) in fractions 0..1 of the camera's frame, x to the right and y down.
Polygon = tuple[tuple[float, float], ...]

#: Polygons are drawn on a grid so many times as fine as the pixels. Odd, so that a pixel's centre is on it.
_FINE = 5
_FEWEST = 3
_FIELDS = ("watch", "ignore")


@dataclass(frozen=True)
class Zones:
    """Which parts of a camera's frame count.

    A pixel is ignored where its centre lies inside an ignored polygon, or outside all watched ones if there
    are any: ignored wins. The border belongs to a polygon; a centre less than a fifth of a pixel from it may
    fall to either side. Where a polygon crosses itself, what its border encloses twice is outside of it.

    Attributes:
        watch: polygons that are watched; without any, everything is.
        ignore: polygons that are ignored.

    Raises:
        VideoError: a polygon has fewer than 3 corners or no area, or a corner is no pair of numbers 0..1.
    """

    watch: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, _polygons(name, getattr(self, name)))

    def __bool__(self) -> bool:
        """Whether there is a polygon; without one everything is watched."""
        return bool(self.watch or self.ignore)

    def __or__(self, other: Zones) -> Zones:
        """The polygons of both."""
        return Zones(self.watch + other.watch, self.ignore + other.ignore)

    def mask(self, size: tuple[int, int], place: Place | None = None) -> torch.Tensor:
        """The pixels of a model's input that are watched, bool (H, W).

        The padding of a letterbox is watched: it never changes, so that this costs nothing.

        Args:
            size: (H, W) of the input in pixels.
            place: where in it the frame lies; None where the frame fills it.

        Raises:
            VideoError: nothing of the frame is left to watch, or the place lies outside the input.
        """
        import torch

        height, width = size
        there = Place(0, 0, height, width) if place is None else place
        bottom, right = there.top + there.height, there.left + there.width
        if (
            min(there.top, there.left, there.height - 1, there.width - 1) < 0
            or bottom > height
            or right > width
        ):
            raise VideoError(f"zones: the frame's place {there} does not lie in an input of {height}x{width}")
        inside = self._watched(there.height, there.width)
        if not bool(inside.any()):
            raise VideoError(
                f"zones: nothing is left to watch at {there.height}x{there.width} pixels: "
                f"{len(self.watch)} watched and {len(self.ignore)} ignored polygon(s) leave no pixel; make "
                "the ignored ones smaller"
            )
        found = torch.ones(height, width, dtype=torch.bool)
        found[there.top : bottom, there.left : right] = inside
        return found

    def _watched(self, height: int, width: int) -> torch.Tensor:
        watched = _covered(self.watch, height, width) if self.watch else None
        ignored = _covered(self.ignore, height, width)
        return ~ignored if watched is None else watched & ~ignored

    def to_json(self) -> dict[str, Any]:
        """Plain lists; `from_json` reads them back equal."""
        return {n: [[list(corner) for corner in p] for p in getattr(self, n)] for n in _FIELDS}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | str) -> Zones:
        """Read ``{"watch": [polygon, ...], "ignore": [polygon, ...]}``, as a mapping or as JSON text.

        A polygon is a list of corners [x, y]. Either key may be left out.

        Raises:
            ArtifactError: it is no JSON object, a key is unknown, or a polygon cannot be used.
        """
        if isinstance(data, str):
            try:
                data = json.loads(data)
            except (json.JSONDecodeError, RecursionError) as error:
                raise ArtifactError(f"zones: not JSON ({error}); write them with to_json") from error
        if not isinstance(data, Mapping):
            raise ArtifactError(
                f'zones: expected an object {{"watch": [...], "ignore": [...]}}, found {type(data).__name__}'
            )
        unknown = sorted(map(str, set(data) - set(_FIELDS)))
        if unknown:
            raise ArtifactError(f"zones: unknown key(s) {', '.join(unknown)}; known: {', '.join(_FIELDS)}")
        try:
            return cls(**{str(name): value for name, value in data.items()})
        except VideoError as error:
            raise ArtifactError(str(error)) from error

    @classmethod
    def parse(cls, watch: Iterable[str] = (), ignore: Iterable[str] = ()) -> Zones:
        """Read polygons from the command line's text, such as ``"0.1,0.2 0.5,0.2 0.5,0.9"``.

        All numbers in one row, ``"0.1,0.2,0.5,0.2,0.5,0.9"``, are read in pairs: others write them so.

        Raises:
            VideoError: a text is no polygon.
        """
        return cls(tuple(map(_read, watch)), tuple(map(_read, ignore)))


def _read(text: str) -> Polygon:
    words = text.split()
    if len(words) == 1:
        numbers = words[0].strip(",").split(",")
        words = [",".join(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    corners = []
    for word in words:
        if not re.fullmatch(r"[-+.\deE]+,[-+.\deE]+", word):
            raise VideoError(f'zones: {text!r}: {word!r} is no corner x,y; write a polygon as "x,y x,y x,y"')
        try:
            x, y = (float(number) for number in word.split(","))
        except ValueError as error:
            raise VideoError(f"zones: {text!r}: {word!r} is no corner x,y ({error})") from error
        corners.append((x, y))
    return tuple(corners)


def _polygons(name: str, given: Any) -> tuple[Polygon, ...]:
    if not isinstance(given, (tuple, list)):
        raise VideoError(f"zones: {name} is a {type(given).__name__}; give a list of polygons")
    return tuple(_polygon(f"{name} polygon {number}", corners) for number, corners in enumerate(given, 1))


def _polygon(where: str, given: Any) -> Polygon:
    if not isinstance(given, (tuple, list)):
        raise VideoError(f"zones: {where} is a {type(given).__name__}; give a list of corners (x, y)")
    corners = tuple(_corner(where, corner) for corner in given)
    if len(corners) < _FEWEST:
        raise VideoError(f"zones: {where} has {len(corners)} corner(s); a polygon has at least {_FEWEST}")
    (x, y), *others = corners
    far = max(others, key=lambda c: math.dist(c, (x, y)))
    if all((far[0] - x) * (c[1] - y) == (far[1] - y) * (c[0] - x) for c in others):
        raise VideoError(f"zones: {where} encloses no area: all its corners lie on one line")
    return corners


def _corner(where: str, given: Any) -> tuple[float, float]:
    pair = isinstance(given, (tuple, list)) and len(given) == 2
    if not pair or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in given):
        raise VideoError(f"zones: {where} has the corner {given!r}; give two numbers (x, y)")
    if not all(0.0 <= v <= 1.0 for v in given):  # NaN and infinity too
        raise VideoError(
            f"zones: {where} has the corner ({given[0]:g}, {given[1]:g}); corners are fractions 0..1 of the "
            "frame's width and height, not pixels"
        )
    return float(given[0]), float(given[1])


def _covered(polygons: Iterable[Polygon], height: int, width: int) -> torch.Tensor:
    """Pixels whose centre lies in one of the polygons, bool (H, W)."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    found = np.zeros((height, width), dtype=np.bool_)
    for polygon in polygons:
        # A place of Pillow's is the centre of a pixel of the fine grid.
        corners = [(round(x * width * _FINE - 0.5), round(y * height * _FINE - 0.5)) for x, y in polygon]
        picture = Image.new("1", (width * _FINE, height * _FINE))
        ImageDraw.Draw(picture).polygon(corners, fill=1, outline=1)
        found |= np.asarray(picture)[_FINE // 2 :: _FINE, _FINE // 2 :: _FINE]
    return torch.from_numpy(found)
