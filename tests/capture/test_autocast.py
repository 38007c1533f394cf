"""Forwards under autocast: the casts are operators of the graph, and the values the model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import SIZE, clip
from videoeff.capture.autocast import Autocast
from videoeff.errors import CaptureError
from videoeff.testing import TOLERANCES, moving_clip, relative_error

BF16 = torch.bfloat16
FRAMES = list(moving_clip(3, (1, 3, 24, 20)))

#: Two layers, each rounded to the eight bits of bfloat16: a unit in the last place for each.
ERROR = 2 * 2.0**-8


class Net(nn.Module):
    """What the cases are made of."""

    def __init__(self, body: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.linear = nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.body = body

    def forward(self, x: Tensor) -> Any:
        return self.body(self, x)


def whole(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        return net.second(net.norm(net.first(x)).relu())


def partly(net: Net, x: Tensor) -> Any:
    y = net.first(x)
    with torch.autocast("cpu", dtype=BF16):
        z = net.second(y)
    return z.float() + y


def off_inside(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.first(x)
        with torch.autocast("cpu", enabled=False):
            z = net.second(y.float().relu())
        return z.softmax(1), y * z


def mixed(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.second(net.first(x)).mean((2, 3))
        return net.linear(y), torch.cat([y, y.float()], 1)


def half(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.float16):
        return net.second(F.gelu(net.first(x)))


def twice(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.first(x)
    with torch.autocast("cpu", dtype=BF16):
        z = net.second(y)
    return F.layer_norm(z.float(), z.shape[1:])


def kept_in_float(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.first(x)
        return (
            F.layer_norm(y, y.shape[1:]),
            F.interpolate(y, scale_factor=2, mode="bilinear"),
            F.avg_pool2d(y, 2),
        )


def of_another_device(net: Net, x: Tensor) -> Any:
    with torch.autocast("cuda", dtype=torch.float16):
        return net.second(net.first(x))


def another_device_inside(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.first(x)
        with torch.autocast("cuda", dtype=torch.float16):
            return net.second(y)


def written(net: Net, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = net.first(x)
        y += 1
        y[:, :2] = 0
        return net.second(F.relu_(y))


def gradients(net: Net, x: Tensor) -> Any:
    with torch.enable_grad():
        y = net.first(x)
    with torch.no_grad():
        return net.second(y.detach())


def dtypes(value: Any) -> list[torch.dtype]:
    return [t.dtype for t in torch.utils._pytree.tree_leaves(value)]


@pytest.mark.filterwarnings("ignore:.*CUDA is not available.*:UserWarning")
@pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning")
@pytest.mark.parametrize(
    "body",
    [
        whole,
        partly,
        off_inside,
        mixed,
        half,
        twice,
        kept_in_float,
        of_another_device,
        another_device_inside,
        written,
        gradients,
    ],
    ids=lambda body: body.__name__,
)
def test_values_and_dtypes_are_the_models(body: Callable[[Net, Tensor], Any]) -> None:
    model = Net(body).eval()
    stream = videoeff.convert(model, FRAMES[0])
    assert set(stream.engines) == {""}
    with torch.no_grad():
        for frame in FRAMES:
            found, expected = stream(frame), model(frame)
            assert dtypes(found) == dtypes(expected)
            bound = TOLERANCES[torch.float16].node if body is half else ERROR
            assert relative_error(found, expected) <= bound


def test_in_parts() -> None:
    def branches(net: Net, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=BF16):
            y = net.norm(net.first(x))
            return net.second(y) if x.mean() > -1 else y

    model = Net(branches).eval()
    stream = videoeff.convert(model, FRAMES[0])
    assert set(stream.engines) == {"first", "second"}
    with torch.no_grad():
        for frame in FRAMES:
            found, expected = stream(frame), model(frame)
            assert found.dtype == expected.dtype == BF16
            assert relative_error(found, expected) <= ERROR


def test_around_convert_it_is_refused() -> None:
    with (
        torch.autocast("cpu", dtype=BF16),
        pytest.raises(CaptureError, match=r"convert was called inside torch\.autocast"),
    ):
        videoeff.convert(Net(gradients).eval(), FRAMES[0])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_around_a_call_a_stream_keeps_its_precision(backend: str) -> None:
    model = Net(gradients).eval()
    stream, plain = (videoeff.convert(model, FRAMES[0], backend=backend) for _ in range(2))
    for frame in FRAMES:
        with torch.autocast("cpu", dtype=BF16):
            found = stream(frame)
        assert torch.equal(found, plain(frame))


def nested(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = s.c(x)
        with torch.autocast("cpu", dtype=torch.float16):
            return s.d(y)


def off(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        return s.d(s.c(x))


def float32_inside(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        return s.d(s.c(x)).float().softmax(1)


def in_parts(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        y = s.c(x)
        if y.mean() > 100:
            return y
        with torch.autocast("cpu", enabled=False):
            y = s.d(y.float())
        return y, s.c(y)


def whole_body(s: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=BF16):
        return s.d(torch.relu(s.c(x)))


@pytest.mark.parametrize("form", [nested, off, float32_inside, in_parts])
def test_two_layers_within_two_roundings(form: Callable[..., Any]) -> None:
    model = Body(form)
    frames = list(clip(5))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < ERROR  # infinite for another dtype
    assert stream.report().convolutions_streamed == 1.0


def test_autocast_as_a_decorator() -> None:
    model = Body(torch.autocast("cpu", dtype=BF16)(lambda s, x: s.d(s.c(x))))
    stream = videoeff.convert(model, torch.rand(SIZE))
    for frame in clip(3):
        assert relative_error(stream(frame), dense(model, frame)) < ERROR


@pytest.mark.parametrize("form", [whole_body, off, in_parts])
def test_a_call_inside_autocast_keeps_the_precision_of_the_conversion(form: Callable[..., Any]) -> None:
    model = Body(form)
    stream = videoeff.convert(model, torch.rand(SIZE))
    for frame in clip(4):
        with torch.autocast("cpu", dtype=torch.float16):
            found = stream(frame)
        assert relative_error(found, dense(model, frame)) < (1e-5 if form is off else ERROR)


def test_what_is_on_and_the_same_again() -> None:
    assert not Autocast.now()
    with torch.autocast("cpu", dtype=BF16):
        found = Autocast.now()
        assert found.dtypes == (("cpu", BF16),)
        with Autocast().entered():
            assert not Autocast.now()
        assert Autocast.now() == found
    with found.entered():
        assert Autocast.now() == found
    assert str(Autocast()) == "no autocast"
