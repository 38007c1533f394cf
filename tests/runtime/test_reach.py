"""The reach of a running stream: setting it, taking it away, carrying it along."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import videoeff
from videoeff.errors import PassError, StateError
from videoeff.testing import moving_clip, relative_error

SIZE = (1, 3, 40, 48)


def deep() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for ins in (3, 8, 8, 8):
        layers += [nn.Conv2d(ins, 8, 5, padding=2), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def test_a_bound_saves_work_and_a_still_picture_becomes_exact() -> None:
    net, frames = deep(), list(moving_clip(6, SIZE))
    free, bounded = videoeff.convert(net, frames[0]), videoeff.convert(net, frames[0], reach=0, refresh=10)
    for frame in frames:
        exact, near = free(frame), bounded(frame)
    assert bounded.report().macs["needed"] < 0.8 * free.report().macs["needed"]
    assert relative_error(near, exact) > 1e-3
    for _ in range(10):
        near = bounded(frames[-1])
    assert relative_error(near, exact) <= 1e-5


def test_reaches_are_set_by_pattern_and_kept() -> None:
    frames = list(moving_clip(4, SIZE))
    stream = videoeff.convert(deep(), frames[0])
    assert stream.exact
    assert set(stream.reaches()) == {"0", "2", "4", "6"}
    assert set(stream.reaches().values()) == {None}
    stream(frames[0])
    stream.set_reach(8, layer="[46]")
    assert stream.reaches() == {"0": None, "2": None, "4": 8.0, "6": 8.0}
    assert not stream.exact
    before = stream.snapshot()
    stream(frames[1])
    twin = copy.deepcopy(stream)
    assert torch.equal(stream(frames[2]), twin(frames[2]))
    stream.restore(before)


def test_taking_the_bound_away_loses_nothing() -> None:
    """What was put off is computed with the next frame, even if that is the same picture."""
    net, frames = deep(), list(moving_clip(5, SIZE))
    stream = videoeff.convert(net, frames[0], reach=0, refresh=0)
    for frame in frames:
        near = stream(frame)
    with torch.no_grad():
        exact = net(frames[-1])
    assert relative_error(near, exact) > 1e-3
    stream.set_reach(None)
    assert stream.exact
    assert relative_error(stream(frames[-1]), exact) <= 1e-5


def test_an_artifact_keeps_the_bound(tmp_path: Path) -> None:
    frames = list(moving_clip(4, SIZE))
    stream = videoeff.convert(deep(), frames[0], reach=2.5, refresh=12)
    stream.save(tmp_path / "a.veff")
    loaded = videoeff.load(tmp_path / "a.veff")
    assert loaded.reaches() == stream.reaches() == dict.fromkeys(("0", "2", "4", "6"), 2.5)
    for frame in frames:
        assert torch.equal(stream(frame), loaded(frame))


def test_a_resized_stream_keeps_the_bound() -> None:
    stream = videoeff.convert(deep(), torch.rand(SIZE), reach=4, refresh=6, on_resize="replan")
    stream(torch.rand(1, 3, 32, 32))
    assert set(stream.reaches().values()) == {4.0}


@pytest.mark.parametrize(
    ("pixels", "refresh", "layer", "message"),
    [
        (-1, 8, None, "pixels=-1: give a number of pixels, 0 or more"),
        ("8", 8, None, "pixels='8': give a number of pixels, 0 or more"),
        (8, -1, None, "refresh=-1: give a whole number of frames"),
        (8, 8, "nothing", "no layer matches 'nothing'"),
    ],
)
def test_wrong_bounds(pixels: float, refresh: int, layer: str | None, message: str) -> None:
    stream = videoeff.convert(deep(), torch.rand(SIZE))
    with pytest.raises(StateError, match=message):
        stream.set_reach(pixels, refresh, layer)
    assert stream.exact


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(PassError, match="refresh=3 is for what a bounded reach puts off"):
        videoeff.convert(deep(), torch.rand(SIZE), refresh=3)
    with pytest.raises(PassError, match="reach is given twice"):
        videoeff.convert(
            deep(), torch.rand(SIZE), reach=3, passes="insert-delta-caches,bound-reach{pixels=2}"
        )
