"""The noise of a camera, measured on a clip: how it grows with the light, σ²(I) = gain · I + floor.

Sensor noise has a part that does not depend on the light (reading the sensor) and a part whose variance grows
with it (photons arrive one by one). Both are found from pixels that show the same thing in two frames:

1. of pixels on a grid, the temporal median of |difference| of two frames gives each pixel's own σ, which
   objects that pass now and then do not disturb;
2. pixels are put into bins by their level, and in each bin those far above the quieter ones are left out as
   moving; the median of the others is the σ of that level;
3. a straight line through σ² over the level, fitted so that a few bins full of motion do not count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError

if TYPE_CHECKING:
    from videoeff.video.preprocess import Preprocess

Array = NDArray[Any]

#: The median of |x| of a normal variable, over its σ.
_MEDIAN = 0.6745
#: Grey levels of a bin, and how many pixels make it count.
_BIN, _FEWEST = 16, 64
#: At most so many pixels are looked at.
_PIXELS = 60_000
#: A pixel noisier than this many times the quieter quarter of its bin moves.
_MOVES = 2.0
#: So many σ from a pixel's usual level, something else is seen there.
_OTHER = 4.0
#: Of the pixels at least this share has to be still.
_STILL = 0.25
#: Where the differences at the picture's edges are this many times those elsewhere, the picture moves.
_EDGES = 4.0
#: This is looked at in every so many frames.
_EVERY = 6
#: More noise than this, in grey levels, is no noise of a camera.
_LOUD = 12.0
#: Variance of rounding to whole grey levels: no smaller noise can be told.
_ROUNDING = 1 / 12


@dataclass(frozen=True)
class Noise:
    """The noise of each channel, σ²(I) = gain · I + floor, in grey levels 0..255.

    Attributes:
        gain: of each channel, red first as frames are; 0 or larger.
        floor: variance of each channel at black; at least that of rounding.
        still: share of the pixels looked at that were found to stand still.
        frames: how many frames were looked at.
        lag: from how far apart they were compared, in frames.
        doubt: why the figures should not be relied on, "" if they may be.
    """

    gain: tuple[float, ...]
    floor: tuple[float, ...]
    still: float
    frames: int
    lag: int
    doubt: str = ""

    def sigma(self, level: float) -> tuple[float, ...]:
        """σ of each channel at a level 0..255, in grey levels."""
        return tuple(math.sqrt(g * level + f) for g, f in zip(self.gain, self.floor, strict=True))

    def as_model_sees(self, preprocess: Preprocess) -> tuple[tuple[float, float, float], ...]:
        """The noise in the units of a model's input: what ``convert(noise=...)`` takes.

        A resize that makes the picture smaller averages noise away, which is not counted here: estimate on
        frames that were :func:`resized` already.

        Returns:
            For each channel of the model (gain, floor, black): σ² = floor + gain · max(x − black, 0).

        Raises:
            VideoError: the model does not take three channels.
        """
        channels = preprocess.channels
        if channels != 3 or len(self.gain) != 3:
            raise VideoError(
                f"noise of {len(self.gain)} channels for a model of {channels}: only three colours are served"
            )
        order = (2, 1, 0) if preprocess.bgr else (0, 1, 2)
        mean, std = preprocess.mean or (0.0,) * channels, preprocess.std or (1.0,) * channels
        found = []
        for place, channel in enumerate(order):
            step = preprocess.scale / std[place]  # of one grey level
            found.append(
                (self.gain[channel] * step, self.floor[channel] * step**2, -mean[place] / std[place])
            )
        return tuple(found)

    def __str__(self) -> str:
        low, middle, high = (max(self.sigma(level)) for level in (16, 128, 240))
        text = (
            f"noise σ = {low:.2f} / {middle:.2f} / {high:.2f} grey levels at level 16 / 128 / 240, from "
            f"{self.frames} frames, {100 * self.still:.0f} % of the pixels still"
        )
        return f"{text}; not to be relied on: {self.doubt}" if self.doubt else text


def resized(frames: Iterable[NDArray[np.uint8]], preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) of the model's size in grey levels, red first; without the borders of a letterbox.

    Args:
        frames: pictures (H, W, C), uint8.
        preprocess: of the model.
    """
    plain = replace(
        preprocess, scale=1.0, mean=None, std=None, bgr=False, fit="stretch", channels=3, dtype="uint8"
    )
    for frame in frames:
        yield plain(frame)[0].permute(1, 2, 0).numpy()


def estimate_noise(frames: Iterable[NDArray[np.uint8]], *, lag: int = 1, most: int = 96) -> Noise:
    """Measure the noise of a clip of a camera that stands still.

    Args:
        frames: pictures (H, W, C), uint8, of one size.
        lag: compare frames this far apart. 1 suits a camera's own frames. A codec copies what hardly moves
            from frame to frame and redraws it at the next key frame: there give the distance of two
            key frames, or the noise comes out too small.
        most: look at no more frames than this.

    Returns:
        The noise; its ``doubt`` says where it should not be relied on.

    Raises:
        VideoError: there are fewer than four frames beyond ``lag``, or they are not uint8 pictures of one
            size.
    """
    if lag < 1 or most < lag + 4:
        raise VideoError(
            f"lag={lag}, most={most}: frames are compared at least 1 apart, and 4 more are needed"
        )
    series, edges = _sampled(itertools.islice(frames, most))
    count = len(series)
    if count < lag + 4:
        raise VideoError(f"the clip has {count} frames; noise at lag={lag} needs at least {lag + 4}")
    gains, floors, shares = [], [], []
    for channel in range(series.shape[2]):
        sigma = _pixel_sigma(series[:, :, channel], lag)
        level = np.median(series[:, :, channel], axis=0)
        points = _levels(level, sigma)
        gain, floor = _line(points)
        expected = np.sqrt(gain * level + floor)
        gains.append(gain)
        floors.append(floor)
        shares.append(float((sigma <= _MOVES * expected).mean()))
    still, ratio = min(shares), _edge_ratio(series, edges, lag)
    doubt = ""
    if still < _STILL:
        doubt = (
            f"only {100 * still:.0f} % of the pixels stand still, {100 * _STILL:.0f} % are needed: the "
            "camera moves, or most of the picture does"
        )
    elif ratio > _EDGES:
        doubt = (
            f"differences at the picture's edges are {ratio:.1f} times those elsewhere: the camera moves or "
            "shakes, or most of the scene moves"
        )
    elif max(g * 255 + f for g, f in zip(gains, floors, strict=True)) > _LOUD**2:
        doubt = f"σ is more than {_LOUD:.0f} grey levels: the camera moves, or all of the picture does"
    return Noise(tuple(gains), tuple(floors), still, count, lag, doubt)


def _sampled(frames: Iterable[NDArray[np.uint8]]) -> tuple[Array, dict[int, Array]]:
    """Some pixels of all frames, (T, P, C) uint8; of some frames by number, how steep each is there, (P,)."""
    found: list[Array] = []
    edges: dict[int, Array] = {}
    places: tuple[Array, Array] | None = None
    first: Array | None = None
    for frame in frames:
        if frame.dtype != np.uint8 or frame.ndim != 3:
            raise VideoError(f"noise: a frame is {frame.dtype} {frame.shape}; expected uint8 (H, W, C)")
        if first is None or places is None:
            first = frame
            height, width = frame.shape[:2]
            step = max(1, math.ceil(math.sqrt(height * width / _PIXELS)))
            rows, columns = np.mgrid[step // 2 : height : step, step // 2 : width : step]
            places = rows.reshape(-1), columns.reshape(-1)
        elif frame.shape != first.shape:
            raise VideoError(f"noise: frames differ in size: {first.shape} and {frame.shape}")
        if len(found) % _EVERY == 0:
            edges[len(found)] = _steepness(frame)[places]
        found.append(frame[places])
    if first is None:
        raise VideoError("noise: the clip has no frame")
    return np.stack(found), edges


def _steepness(frame: NDArray[np.uint8]) -> Array:
    """How much a picture (H, W, C) changes over four pixels around each, (H, W); noise is little there."""
    padded = np.pad(frame.astype(np.float32), ((2, 2), (2, 2), (0, 0)), mode="edge")
    down = np.abs(padded[4:, 2:-2] - padded[:-4, 2:-2])
    steep: Array = (down + np.abs(padded[2:-2, 4:] - padded[2:-2, :-4])).mean(2)
    return steep


def _pixel_sigma(series: Array, lag: int) -> Array:
    """σ of each pixel from its median |difference| over time, (P,).

    The median is taken twice: the second time without the moments at which something else was seen there.
    """
    size = np.abs(series[lag:].astype(np.int16) - series[:-lag])
    sigma = _median_sigma(size, np.ones(size.shape, dtype=bool))
    away = np.abs(series - np.median(series, axis=0))
    usual = away <= np.maximum(_OTHER * sigma, 1)
    kept = usual[lag:] & usual[:-lag]
    return np.where(kept.sum(0) >= max(3, len(size) // 4), _median_sigma(size, kept), sigma)


def _median_sigma(size: Array, kept: Array) -> Array:
    """σ from the median of whole numbers (T, P) where ``kept``.

    Where the median lies between two numbers is told from how many are smaller.
    """
    count = np.maximum(kept.sum(0), 1)
    ordered = np.sort(np.where(kept, size, np.iinfo(np.int16).max), axis=0)
    middle = np.take_along_axis(ordered, (count[None] - 1) // 2, 0)[0]
    below = (kept & (size < middle)).sum(0) / count
    same = np.maximum((kept & (size == middle)).sum(0) / count, 1e-6)
    share = np.clip((0.5 - below) / same, 0, 1)
    inside = np.where(middle > 0, middle - 0.5 + share, 0.5 * share)
    sigma: Array = inside / (_MEDIAN * math.sqrt(2))
    return sigma


def _levels(level: Array, sigma: Array) -> Array:
    """(bins, 3): level, variance and how many still pixels it is from."""
    found = []
    bins = (level // _BIN).astype(np.int64)
    for number in range(256 // _BIN):
        here = bins == number
        if here.sum() < _FEWEST:
            continue
        own = sigma[here]
        quiet = own[own <= _MOVES * max(float(np.quantile(own, 0.25)), 0.25)]
        found.append((float(level[here].mean()), float(np.median(quiet)) ** 2, len(quiet)))
    if not found:  # a tiny picture: all of it is one bin
        found.append((float(level.mean()), float(np.median(sigma)) ** 2, len(sigma)))
    return np.array(found)


def _line(points: Array) -> tuple[float, float]:
    """Gain and floor of σ² = gain · level + floor; bins far above the line count little.

    Weighted least squares of the relative error, repeated: a bin's weight falls with its distance above.
    """
    level, variance, count = points.T
    weight = np.sqrt(count)
    trust = np.ones_like(weight)
    gain, floor = 0.0, max(float(np.median(variance)), _ROUNDING)
    for _ in range(12):
        expected = np.maximum(gain * level + floor, _ROUNDING)
        scaled = weight * trust / expected
        gain, floor = _least_squares(level, variance, scaled)
        expected = np.maximum(gain * level + floor, _ROUNDING)
        above = np.maximum(variance / expected - 1, 0)
        trust = 1 / (1 + (above / 0.5) ** 2)
    return gain, floor


def _least_squares(level: Array, variance: Array, weight: Array) -> tuple[float, float]:
    """Gain ≥ 0 and floor ≥ rounding of a weighted line; on the border where the free line lies outside."""
    square = weight**2
    total = square.sum()
    mean_level, mean = (square * level).sum() / total, (square * variance).sum() / total
    spread = (square * (level - mean_level) ** 2).sum()
    gain = (square * (level - mean_level) * (variance - mean)).sum() / spread if spread > 0 else 0.0
    floor = mean - gain * mean_level
    if gain < 0:
        return 0.0, max(float(mean), _ROUNDING)
    if floor < _ROUNDING:
        squared = (square * level**2).sum()
        gain = (square * level * (variance - _ROUNDING)).sum() / squared if squared > 0 else 0.0
        return max(float(gain), 0.0), _ROUNDING
    return float(gain), float(floor)


def _edge_ratio(series: Array, edges: dict[int, Array], lag: int) -> float:
    """How much larger differences are where the picture is steep than where it is flat; noise has no edges.

    A mean of the lower four fifths, so that a passing object does not count; the median over some frames.
    """
    found = []
    for number, steep in edges.items():
        if number + lag >= len(series):
            continue
        size = np.abs(series[number + lag].astype(np.int16) - series[number]).mean(1)
        strong, flat = steep >= np.quantile(steep, 0.8), steep <= np.quantile(steep, 0.5)
        found.append(_lower_mean(size[strong]) / (_lower_mean(size[flat]) + 0.25))
    return float(np.median(found)) if found else 1.0


def _lower_mean(values: Array) -> float:
    """The mean of the lower four fifths."""
    return float(np.sort(values)[: max(1, 4 * len(values) // 5)].mean())
