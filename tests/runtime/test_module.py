"""A stream is a module among modules."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

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


def test_train_and_eval_change_nothing() -> None:
    model, stream = make(Plain())

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stream, self.head = stream, nn.Dropout()

    outer = Outer()
    outer.train()
    assert outer.training
    assert not stream.training
    assert stream.train(True) is stream
    assert stream.eval() is stream
    for frame in clip(3):
        assert_same(stream(frame), dense(model, frame))


def test_state_dict_and_loading_it() -> None:
    first, second = lively(Plain()), lively(Plain())
    a, b = (videoeff.convert(m, torch.rand(SIZE), passes="insert-delta-caches") for m in (first, second))
    assert list(a.parameters()) == []
    assert set(a.state_dict()) == set(b.state_dict())
    frames = list(clip(3))
    b(frames[0])
    b.load_state_dict({k: v.clone() for k, v in a.state_dict().items()})
    assert_same(b(frames[0]), a(frames[0]))  # what was computed with the old weights is forgotten


def test_inference_mode_and_outside_by_turns() -> None:
    model = lively(Gated())
    frames = list(clip(6))
    with torch.inference_mode():
        stream = videoeff.convert(model, frames[0], threshold=0.0)
        stream(frames[0])
        snapshot = stream.snapshot()
    for index, frame in enumerate(frames[1:]):
        with torch.inference_mode(mode=index % 2 == 1):
            out = stream(frame + 0.0)
            if index == 1:
                stream.set_threshold(0.01)
                stream.set_threshold(0.0)
                stream.restore(snapshot)
                out = stream(frame)
        assert_same(out, dense(model, frame))
    with torch.inference_mode():
        twin = copy.deepcopy(stream).double()
        frame = torch.rand(SIZE, dtype=torch.float64)
        twin(frame)
    assert twin(frame + 1.0)[0].dtype == torch.float64
    assert_same(stream(frames[0]), dense(model, frames[0]))


def test_grad_modes() -> None:
    model, stream = make(Plain())
    for enabled, frame in zip((True, False, True), clip(3), strict=True):
        with torch.set_grad_enabled(enabled):
            out = stream(frame.clone().requires_grad_())
        assert not out.requires_grad
        assert_same(out, dense(model, frame))


def test_autocast_reaches_the_convolutions() -> None:
    model, stream = make(Plain())
    for frame in clip(3):
        with torch.autocast("cpu", torch.bfloat16):
            out, expected = stream(frame), dense(model, frame)
        assert (out - expected).abs().max() < 0.05 * expected.abs().max()
    assert_same(stream(frame + 1.0), dense(model, frame + 1.0))


def test_hooks_of_the_caller_run() -> None:
    _, stream = make(Plain())
    seen: list[torch.Size] = []
    handle = stream.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    stream(torch.rand(SIZE))
    handle.remove()
    stream(torch.rand(SIZE))
    assert seen == [torch.Size((1, 4, 10, 12))]


def test_a_stream_is_not_pickled() -> None:
    _, stream = make(Plain())
    with pytest.raises(StateError, match=r"stream\.save"):
        pickle.dumps(stream)
