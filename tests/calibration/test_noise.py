"""The noise of clips whose noise is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from videoeff.calibration.noise import Array, Noise, estimate_noise
from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess

ROUNDING = 1 / 12


def scene(height: int = 120, width: int = 200, seed: int = 0) -> Array:
    """A smooth picture (H, W, 3) of all levels, float64."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.normal(size=(1, 3, height // 15, width // 15)))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic")[0].permute(1, 2, 0)
    levels: Array = np.clip(128 + 70 * large.numpy(), 12, 243)
    return levels


def noisy(picture: Array, gain: float, floor: float, rng: np.random.Generator) -> Array:
    sigma = np.sqrt(gain * picture + floor)
    return np.clip(np.rint(picture + rng.normal(size=picture.shape) * sigma), 0, 255).astype(np.uint8)


def clip(gain: float, floor: float, frames: int = 40, cover: float = 0.0) -> Iterator[Array]:
    """A still scene with noise; an object of some share of the picture passes."""
    picture, rng = scene(), np.random.default_rng(1)
    width = picture.shape[1]
    for number in range(frames):
        now = picture.copy()
        size = round(cover * width)
        first = round(number * (width - size) / frames)
        now[:, first : first + size] = 250 - now[:, first : first + size]
        yield noisy(now, gain, floor, rng)


@pytest.mark.parametrize(("gain", "floor"), [(0.0, 4.0), (0.03, 1.0), (0.06, 0.5), (0.0, 0.5)])
@pytest.mark.parametrize("cover", [0.0, 0.15])
@pytest.mark.parametrize("lag", [1, 5])
def test_known_noise_is_found(gain: float, floor: float, cover: float, lag: int) -> None:
    """σ to 8 % at every level, whatever passes; rounding to grey levels is part of the noise."""
    found = estimate_noise(clip(gain, floor, cover=cover), lag=lag)
    assert not found.doubt
    assert (found.frames, found.lag) == (40, lag)
    assert found.still > 0.7
    for level in (30.0, 128.0, 220.0):
        true = (gain * level + floor + ROUNDING) ** 0.5
        assert found.sigma(level) == pytest.approx((true,) * 3, rel=0.08)


def test_channels_differ() -> None:
    rng, picture = np.random.default_rng(2), scene()
    frames = []
    for _ in range(30):
        planes = [noisy(picture[..., i], 0.02 * i, 1.0 + 2 * i, rng) for i in range(3)]
        frames.append(np.stack(planes, -1))
    found = estimate_noise(frames)
    for channel in range(3):
        true = (0.02 * channel * 128 + 1 + 2 * channel + ROUNDING) ** 0.5
        assert found.sigma(128)[channel] == pytest.approx(true, rel=0.08)


def test_a_clip_without_noise() -> None:
    """What is found is that of rounding, which no clip is without."""
    picture = np.rint(scene()).astype(np.uint8)
    found = estimate_noise([picture] * 12)
    assert found.gain == (0.0, 0.0, 0.0)
    assert found.floor == (ROUNDING,) * 3
    assert found.still == 1.0


@pytest.mark.parametrize("kind", ["patches", "smooth"])
def test_a_moving_camera_is_doubted(kind: str) -> None:
    """Where nothing stands still, differences follow the picture's edges, or are larger than any noise."""
    rng, step = np.random.default_rng(3), 4
    picture = scene(120, 320)
    if kind == "patches":
        picture = np.kron(rng.uniform(30, 220, (8, 16, 3)), np.ones((15, 20, 1)))
    frames = [noisy(picture[:, step * i : step * i + 200], 0.0, 1.0, rng) for i in range(30)]
    found = estimate_noise(frames)
    assert "the camera moves" in found.doubt
    assert "not to be relied on" in str(found)


def test_too_little_that_stands_still() -> None:
    """Most of the picture is drawn anew in every frame."""
    rng, frames = np.random.default_rng(4), []
    for _ in range(30):
        frame = rng.integers(0, 255, (80, 120, 3), dtype=np.uint8)
        frame[:12] = 128
        frames.append(frame)
    found = estimate_noise(frames)
    assert "moves" in found.doubt


def test_what_the_model_sees() -> None:
    noise = Noise((0.01, 0.02, 0.03), (1.0, 2.0, 3.0), 1.0, 40, 1)
    look = Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.5), bgr=True)
    step = 1 / 255
    for place, (gain, floor, black) in enumerate(noise.as_model_sees(look)):
        channel = 2 - place
        assert black == pytest.approx(-look.mean[place] / look.std[place])  # type: ignore[index]
        for level in (0.0, 100.0, 255.0):
            seen = (level * step - look.mean[place]) / look.std[place]  # type: ignore[index]
            variance = floor + gain * max(seen - black, 0.0)
            true = noise.sigma(level)[channel] * step / look.std[place]  # type: ignore[index]
            assert variance**0.5 == pytest.approx(true)


def test_a_model_of_other_channels_is_refused() -> None:
    with pytest.raises(VideoError, match="noise of 3 channels for a model of 1"):
        Noise((0.0,) * 3, (1.0,) * 3, 1.0, 9, 1).as_model_sees(Preprocess(channels=1))


@pytest.mark.parametrize(
    ("frames", "options", "message"),
    [
        ([], {}, "the clip has no frame"),
        ([np.zeros((8, 8, 3), np.uint8)] * 3, {}, "the clip has 3 frames; noise at lag=1 needs at least 5"),
        ([np.zeros((8, 8, 3), np.float32)], {}, "a frame is float32"),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], {}, "frames differ in size"),
        ([np.zeros((8, 8, 3), np.uint8)] * 9, {"lag": 0}, "lag=0"),
    ],
    ids=["none", "few", "float", "sizes", "lag"],
)
def test_what_cannot_be_measured(frames: list[Array], options: dict[str, int], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        estimate_noise(frames, **options)


def test_no_more_frames_are_read_than_asked_for() -> None:
    given = clip(0.0, 1.0, frames=60)
    assert estimate_noise(given, most=20).frames == 20
    assert sum(1 for _ in given) == 40
