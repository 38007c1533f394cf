"""Frames of another size, where the stream is planned anew."""

from __future__ import annotations

import copy

import pytest
import torch

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    Gated,
    Plain,
    clip,
)
from videoeff.errors import StateError


def test_replan_for_another_size() -> None:
    model, stream = make(Gated(), threshold=0.1, on_resize="replan", block=4)
    stream.set_threshold(0.3, "left")
    before = stream.thresholds()
    for frame in clip(3):
        stream(frame)
    small = list(clip(4, (1, 3, 12, 16)))
    assert_same(stream(small[0]), dense(model, small[0]))  # frame 1 of a new life
    assert stream.thresholds() == before
    assert stream.values()["a"].shape == (1, 8, 12, 16)
    fresh = videoeff.convert(model, small[0], threshold=0.1, block=4)
    fresh.set_threshold(0.3, "left")
    fresh(small[0])
    for frame in small[1:]:
        assert_same(stream(frame), fresh(frame), 0.0)
    with pytest.raises(StateError, match="batch of 2"):
        stream(torch.rand(2, 3, 12, 16))
    with pytest.raises(StateError, match="4 channels"):
        stream(torch.rand(1, 4, 12, 16))


def test_replan_of_a_cast_stream() -> None:
    model, stream = make(Plain(), on_resize="replan")
    stream.double()
    frame = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    with stream.observe() as seen, torch.inference_mode():
        out = stream(frame)
        assert_same(out, dense(copy.deepcopy(model).double(), frame))
    assert next(model.parameters()).dtype == torch.float32
    assert seen.changed["first"].shape == (1, 12, 16)
    out = stream(frame + 1.0)
    assert out.dtype == torch.float64


def test_replan_is_refused_before_anything_happens_to_a_bad_frame() -> None:
    model, stream = make(Plain(), on_resize="replan")
    frames = list(clip(2))
    stream(frames[0])
    with pytest.raises(StateError, match="NaN"):
        stream(torch.full((1, 3, 12, 16), float("nan")))
    assert stream.values()["first"].shape[2:] == (20, 24)
    assert_same(stream(frames[1]), dense(model, frames[1]))
