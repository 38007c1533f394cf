"""Synthetic clips in which an exact share of the pixels changes from frame to frame, in blobs that move."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.video.preprocess import Preprocess

Picture = NDArray[np.float32]
Mask = NDArray[np.bool_]


def smooth(height: int, width: int, channels: int, rng: np.random.Generator, cell: int = 24) -> Picture:
    """A smooth random texture (channels, height, width) in [0, 1]: bilinear between random grid points."""
    rows, columns = height // cell + 2, width // cell + 2
    grid = rng.random((channels, rows, columns), dtype=np.float32)
    y, x = np.arange(height, dtype=np.float32) / cell, np.arange(width, dtype=np.float32) / cell
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = (y - y0)[None, :, None].astype(np.float32), (x - x0)[None, None, :].astype(np.float32)
    top = grid[:, y0][:, :, x0] * (1 - fx) + grid[:, y0][:, :, x0 + 1] * fx
    low = grid[:, y0 + 1][:, :, x0] * (1 - fx) + grid[:, y0 + 1][:, :, x0 + 1] * fx
    return np.ascontiguousarray((top * (1 - fy) + low * fy).astype(np.float32))


class BlobClip:
    """An endless clip (channels, height, width), float32 in [0, 1].

    In every frame the pixels inside a few moving ellipses get new values and all others keep theirs. The
    ellipses are scaled until they cover the share asked for, to the pixel.

    Args:
        size: (height, width).
        share: of pixels that change from frame to frame.
        channels: of a picture.
        seed: same seed, same clip.
        blobs: number of ellipses; by the share if None.
    """

    def __init__(
        self,
        size: tuple[int, int],
        share: float,
        *,
        channels: int = 3,
        seed: int = 0,
        blobs: int | None = None,
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"share={share}: give a share of the pixels, 0 to 1")
        self.size, self.share = size, share
        height, width = size
        base = np.random.default_rng(seed)
        grain = base.random((channels, height, width), dtype=np.float32)
        self._frame: Picture = 0.8 * smooth(height, width, channels, base) + 0.2 * grain
        rng = np.random.default_rng([seed, round(share * 1e6), 1])
        self._texture = smooth(height, width, channels, rng)
        count = blobs if blobs is not None else (2 if share < 0.02 else 4)
        self._place = rng.random((count, 2))
        angle, speed = rng.random(count) * 2 * np.pi, 0.02 + 0.03 * rng.random(count)
        self._step = np.stack([np.sin(angle), np.cos(angle)], 1) * speed[:, None]
        self._axes = 0.7 + 0.6 * rng.random((count, 2))  # of the unit ellipse, one blob beside another
        self.index = 0
        self.changed: Mask = np.ones(size, dtype=bool)

    def __iter__(self) -> Iterator[Picture]:
        while True:
            yield self.next()

    def next(self) -> Picture:
        """The next frame, an array of its own. ``changed`` says where it differs from the one before."""
        if self.index > 0:
            self.changed = self._mask()
            self._paint(self.changed)
        self.index += 1
        return self._frame.copy()

    def _mask(self) -> Mask:
        height, width = self.size
        wanted = round(self.share * height * width)
        if wanted == 0:
            return np.zeros(self.size, dtype=bool)
        folded = (self._place + self.index * self._step) % 2.0  # bounce at the borders
        centres = np.minimum(folded, 2.0 - folded) * [height, width]
        y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None, :]
        distance = np.full(self.size, np.inf, dtype=np.float32)
        for (cy, cx), (ay, ax) in zip(centres, self._axes, strict=True):
            np.minimum(distance, ((y - cy) / ay) ** 2 + ((x - cx) / ax) ** 2, out=distance)
        order = np.argpartition(distance.ravel(), wanted - 1)[:wanted]
        mask = np.zeros(height * width, dtype=bool)
        mask[order] = True
        return mask.reshape(self.size)

    def _paint(self, mask: Mask) -> None:
        """New values that differ from the old ones by 0.1 to 0.4, whatever these are."""
        shift = (7 * self.index % self.size[0], 11 * self.index % self.size[1])
        texture = np.roll(self._texture, shift, (1, 2))[:, mask]
        old = self._frame[:, mask]
        step = 0.1 + 0.3 * texture
        self._frame[:, mask] = np.where(old > 0.5, old - step, old + step)


def as_input(picture: Picture, look: Preprocess) -> NDArray[Any]:
    """A picture in 0..1 as a model is fed it: whole grey levels, or scaled, less the mean, over the std."""
    if look.dtype == "uint8":
        return (255 * picture).round().astype(np.uint8)
    factor = 255 * look.scale
    found = picture if factor == 1.0 else picture * np.float32(factor)
    if look.mean is not None:
        found = found - np.array(look.mean, np.float32)[:, None, None]
    return found if look.std is None else found / np.array(look.std, np.float32)[:, None, None]


def share_changed(before: Picture, after: Picture) -> float:
    """Share of the pixels that differ in any channel."""
    return float((before != after).any(0).mean())
