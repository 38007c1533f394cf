"""Casts between float32 and bfloat16 as native steps of their own."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import ISAS, plans_of
from videoeff.kernels.cpp import library
from videoeff.ops.base import Lambda
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.recipes import recipe
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import poison

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason="needs the native library")

#: What rounding has to get right: ties, the largest numbers, what overflows, denormals, zeros.
HARD = [1.00390625, 1.01171875, -1.00390625, 3.3895e38, 3.4028235e38, -3.4e38, 1e-40, -1e-45, 0.0, -0.0, 0.1]


def native(isa: str, stream: StreamingModule) -> StreamingModule:
    assert {i.kernel for e in stream.engines.values() for i in e.plan.instructions} == {"cpp"}
    for plan in plans_of(stream):
        plan.isa = ISAS.index(isa)
    poison(stream)
    return stream


class Casting(nn.Module):
    """A depthwise layer of weight 1 in one precision, between casts from and to another."""

    def __init__(self, channels: int, inside: torch.dtype, outside: torch.dtype) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, channels, 1, groups=channels, bias=False, dtype=inside)
        nn.init.ones_(self.layer.weight)
        self.inside, self.outside = inside, outside

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.to(self.inside)
        return y, self.layer(y).to(self.outside)


WAYS = [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("inside", "outside"), WAYS)
@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16, 17, 24, 67])
def test_casts_are_those_of_pytorch(
    isa: str, inside: torch.dtype, outside: torch.dtype, channels: int
) -> None:
    torch.manual_seed(channels)
    model = Casting(channels, inside, outside).eval()
    frame = torch.rand(2, channels, 9, 131) - 0.5
    hard = HARD if channels > 1 else [v for v in HARD if v == 0 or abs(v) > 1e-30]  # products drop denormals
    values = torch.tensor(list(itertools.islice(itertools.cycle(hard), 131)))
    frame[0, channels // 2, 4] = values
    frame = frame.to(outside)
    if outside == torch.bfloat16:
        frame = frame.clamp(-3e38, 3e38)  # the frame itself may hold no infinity
    stream = native(isa, videoeff.convert(model, frame, nan_policy="recompute"))
    for y, x, n in ((0, 0, 131), (3, 15, 3), (8, 124, 7), (5, 60, 1), (2, 0, 131)):
        frame = frame.clone()
        frame[1, channels // 2, y, x : x + n] = torch.rand(n).to(outside)
        stream.clear_report()
        found = stream(frame)
        for mine, wanted in zip(found, (frame.to(inside), frame.to(inside).to(outside)), strict=True):
            assert mine.dtype == wanted.dtype
            assert torch.equal(mine, wanted)


@pytest.mark.parametrize("isa", ISAS)
def test_what_rounds_to_the_same_is_no_change(isa: str) -> None:
    frame = torch.ones(1, 3, 8, 40)
    stream = native(isa, videoeff.convert(Casting(3, *WAYS[0]).eval(), frame))
    stream(frame)
    stream.clear_report()
    moved = frame.clone()
    moved[0, 1, 2, 3:9] = 1.0001  # 1 in bfloat16
    moved[0, 1, 5, 7] = 1.5
    stream(moved)
    shares = {layer.name: layer.active_share for layer in stream.report().layers}
    assert shares["to_dtype"] == pytest.approx(7 / 320)
    assert shares["layer"] == pytest.approx(1 / 320)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("inside", "outside"), WAYS)
@pytest.mark.parametrize("test", ["max", "rms"])
def test_a_threshold_set_by_name_holds_changes_back(
    isa: str, inside: torch.dtype, outside: torch.dtype, test: str
) -> None:
    """Then registers lie between, and the change test is that of any step."""
    model, frame = Casting(5, inside, outside).eval(), torch.rand(1, 5, 8, 40).to(outside)
    passes = [*recipe("delta")[:-1], InsertThresholds(0.0, test=test)]
    stream = native(isa, videoeff.convert(model, frame, passes=passes))
    stream.set_thresholds({"to_dtype": 0.25})
    first = stream(frame)[0]
    moved = frame.clone()
    moved[0, :, 2, 3] += 0.1
    moved[0, :, 5, 7] += 1.0
    found = stream(moved)[0]
    expected = first.clone()
    expected[0, :, 5, 7] = moved.to(inside)[0, :, 5, 7]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_casts_of_slices_transposes_and_vectors(isa: str, dtype: torch.dtype) -> None:
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32

    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = torch.relu(x)
        parts = y[:, 1:4], y[:, ::2], y.permute(0, 2, 3, 1), y.mean((2, 3))
        return tuple(part.to(other) for part in parts)

    layer = nn.Conv2d(6, 6, 1, groups=6, bias=False, dtype=dtype)
    nn.init.ones_(layer.weight)
    model, frame = nn.Sequential(layer, Lambda(function)).eval(), torch.rand(2, 6, 7, 19).to(dtype)
    stream = native(isa, videoeff.convert(model, frame))
    reference = videoeff.convert(model, frame, backend="reference")
    for _ in range(3):
        frame = frame.clone()
        frame[0, 2, 3, 4:9] += 1
        for mine, wanted in zip(stream(frame), reference(frame), strict=True):
            assert mine.dtype == other
            assert torch.equal(mine, wanted)
