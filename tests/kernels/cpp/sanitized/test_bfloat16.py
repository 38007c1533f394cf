"""Networks in bfloat16 on the native kernels, with each of the processor's ways to compute products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import ISAS, WAYS, plans_of
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Products
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import moving_clip

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason="needs the native library")

FRAME = (2, 3, 37, 45)


class Net(nn.Module):
    """Inputs that fill tiles (32, 64 channels), do not (24), or are odd (3, 21); residuals, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, 2, 1)
        self.wide = nn.Conv2d(24, 64, 3, 1, 1, bias=False)
        self.apart = nn.Conv2d(64, 32, 3, 1, 2, dilation=2)
        self.point = nn.Conv2d(32, 64, 1)
        self.grouped = nn.Conv2d(64, 42, 3, 2, 1, groups=2)
        self.odd = nn.Conv2d(21, 40, 5, 1, 2)
        self.up = nn.ConvTranspose2d(40, 18, 2, 2)
        self.last = nn.Conv2d(18, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.wide(torch.nn.functional.hardswish(self.first(x))))
        y = torch.relu(y + self.point(self.apart(y).clamp(0, 6)))
        y = self.odd(torch.nn.functional.silu(self.grouped(y))[:, :21])
        result: Tensor = self.last(self.up(y))
        return result


def on(isa: str, stream: StreamingModule) -> StreamingModule:
    """The stream, all of it native, on an instruction set."""
    assert {i.kernel for e in stream.engines.values() for i in e.plan.instructions} == {"cpp"}
    for plan in plans_of(stream):
        plan.isa = ISAS.index(isa)
    return stream


def make(isa: str) -> tuple[StreamingModule, Net, list[Tensor]]:
    torch.manual_seed(1)
    model = Net().eval().bfloat16()
    frames = list(moving_clip(5, FRAME, dtype=torch.bfloat16))
    return on(isa, videoeff.convert(model, frames[0])), model, frames


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_a_stream_is_bit_for_bit_the_network_computed_anew(isa: str, products: Products) -> None:
    stream, _, frames = make(isa)
    streamed = [stream(frame).clone() for frame in frames]
    for frame, expected in zip(frames, streamed, strict=True):
        stream.reset()
        assert torch.equal(stream(frame), expected)


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_it_is_as_close_to_float32_as_pytorch_is(isa: str, products: Products) -> None:
    stream, model, frames = make(isa)
    exact = Net().eval()
    exact.load_state_dict(model.float().state_dict())
    model.bfloat16()
    with torch.no_grad():
        for frame in frames:
            wanted = exact(frame.float())
            ours = (stream(frame).float() - wanted).abs().max()
            theirs = (model(frame).float() - wanted).abs().max()
            assert ours <= 2 * theirs


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_nan_stays_where_it_is(isa: str, products: Products) -> None:
    """What is multiplied with a weight of nothing must not be read from a neighbour."""
    torch.manual_seed(0)
    model = nn.Conv2d(20, 24, 1).eval().bfloat16()
    frame = torch.rand(1, 20, 9, 40).bfloat16()
    frame[0, :, 4, 17] = torch.nan
    stream = on(isa, videoeff.convert(model, frame, nan_policy="recompute"))
    found = stream(frame).isnan().any(1)
    assert found.sum() == 1
    assert found[0, 4, 17]
