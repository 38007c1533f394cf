"""Moving and casting a stream."""

from __future__ import annotations

import copy

import pytest
import torch

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    SIZE,
    CalledTwice,
    Gated,
    Plain,
    clip,
    lively,
)
from tests.support.streams import assert_nodes_close
from videoeff.errors import StateError


def test_to_another_dtype_and_back_keeps_the_state() -> None:
    model, stream = make(Plain(), threshold=1e6)  # so that only the kept state can explain the output
    frames = list(clip(4))
    first = stream(frames[0])
    assert stream.double() is stream
    assert_same(stream(frames[1].double()), first.double())
    assert stream.values()["first"].dtype == torch.float64
    assert all(v.dtype == torch.float64 for v in stream.state_dict().values() if v.is_floating_point())
    stream.to(torch.float32)
    assert_same(stream(frames[1]), first)
    stream.set_threshold(0.0)
    assert_same(stream(frames[3]), dense(model, frames[3]))
    with pytest.raises(StateError, match=r"float64.*float32"):
        stream(frames[1].double())


def test_float64_is_as_exact_as_the_model() -> None:
    model, stream = make(Gated())
    model.double()
    stream.double()
    stream.reset()
    for frame in clip(4, dtype=torch.float64):
        assert_same(stream(frame), dense(model, frame), 1e-12)


def test_bfloat16() -> None:
    model, stream = make(Plain())
    stream.to(torch.bfloat16)
    model = lively(copy.deepcopy(model)).to(torch.bfloat16)
    again = videoeff.convert(model, torch.rand(SIZE, dtype=torch.bfloat16), threshold=0.05)
    for frame in clip(4, dtype=torch.bfloat16):
        expected = dense(model, frame).float()
        with stream.observe() as seen, again.observe() as seen_again:
            found = stream(frame)
            assert again(frame).dtype == torch.bfloat16
        assert found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
        assert_nodes_close(stream, seen)
        assert_nodes_close(again, seen_again)


def test_to_another_device_moves_everything() -> None:
    _, stream = make(Gated(), threshold=0.1)
    stream.to("meta")
    assert stream.device.type == "meta"
    assert {v.device.type for v in stream.values().values()} == {"meta"}
    with pytest.raises(StateError, match="lies on cpu, the stream on meta"):
        stream(torch.rand(SIZE))


def test_casting_shared_weights_keeps_them_shared() -> None:
    _, stream = make(CalledTwice())
    stream.double()
    assert len({t.data_ptr() for t in stream.buffers() if t.ndim == 4}) == 1
