"""Synthetic clips: the same each time, labelled as drawn, and with every kind of change they promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videoeff.demo.synth import CLASSES, CLOUD_FRAMES, FPS, Scene, synthetic_clip, write_clip
from videoeff.errors import VideoError
from videoeff.video.source import open_clip

SIZE = (72, 112)


def test_a_seed_gives_bitwise_the_same_clip() -> None:
    first, again, other = (list(synthetic_clip(6, SIZE, seed=seed)) for seed in (5, 5, 6))
    for (picture, labels), (picture2, labels2) in zip(first, again, strict=True):
        assert picture.dtype == labels.dtype == np.uint8
        assert picture.shape == (*SIZE, 3)
        assert labels.shape == SIZE
        assert np.array_equal(picture, picture2)
        assert np.array_equal(labels, labels2)
    assert not np.array_equal(first[0][0], other[0][0])
    scene = Scene(6, SIZE, seed=5)
    assert np.array_equal(scene.frame(4)[0], first[4][0])  # without the frames before it


def test_a_quiet_scene_stands_still() -> None:
    frames = [picture for picture, _ in synthetic_clip(4, SIZE, objects=0, noise=0, illumination=1)]
    for frame in frames[1:]:
        assert np.array_equal(frame, frames[0])
    assert frames[0].std() > 3  # and is no blank wall


def test_noise_has_the_deviation_asked_for() -> None:
    clean = next(synthetic_clip(1, SIZE, seed=2, objects=0, noise=0))[0].astype(float)
    noisy = next(synthetic_clip(1, SIZE, seed=2, objects=0, noise=3))[0].astype(float)
    expected = 3 * np.sqrt((clean / 255 + 0.5).mean())
    assert np.std(noisy - clean) == pytest.approx(expected, rel=0.05)
    first, second = (picture for picture, _ in synthetic_clip(2, SIZE, seed=2, objects=0, noise=3))
    assert (first != second).mean() > 0.5  # fresh in each frame


def test_a_cloud_dims_the_middle_of_the_clip() -> None:
    clip = synthetic_clip(120, SIZE, seed=1, objects=0, noise=0, illumination=0.7)
    means = np.array([picture.mean() for picture, _ in clip])
    assert means[60] / means[0] == pytest.approx(0.7, abs=0.01)
    assert means[119] == pytest.approx(means[0])
    assert np.abs(np.diff(means)).max() / means[0] < 2 * 0.3 / CLOUD_FRAMES  # no step


def test_objects_enter_leave_stop_and_pass_behind_each_other() -> None:
    """One object at a time says what it does; one more, and nearer, hides parts of those before it."""
    entered = left = stopped = 0
    for seed in range(3):
        scene = Scene(300, SIZE, seed, objects=1, noise=0, illumination=1)
        masks = [scene.frame(index)[1] > 0 for index in range(300)]
        seen = np.array([mask.any() for mask in masks])
        entered += int((~seen[:-1] & seen[1:]).sum())
        left += int((seen[:-1] & ~seen[1:]).sum())
        pairs = zip(masks[:-5], masks[5:], strict=True)
        stopped += sum(bool(mask.any()) and np.array_equal(mask, later) for mask, later in pairs)
    assert entered >= 3
    assert left >= 3
    assert stopped >= 20
    fewer, more = (Scene(200, SIZE, 3, objects=count, noise=0, illumination=1) for count in (10, 11))
    hidden = [
        int(((before > 0) & (before != after)).sum())
        for before, after in ((fewer.frame(index)[1], more.frame(index)[1]) for index in range(200))
    ]
    assert max(hidden) > 20
    assert min(hidden) == 0


def test_every_class_appears_and_stands_out() -> None:
    scene = Scene(1, (144, 224), seed=4, objects=12, noise=0, illumination=1)
    picture, labels = scene.frame(0)
    assert set(np.unique(labels)) == set(range(len(CLASSES)))
    away = np.abs(picture.astype(float) - scene.background).max(axis=2)
    assert away[labels == 0].mean() < 2
    assert away[labels > 0].mean() > 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0},
        {"size": (8, 64)},
        {"seed": -1},
        {"objects": -1},
        {"noise": -0.5},
        {"illumination": 0.0},
        {"illumination": float("nan")},
    ],
)
def test_arguments_out_of_range_are_refused_at_once(wrong: dict[str, object]) -> None:
    arguments: dict[str, object] = {"frames": 2, "size": SIZE, **wrong}
    with pytest.raises(VideoError, match=next(iter(wrong))):
        synthetic_clip(**arguments)  # type: ignore[arg-type]
    with pytest.raises(VideoError, match="frame 2 of a clip of 2"):
        Scene(2, SIZE).frame(2)


def test_a_clip_is_written_and_reads_back(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 5, SIZE, seed=3, noise=0)
    with open_clip(path) as clip:
        frames = list(clip)
        assert (clip.size, clip.fps, clip.frame_count) == (SIZE, FPS, 5)
    for got, (picture, _) in zip(frames, synthetic_clip(5, SIZE, seed=3, noise=0), strict=True):
        assert np.abs(got.astype(int) - picture).mean() < 5
