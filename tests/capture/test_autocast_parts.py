"""Models with ``torch.autocast`` inside: each layer streams in the precision the model has it in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import SIZE, clip
from videoeff.capture.autocast import Autocast
from videoeff.errors import CaptureError
from videoeff.testing import relative_error

HALF = torch.bfloat16

#: Two layers, each rounded to the eight bits of bfloat16: a unit in the last place for each.
ERROR = 2 * 2.0**-8


def everything(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=HALF):
        return s.d(torch.relu(s.c(x)))


def second_layer(s: Any, x: Tensor) -> Any:
    y = s.c(x)
    with torch.autocast("cpu", dtype=HALF):
        y = s.d(y)
    return y.float() * 2


def off_inside(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=HALF):
        y = s.c(x)
        with torch.autocast("cpu", enabled=False):
            y = s.d(y.float())
        return torch.relu(y), s.c(y)


def nested(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=HALF):
        y = s.c(x)
        with torch.autocast("cpu", dtype=torch.float16):
            return s.d(y)


def off(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        return s.d(s.c(x))


def float32_inside(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=HALF):
        return s.d(s.c(x)).float().softmax(1)


def in_parts(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=HALF):
        y = s.c(x)
        if y.mean() > 100:
            return y
        with torch.autocast("cpu", enabled=False):
            y = s.d(y.float())
        return y, s.c(y)


FORMS = (everything, second_layer, off_inside, nested, off, float32_inside, in_parts)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_inside_a_forward(form: Callable[..., Any]) -> None:
    model = Body(form)
    frames = list(clip(5))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < ERROR  # infinite for another dtype
    assert stream.report().convolutions_streamed == 1.0


def test_autocast_as_a_decorator() -> None:
    model = Body(torch.autocast("cpu", dtype=HALF)(lambda s, x: s.d(s.c(x))))
    stream = videoeff.convert(model, torch.rand(SIZE))
    for frame in clip(3):
        assert relative_error(stream(frame), dense(model, frame)) < ERROR


def test_convert_inside_autocast_is_refused() -> None:
    with (
        torch.autocast("cpu", dtype=HALF),
        pytest.raises(CaptureError, match=r'inside torch\.autocast\("cpu", dtype=torch\.bfloat16\); leave'),
    ):
        videoeff.convert(Body(off), torch.rand(SIZE))


@pytest.mark.parametrize("form", [everything, off, in_parts])
def test_a_call_inside_autocast_keeps_the_precision_of_the_conversion(form: Callable[..., Any]) -> None:
    model = Body(form)
    stream = videoeff.convert(model, torch.rand(SIZE))
    for frame in clip(4):
        with torch.autocast("cpu", dtype=torch.float16):
            found = stream(frame)
        assert relative_error(found, dense(model, frame)) < (1e-5 if form is off else ERROR)


def test_what_is_on_and_the_same_again() -> None:
    assert not Autocast.now()
    with torch.autocast("cpu", dtype=HALF):
        found = Autocast.now()
        assert found.dtypes == (("cpu", HALF),)
        with Autocast().entered():
            assert not Autocast.now()
        assert Autocast.now() == found
    with found.entered():
        assert Autocast.now() == found
    assert str(Autocast()) == "no autocast"
