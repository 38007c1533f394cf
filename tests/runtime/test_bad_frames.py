"""Frames that do not fit or are not finite: an error that says what and the fix, and an unharmed stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import videoeff
from tests.support.calls import dense, make
from tests.support.small_nets import SIZE, Gated, Plain, TwoInputs, clip, lively
from videoeff.errors import (
    StateError,
)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :-1], r"argument 0 is \[1, 3, 20, 23\].*planned for \[1, 3, 20, 24\].*replan"),
        (lambda x: x[:, :, 2:], r"\[1, 3, 18, 24\]"),
        (lambda x: torch.cat([x, x[:, :1]], 1), r"4 channels.*takes 3.*drop or add"),
        (lambda x: x[:, :1], r"1 channels.*takes 3"),
        (lambda x: torch.cat([x, x]), r"batch of 2.*keeps 1 stream.*batch size"),
        (lambda x: x[:0], r"batch of 0"),
        (lambda x: x.double(), r"torch\.float64.*takes torch\.float32.*\.to\("),
        (lambda x: x.half(), r"torch\.float16"),
        (lambda x: (x * 255).to(torch.uint8), r"torch\.uint8"),
        (lambda x: x[0], r"3 dimensions \[3, 20, 24\].*takes 4.*batch dimension"),
        (lambda x: x[None], r"5 dimensions"),
        (lambda x: torch.tensor(0.5), r"0 dimensions"),
        (lambda x: x.to("meta"), r"lies on meta, the stream on cpu.*\.to"),
        (lambda x: x.numpy(), r"must be a tensor, it is numpy\.ndarray; use torch\.from_numpy"),
        (lambda x: None, r"must be a tensor, it is NoneType"),
        (lambda x: "frame.png", r"must be a tensor, it is str"),
        (lambda x: [x], r"called with \(\[tensor\]\), but converted with \(tensor\)"),
    ],
)
def test_frames_that_do_not_fit(change: Callable[[Tensor], Any], message: str) -> None:
    model, stream = make()
    frames = list(clip(4))
    stream(frames[0])
    with pytest.raises(StateError, match=f"(?s)Plain: .*{message}"):
        stream(change(frames[1]))
    assert_close(stream(frames[1]), dense(model, frames[1]))
    assert stream.report().frames == 1, "the bad frame was not counted"


def test_calls_that_do_not_fit() -> None:
    model, stream = make()
    frame = torch.rand(SIZE)
    calls: list[Callable[[], object]] = [
        lambda: stream(),
        lambda: stream(frame, frame),
        lambda: stream(frame, 2.0),
        lambda: stream(frame, 1.0, 3),
        lambda: stream(frame, other=1),
        lambda: stream(frame, x=frame),
        lambda: stream({"x": frame}),
    ]
    for call in calls:
        with pytest.raises(StateError, match=r"(?s)Plain: .*(convert|pass)"):
            call()
    assert_close(stream(frame), dense(model, frame))


def test_a_literal_that_changes() -> None:
    model = lively(Plain())
    frame = torch.rand(SIZE)
    stream = videoeff.convert(model, (frame, 2.0))
    assert_close(stream(frame, 2.0), dense(model, frame, 2.0))
    with pytest.raises(StateError, match=r"argument 1 is 3\.0.*converted for 2\.0.*convert again"):
        stream(frame, 3.0)
    with pytest.raises(StateError, match=r"argument 1 is 2, the stream was converted for 2\.0"):
        stream(frame, 2)
    with pytest.raises(StateError, match=r"argument 1 is a tensor"):
        stream(frame, torch.tensor(2.0))
    assert_close(stream(frame, 2.0), dense(model, frame, 2.0))


def test_a_tensor_where_none_was_and_none_where_a_tensor_was() -> None:
    model = TwoInputs().eval()
    image, depth, bias = torch.rand(SIZE), torch.rand(1, 1, 20, 24), torch.rand(1, 4, 20, 24)
    without = videoeff.convert(model, (image, depth), kwargs={"bias": None})
    with pytest.raises(StateError, match="is a tensor, the example had None"):
        without(image, depth, bias=bias)
    with pytest.raises(StateError, match="must be a tensor, it is NoneType"):
        without(image, None, bias=depth)
    assert_close(without(image, depth, bias=None), dense(model, image, depth))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 2])
def test_a_frame_that_is_not_finite_changes_nothing(value: float, at: int) -> None:
    model, stream = make(Gated(), threshold=0.05)
    _, twin = make(Gated(), threshold=0.05)
    twin = videoeff.convert(model, torch.rand(SIZE), threshold=0.05)
    frames = list(clip(5))
    for index, frame in enumerate(frames):
        if index == at:
            broken = frame.clone()
            broken[0, 1, 7, 9] = value
            before = {k: v.clone() for k, v in stream.values().items()}
            with pytest.raises(StateError, match=r"NaN or infinity at 1 element.*\[0, 1, 7, 9\].*nan_policy"):
                stream(broken)
            if index:
                assert all(torch.equal(v, before[k]) for k, v in stream.values().items())
        for a, b in zip(stream(frame), twin(frame), strict=True):
            assert torch.equal(a, b)


def test_large_finite_frames_pass() -> None:
    _, stream = make()
    big = torch.full(SIZE, 3e38)  # the sum overflows, no element does
    assert stream(big).shape == (1, 4, 10, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.1},
        {"threshold": 0.1, "block": 4, "dilation": 1},
        {"threshold": 0.1, "predict": 1.0},
    ],
    ids=["exact", "threshold", "blocks", "predicted"],
)
@pytest.mark.parametrize("at", [0, 2])
def test_recompute_goes_through_nan_and_back(value: float, options: dict[str, Any], at: int) -> None:
    model, stream = make(nan_policy="recompute", **options)
    frames = list(clip(6))[:5]
    for index, frame in enumerate(frames):
        if index == at:
            broken = frame.clone()
            broken[0, 1, 7, 9] = value
            for _ in range(2):
                out, expected = stream(broken), dense(model, broken)
                assert torch.equal(torch.isfinite(out), torch.isfinite(expected))
        out, expected = stream(frame), dense(model, frame)
        assert bool(torch.isfinite(out).all())
        assert all(bool(torch.isfinite(v).all()) for v in stream.values().values())
        if not options:
            assert_close(out, expected)


def test_recompute_through_a_gate() -> None:
    model, stream = make(Gated(), nan_policy="recompute")
    for index, frame in enumerate(clip(5)):
        if index == 2:
            assert not bool(torch.isfinite(stream(torch.full(SIZE, float("nan")))[0]).any())
        for out, expected in zip(stream(frame), dense(model, frame), strict=True):
            assert_close(out, expected)
