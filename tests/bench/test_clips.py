"""Synthetic clips change exactly what they say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from videoeff.bench.clips import BlobClip, as_input, share_changed
from videoeff.bench.spec import SHARES
from videoeff.video.preprocess import Preprocess


@pytest.mark.parametrize("share", SHARES)
def test_exactly_the_share_changes(share: float) -> None:
    size = (90, 120)
    clip = BlobClip(size, share, seed=3)
    frames, masks = [], []
    for frame in itertools.islice(clip, 12):
        frames.append(frame)
        masks.append(clip.changed)
    for before, after, mask in zip(frames, frames[1:], masks[1:], strict=False):
        assert np.array_equal((before != after).any(0), mask)
        assert int(mask.sum()) == round(share * size[0] * size[1])
        assert share_changed(before, after) == pytest.approx(share, abs=1e-4)
    assert all(f.shape == (3, *size) and f.dtype == np.float32 for f in frames)
    assert min(f.min() for f in frames) >= 0
    assert max(f.max() for f in frames) <= 1


def test_changes_are_large_enough_to_be_seen() -> None:
    clip = BlobClip((60, 80), 0.1)
    before, after = clip.next(), clip.next()
    moved = np.abs(after - before)[:, clip.changed]
    assert moved.min() > 0.09


def test_same_seed_same_clip() -> None:
    one, two, other = (list(itertools.islice(BlobClip((40, 50), 0.05, seed=s), 5)) for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_changes_are_blobs_that_move() -> None:
    clip = BlobClip((120, 160), 0.05)
    clip.next()
    masks = []
    for _ in range(30):
        clip.next()
        masks.append(clip.changed)
    for mask in masks:
        inside = mask[1:-1, 1:-1]
        with_neighbours = inside & mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
        assert with_neighbours.sum() > 0.7 * mask.sum()  # mostly interior: few, round places
    assert (masks[0] & masks[-1]).sum() < 0.5 * masks[0].sum()


def test_frames_are_arrays_of_their_own() -> None:
    clip = BlobClip((30, 40), 0.5)
    first = clip.next()
    kept = first.copy()
    clip.next()
    assert np.array_equal(first, kept)


def test_refuses_what_is_no_share() -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        BlobClip((30, 40), 1.5)


@pytest.mark.parametrize(
    "look",
    [
        Preprocess(scale=1.0),
        Preprocess(scale=1.0, dtype="uint8", channels=1),
        Preprocess(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
        Preprocess(scale=1 / 127.5, mean=(1.0,) * 4, std=(2.0,) * 4, channels=4),
    ],
)
def test_made_up_clips_have_the_values_a_model_expects(look: Preprocess) -> None:
    """As the preprocessing makes them of a real clip, and the share that changes stays exact."""
    clip = BlobClip((48, 64), 0.25, channels=look.channels, seed=3)
    plain = [clip.next() for _ in range(3)]
    fed = [as_input(picture, look) for picture in plain]
    assert fed[0].dtype == (np.uint8 if look.dtype == "uint8" else np.float32)
    for before, after in itertools.pairwise(fed):
        assert share_changed(before, after) == 0.25
    levels = (255 * plain[0]).round().astype(np.uint8)
    if look.channels > 1:
        real = look(np.ascontiguousarray(levels.transpose(1, 2, 0)))[0].numpy()
        tolerance = 255 * look.scale * 0.51 / 255 / min(look.std or (1.0,))
        np.testing.assert_allclose(fed[0].astype(np.float64), real, atol=tolerance)
    else:
        assert (fed[0] == levels).all()


def test_the_usual_model_gets_the_clip_itself() -> None:
    picture = BlobClip((16, 16), 0.5).next()
    assert as_input(picture, Preprocess()) is picture
