"""Frames that are not finite: found in one reading, and refused with the stream as it was."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.native_streams import clip, engine_of, streams
from videoeff import convert
from videoeff.errors import StateError
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.finite import is_dense, native_all_finite
from videoeff.testing import assert_close

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "it is there")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [0, 1, 63, 1000, -1])
def test_one_element_that_is_not_finite_is_found(dtype: torch.dtype, value: float, place: int) -> None:
    frame = torch.rand(1, 3, 21, 19).to(dtype)
    largest = torch.full_like(frame, torch.finfo(dtype).max)
    assert native_all_finite(frame) is True
    assert native_all_finite(largest) is True
    frame.view(-1)[place] = value
    assert native_all_finite(frame) is False
    assert native_all_finite(frame.to(memory_format=torch.channels_last)) is False
    assert native_all_finite(frame[:, :, ::2]) is None


def test_dense_is_every_element_once() -> None:
    x = torch.rand(2, 3, 4, 5)
    assert is_dense(x)
    assert is_dense(x.to(memory_format=torch.channels_last))
    assert is_dense(x.permute(3, 1, 0, 2))
    assert not is_dense(x[:, :2])
    assert not is_dense(x[..., :1].expand(2, 3, 4, 5))


def test_frames_that_are_not_finite_are_refused_whatever_their_strides() -> None:
    native, _, _ = streams()
    frame = next(clip(1))
    for form in (frame, frame.to(memory_format=torch.channels_last), F.pad(frame, (1, 1))[..., 1:-1]):
        bad = form.clone() if form.is_contiguous() else form
        assert_close(native(bad), native(bad))
        bad[0, 0, 0, 0] = float("nan")
        with pytest.raises(StateError, match="NaN or infinity at 1 element"):
            native(bad)
        bad[0, 0, 0, 0] = 0.5


class Two(nn.Module):
    """Two inputs, the second of other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(2, 4, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.relu(self.one(x) + self.two(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"threshold": 0.1}, {"threshold": 0.1, "block": 4, "dilation": 1}])
@pytest.mark.parametrize("settled", [False, True])
def test_a_refused_frame_leaves_everything_as_it_was(
    dtype: torch.dtype, options: dict[str, Any], settled: bool
) -> None:
    torch.manual_seed(0)
    net = Two().eval().to(dtype)
    x, y = torch.rand(2, 3, 18, 37).to(dtype), torch.rand(2, 2, 18, 37).to(dtype)
    stream = convert(net, (x, y), **options)
    engine = engine_of(stream)
    assert engine.refuses
    if settled:
        stream(x, y)
        stream.reset(stream=1)
    before = {n: t.clone() for n, t in engine._state.items()}
    fresh = engine.fresh
    for index, (frame, at) in enumerate(
        itertools.product((0, 1), ((0, 0, 0, 0), (1, 1, 17, 36), (0, 1, 9, 33)))
    ):
        given = [x.clone(), y.clone()]
        given[frame][at] = float("nan") if index % 2 else float("inf")
        if index % 3 == 2:
            given = [g.to(memory_format=torch.channels_last) for g in given]
        place = re.escape(str(list(at)))
        with pytest.raises(
            StateError, match=rf"argument {frame} holds NaN or infinity at 1 element.*{place}"
        ):
            stream(*given)
        assert engine.fresh == fresh
    if settled:
        assert all(torch.equal(t, before[n]) for n, t in engine._state.items())
    with torch.no_grad():
        assert_close(stream(x, y), net(x, y))
