"""Models that write in place, through views and into slices: the stream is still the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import captured, outputs_of, stream_of
from videoeff.analysis import annotate, invalidate
from videoeff.ir.layout import info
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


# ---------------------------------------------------------------- shapes that the export has derived


class Held(nn.Module):
    """A convolution into which a buffer is added, and a fixed table."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)
        self.register_buffer("wide", torch.rand(6, 1, 1, dtype=dtype), persistent=False)
        self.table = torch.linspace(0, 1, 8)

    def forward(self, x: Tensor, scale: float = 2.0) -> tuple[Tensor, ...]:
        y = self.conv(x)
        y.add_(self.wide)
        whole = (x * 255).to(torch.uint8)
        whole.mul_(2)
        a, b = y.chunk(2, 1)
        return (a.relu() * b) * scale + self.table, whole.float().mean((2, 3)), y.view(2, 6, -1)


@pytest.mark.parametrize("name", ["held", "wider", *FUNCTIONS])
def test_shapes_of_the_export_are_those_that_are_derived(name: str) -> None:
    held = {"held": torch.float32, "wider": torch.float64}
    model = Held(held[name]) if name in held else Lambda(FUNCTIONS[name])
    program = captured(model, torch.rand(SHAPES[0]))
    found = {node.name: info(node) for node in program.nodes if node.op != "output"}
    for node in program.nodes:
        invalidate(node)
    annotate(program)
    assert found == {node.name: info(node) for node in program.nodes if node.op != "output"}


def test_a_model_with_what_it_holds_is_the_model() -> None:
    model, x = Held().eval(), torch.rand(SHAPES[0])
    with torch.no_grad():
        dense = model(x)
    for found, expected in zip(outputs_of(captured(model, x), x), dense, strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) <= 1e-6


# ---------------------------------------------------------------- tensors read for their type or shape alone


def grid(x: Tensor) -> Tensor:
    return x * torch.arange(8).type_as(x)


def grid_to(x: Tensor) -> Tensor:
    return x + torch.arange(9, dtype=torch.int32).to(x).view(9, 1)


def table_like_a_map(x: Tensor) -> Tensor:
    gate = x.mean((2, 3), keepdim=True)
    return x * gate.expand_as(x) + torch.ones(1, 4, 1, 1).expand_as(x) * 2


def viewed_as(x: Tensor) -> Tensor:
    return (x.flatten(2).relu().view_as(x) + x.flatten(1).reshape_as(x)) * 2


@pytest.mark.parametrize("function", [grid, grid_to, table_like_a_map, viewed_as])
def test_a_tensor_read_for_its_type_or_shape_alone_is_no_input(function: Callable[[Tensor], Tensor]) -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Lambda(function), nn.ReLU()).double()
    stream = stream_of(model, *next(changing_frames(SHAPES, 1)))
    poison(stream)
    for frame in changing_frames(SHAPES, 4, seed=8):
        with torch.no_grad():
            assert relative_error(stream(*frame), model(*frame)) <= 1e-9
