"""Models that write in place, through views and into slices: the stream is still the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import stream_of
from videoeff.ops.base import Lambda
from videoeff.testing import changing_frames, poison, relative_error

SHAPES = ((2, 4, 9, 8),)


def half(x: Tensor) -> Tensor:
    y = x.relu()
    y[:, :2] *= 2
    return y * 1.5


def assign(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3, 2:5] = x[:, :2, :3].sigmoid()
    return y.relu()


def through_views(x: Tensor) -> Tensor:
    y = x * 2
    flat = y.view(2, 4, -1)
    flat.add_(1.0)
    return y + flat.view(2, 4, 9, 8)


def both_halves(x: Tensor) -> Tensor:
    y = x + 0.5
    a, b = y.chunk(2, 1)
    a.relu_()
    b.sigmoid_()
    return y


def after_reading(x: Tensor) -> Tensor:
    y = x * 3
    z = y + 1
    y.relu_()
    return z + y


def twice(x: Tensor) -> Tensor:
    y = x.sigmoid()
    y.mul_(2).add_(1)
    y.clamp_(0.2, 2.0)
    return y + y


def zero_border(x: Tensor) -> Tensor:
    y = torch.zeros(2, 4, 11, 10, dtype=x.dtype)
    y[:, :, 1:-1, 1:-1] = x
    return F.max_pool2d(y, 3)


def contiguous_alias(x: Tensor) -> Tensor:
    y = x + 1
    z = y.contiguous()
    z.mul_(0.5)
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f
    for f in (half, assign, through_views, both_halves, after_reading, twice, zero_border, contiguous_alias)
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_place(name: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), Lambda(FUNCTIONS[name]), nn.ReLU(inplace=True)
    ).double()
    example = next(changing_frames(SHAPES, 1))
    stream = stream_of(model, *example)
    poison(stream)
    for frame in changing_frames(SHAPES, 4, seed=8):
        kept = frame[0].clone()
        with torch.no_grad():
            assert relative_error(stream(*frame), model(*frame)) <= 1e-9
        assert torch.equal(frame[0], kept)
