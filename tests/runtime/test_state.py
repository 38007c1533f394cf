"""State: snapshots, resets, copies, and frames that fail half-way."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    SIZE,
    Gated,
    Plain,
    clip,
    lively,
)
from videoeff.errors import StateError


def test_snapshot_and_restore() -> None:
    _, stream = make(Gated(), threshold=0.1)
    frames = list(clip(6))
    for frame in frames[:3]:
        stream(frame)
    kept = stream.snapshot()
    straight = [stream(frame) for frame in frames[3:]]
    stream.restore(kept)
    assert_same([stream(frame) for frame in frames[3:]], straight, 0.0)
    stream.reset()
    stream.restore(kept)  # the same snapshot serves again, also after a reset
    assert_same([stream(frame) for frame in frames[3:]], straight, 0.0)


def test_snapshot_of_a_fresh_stream_restores_to_frame_one() -> None:
    _, stream = make(Plain(), threshold=0.3)
    fresh, frames = stream.snapshot(), list(clip(3))
    first = [stream(f) for f in frames]
    stream.restore(fresh)
    assert_same([stream(f) for f in frames], first, 0.0)


def test_snapshots_that_do_not_fit_change_nothing() -> None:
    _, stream = make(Plain())
    _, other = make(Gated())
    big = videoeff.convert(lively(Plain()), torch.rand(1, 3, 32, 32))
    frame = torch.rand(SIZE)
    before = stream(frame)
    for wrong in (other.snapshot(), big.snapshot(), None, {"a": 1}):
        with pytest.raises(StateError, match="snapshot"):
            stream.restore(wrong)  # type: ignore[arg-type]
    assert_same(stream(frame), before, 0.0)


def test_reset_of_one_stream_of_a_batch() -> None:
    model = lively(Plain())
    stream = videoeff.convert(model, torch.rand(2, 3, 20, 24), threshold=0.5)
    frames = list(clip(4, (2, 3, 20, 24)))[:3]
    for frame in frames[:2]:
        stream(frame)
    held = stream.snapshot()
    expected = stream(frames[2])
    stream.restore(held)
    stream.reset(stream=1)
    out = stream(frames[2])
    assert torch.equal(out[0], expected[0])
    assert_same(out[1:], dense(model, frames[2][1:]))
    assert not torch.equal(out[1], expected[1])
    for wrong in (2, -1):
        with pytest.raises(StateError, match="no stream"):
            stream.reset(stream=wrong)


def test_deep_copies_go_their_own_way() -> None:
    _, stream = make(Gated(), threshold=0.05)
    frames = list(clip(6))
    for frame in frames[:3]:
        stream(frame)
    twin = copy.deepcopy(stream)
    assert twin.report().frames == stream.report().frames
    expected = [copy.deepcopy(stream)(frames[3]), copy.deepcopy(twin)(frames[3])]
    assert_same(expected[0], expected[1], 0.0)
    stream.reset()
    stream.set_threshold(0.0)
    for parameter in stream.state_dict().values():
        parameter.zero_()
    assert_same(twin(frames[3]), expected[0], 0.0)
    assert set(twin.thresholds().values()) != {0.0}
    third = copy.deepcopy(twin)
    assert_same(third(frames[0]), twin(frames[0]), 0.0)


def test_a_frame_that_fails_half_way_does_not_poison_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    engine = stream.engines[""]
    plan, calls = engine.plan, []

    def fails(context: Any) -> None:
        calls.append(context)
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "plan", dataclasses.replace(plan, runners=(*plan.runners, fails)))
        with pytest.raises(MemoryError):
            stream(frames[1])
    assert len(calls) == 1
    assert_same(stream(frames[1]), dense(model, frames[1]))
    assert_same(stream(frames[2]), dense(model, frames[2]))
