"""Which frames are searched on, and which are held back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from videoeff.calibration.frames import Frames, busiest_first, clip_length, part, read_frames
from videoeff.calibration.plan import LEVELS, plan, usual_limit
from videoeff.errors import VideoError


@pytest.mark.parametrize("total", [12, 31, 100, 795])
def test_the_last_third_is_held_back(total: int) -> None:
    """No frame is in both parts, blocks do not overlap, and the held part is the last third."""
    planned = plan(total, 5.0, 1000, 300.0)
    found = part(total, planned.length, planned.levels[-1], planned.held)
    searched = [i for block in found.search for i in block]
    held = [i for block in found.held for i in block]
    assert len(set(searched)) == len(searched)
    assert max(searched) < total - total // 3 <= min(held)
    assert max(held) == total - 1
    assert found.wanted() == sorted({*searched, *held})
    assert sorted(searched) == [i for block in found.long for i in block]
    assert len(found.long) <= len(found.search)


def test_the_first_blocks_are_spread() -> None:
    """Two of eight blocks lie in both halves."""
    found = part(900, 30, 8, 300).search
    assert len(found) == 8
    assert found[0].start < 300 <= found[1].start


def test_the_busiest_block_comes_first() -> None:
    """Then one from the middle; nothing is lost. Frames may be pictures or tensors."""
    clip: list[Any] = [np.full((8, 8, 3), 100 + (i % 2) * (i // 10), np.uint8) for i in range(40)]
    blocks = [range(i, i + 10) for i in range(0, 40, 10)]
    for frames in (clip, [(torch.from_numpy(f).permute(2, 0, 1)[None].float(),) for f in clip]):
        found = busiest_first(blocks, Frames(dict(enumerate(frames)), lambda f: ((f,), {}), ""))
        assert found == (range(30, 40), range(10, 20), range(20, 30), range(0, 10))


def test_time_that_is_not_given() -> None:
    """It grows with the network and has an end."""
    assert usual_limit(5.0) == 80.0
    assert usual_limit(1000.0) == 540.0


def test_more_time_looks_at_more() -> None:
    """A slow network is tried on shorter blocks and judged on fewer frames."""
    fast, slow = plan(900, 2.0, 1000, 300.0), plan(900, 400.0, 1000, 300.0)
    assert (fast.length, fast.held) > (slow.length, slow.held)
    assert plan(9000, 2.0, 1000, 300.0).levels == LEVELS
    assert slow.levels[-1] < LEVELS[-1]
    assert plan(900, 2.0, 10**8, 300.0).held == 4  # no memory for more


def test_frames_by_number() -> None:
    """Calls are made of the wanted frames alone; the digest is of the whole clip."""
    clip = [np.full((2, 2, 3), i, np.uint8) for i in range(20)]
    found = read_frames(clip, [3, 5], lambda frame: ((int(frame[0, 0, 0]),), {}), False)
    assert found.call(3) == ((3,), {})
    assert sorted(found.pictures) == [3, 5]
    assert found.decoded
    assert found.digest != read_frames(clip[:-1], [3], lambda frame: ((), {}), False).digest


def test_a_short_clip() -> None:
    """It is refused with what it needs."""
    with pytest.raises(VideoError, match="at least 12"):
        clip_length([np.zeros((2, 2, 3), np.uint8)] * 5)
