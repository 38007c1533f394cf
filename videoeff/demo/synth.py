"""Synthetic surveillance clips with exact labels, so that the demonstration needs no one else's video.

A fixed camera looks at a textured scene. Discs, squares and triangles come in, stop, pass behind one
another and leave; a cloud dims the light once; every frame carries fresh sensor noise. The same arguments
give bitwise the same clip with the same numpy, and any frame can be made without those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError
from videoeff.video.writer import ClipWriter

CLASSES = ("background", "disc", "square", "triangle")
FPS = 25.0
CLOUD_FRAMES = 20  # for the light to go, and to come back

Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class _Thing:
    """A moving object: what it looks like, and where its middle is in each frame (frames, 2) as (y, x)."""

    label: int
    radius: float
    angle: float
    period: float
    colours: Floats
    path: Floats


class Scene:
    """A clip whose frames are made on request.

    Args:
        frames: length of the clip.
        size: (H, W) in pixels, at least 16 each.
        seed: of everything random; equal arguments give an equal clip.
        objects: how many move about; their classes take turns.
        noise: standard deviation of the sensor noise at mid grey, in grey levels of 0..255; 0 for none.
        illumination: brightness under the cloud relative to before it, above 0; 1 for no cloud. It comes
            and goes over 20 frames each, in the middle of the clip.

    Raises:
        VideoError: an argument is out of range.
    """

    def __init__(
        self,
        frames: int,
        size: tuple[int, int] = (256, 448),
        seed: int = 0,
        objects: int = 5,
        noise: float = 1.5,
        illumination: float = 0.75,
    ) -> None:
        if frames < 1 or min(size) < 16 or seed < 0 or objects < 0 or noise < 0 or not illumination > 0:
            raise VideoError(
                f"synthetic clip: frames={frames}, size={size}, seed={seed}, objects={objects}, "
                f"noise={noise}, illumination={illumination}; needs at least one frame, 16 pixels a side, "
                "illumination above 0, and nothing negative"
            )
        self.frames, self.size, self.seed = frames, size, seed
        self.noise, self.illumination = noise, illumination
        rng = np.random.default_rng([seed, 0])
        self.background = _background(rng, size)
        self._things = [_thing(rng, 1 + (seed + index) % 3, size, frames) for index in range(objects)]

    def frame(self, index: int) -> tuple[NDArray[np.uint8], Labels]:
        """Make frame `index`: the picture (H, W, 3), uint8 RGB, and its labels (H, W), uint8.

        A label is an index into `CLASSES`; a pixel belongs to what covers more than half of it.
        """
        if not 0 <= index < self.frames:
            raise VideoError(f"synthetic clip: frame {index} of a clip of {self.frames}")
        picture = self.background.copy()
        labels = np.zeros(self.size, np.uint8)
        for thing in self._things:  # the later ones are nearer
            _draw(thing, thing.path[index], picture, labels)
        picture *= np.float32(self._light(index))
        if self.noise:
            # Photon noise grows with the light, read-out noise does not: half the variance each at mid grey.
            rng = np.random.default_rng([self.seed, 1, index])
            deviation = np.sqrt(np.maximum(picture, 0.0) / np.float32(255.0) + np.float32(0.5))
            picture += rng.standard_normal(picture.shape, np.float32) * deviation * np.float32(self.noise)
        return np.clip(np.rint(picture), 0.0, 255.0).astype(np.uint8), labels

    def _light(self, index: int) -> float:
        half = CLOUD_FRAMES // 2
        away = max(0, abs(index - self.frames // 2) - half)  # the cloud stays for its ramp's length
        share = max(0.0, 1.0 - away / CLOUD_FRAMES)
        return 1.0 + (self.illumination - 1.0) * share * share * (3.0 - 2.0 * share)


def synthetic_clip(
    frames: int,
    size: tuple[int, int] = (256, 448),
    seed: int = 0,
    objects: int = 5,
    noise: float = 1.5,
    illumination: float = 0.75,
) -> Iterator[tuple[NDArray[np.uint8], Labels]]:
    """Yield `frames` pairs of a picture (H, W, 3), uint8 RGB, and its labels (H, W), uint8.

    The arguments and errors are those of `Scene`; they are checked at once, not at the first frame.
    """
    scene = Scene(frames, size, seed, objects, noise, illumination)
    return (scene.frame(index) for index in range(frames))


def write_clip(
    path: str | Path,
    frames: int,
    size: tuple[int, int] = (256, 448),
    seed: int = 0,
    objects: int = 5,
    noise: float = 1.5,
    illumination: float = 0.75,
) -> Path:
    """Write a synthetic clip as a video file at 25 frames per second and return its path.

    Raises:
        VideoError: an argument is out of range, or the file cannot be written.
    """
    clip = synthetic_clip(frames, size, seed, objects, noise, illumination)
    with ClipWriter(path, FPS, size) as writer:
        for picture, _ in clip:
            writer.write(picture)
    return writer.path


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Noise of five octaves between two dull colours, (H, W, 3), 0..255."""
    height, width = size
    blend = np.zeros(size, np.float32)
    for octave in range(5):
        cells = 2 << octave
        grid = rng.random((cells + 1, cells * width // height + 2), np.float32)
        blend += _enlarge(grid, size) * np.float32(0.6**octave)
    blend = (blend - blend.min()) / (blend.max() - blend.min())
    ends = rng.uniform(50.0, 190.0) + rng.uniform(-45.0, 45.0, (2, 3)).astype(np.float32)
    grain = rng.standard_normal(size, np.float32) * np.float32(4.0)
    picture: Floats = ends[0] + (ends[1] - ends[0]) * blend[..., None] + grain[..., None]
    return picture.clip(10.0, 245.0)


def _enlarge(grid: Floats, size: tuple[int, int]) -> Floats:
    """Stretch a grid over (H, W) by smooth interpolation between its points."""
    stretched = grid
    for axis, length in enumerate(size):
        at = np.linspace(0.0, grid.shape[axis] - 1.0, length, endpoint=False, dtype=np.float32)
        low = at.astype(np.intp)
        share = (at - low).astype(np.float32)
        share = (share * share * (3.0 - 2.0 * share)).reshape((-1, 1) if axis == 0 else (1, -1))
        near, far = stretched.take(low, axis), stretched.take(low + 1, axis)
        stretched = (near * (1.0 - share) + far * share).astype(np.float32)
    return stretched


def _thing(rng: np.random.Generator, label: int, size: tuple[int, int], frames: int) -> _Thing:
    short = min(size)
    radius = float(rng.uniform(0.055, 0.11)) * short
    base = rng.uniform(20.0, 235.0, 3)
    other = np.clip(base + rng.choice((-1.0, 1.0), 3) * rng.uniform(30.0, 90.0, 3), 5.0, 250.0)
    return _Thing(
        label=label,
        radius=radius,
        angle=float(rng.uniform(0.0, 2.0 * np.pi)),
        period=radius * float(rng.uniform(0.35, 0.7)),
        colours=np.stack([base, other]).astype(np.float32),
        path=_path(rng, size, radius, frames),
    )


def _path(rng: np.random.Generator, size: tuple[int, int], radius: float, frames: int) -> Floats:
    """Where an object is, frame by frame: in from a border, to a stop, and out again; then anew."""
    extent = np.array(size, np.float64)
    skip = int(rng.integers(0, 120))  # the clip starts with some objects already inside
    points: list[NDArray[np.float64]] = []
    while len(points) < skip + frames:
        speed = float(rng.uniform(0.006, 0.018)) * min(size)
        stop = rng.uniform(0.15, 0.85, 2) * extent
        enter, leave = (_outside(rng, extent, radius) for _ in range(2))
        pause = int(rng.integers(8, 50))
        for start, end, rest in ((enter, stop, pause), (stop, leave, int(rng.integers(3, 20)))):
            steps = max(1, int(np.hypot(*(end - start)) / speed))
            points += [start + (end - start) * step / steps for step in range(1, steps + 1)]
            points += [end] * rest
    return np.array(points[skip : skip + frames], np.float32)


def _outside(rng: np.random.Generator, extent: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """A point just out of sight, beyond a border drawn by chance."""
    point = rng.uniform(0.0, 1.0, 2) * extent
    axis = int(rng.integers(2))
    point[axis] = -2.1 * radius if rng.integers(2) else extent[axis] + 2.1 * radius
    return point


def _draw(thing: _Thing, middle: Floats, picture: Floats, labels: Labels) -> None:
    """Paint an object over the picture (H, W, 3) and its label over the labels (H, W), edges smoothed."""
    reach = 2.0 * thing.radius + 2.0
    top, left = (max(0, int(at - reach)) for at in middle)
    bottom, right = (min(side, int(at + reach) + 1) for at, side in zip(middle, labels.shape, strict=True))
    if top >= bottom or left >= right:
        return
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - middle[0]
    dx = np.arange(left, right, dtype=np.float32)[None, :] - middle[1]
    sine, cosine = np.float32(np.sin(thing.angle)), np.float32(np.cos(thing.angle))
    v, u = dy * cosine - dx * sine, dy * sine + dx * cosine
    pace = np.float32(2.0 * np.pi / thing.period)
    if thing.label == 1:
        centre = np.sqrt(u * u + v * v)
        distance, wave = centre - thing.radius, np.sin(centre * pace)
    elif thing.label == 2:
        distance = np.maximum(abs(u), abs(v)) - np.float32(0.9 * thing.radius)
        wave = np.sin(u * pace) * np.sin(v * pace) * np.float32(1.6)
    else:
        slope = np.float32(np.sqrt(3.0) / 2.0)
        distance = np.maximum(v, slope * abs(u) - v / 2) - np.float32(0.7 * thing.radius)
        wave = np.sin(v * pace)
    cover = np.clip(np.float32(0.5) - distance, 0.0, 1.0)
    share = np.clip(wave + np.float32(0.5), 0.0, 1.0)[..., None]
    paint = thing.colours[0] + (thing.colours[1] - thing.colours[0]) * share
    part = picture[top:bottom, left:right]
    part += (paint - part) * cover[..., None]
    labels[top:bottom, left:right][cover > 0.5] = thing.label
