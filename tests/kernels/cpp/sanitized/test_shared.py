"""Layers of many weights, whose panels the threads share: bit for bit what one thread computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.streams import assert_nodes_close
from videoeff.kernels.cpp import library
from videoeff.testing import TOLERANCES, relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

SHARED_BYTES = 256 << 10  # of weights, from which on threads share them
SIZE = (19, 26)

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "split": lambda: nn.Sequential(
        nn.Conv2d(48, 160, 3, padding=1), nn.ReLU()
    ),  # the reduction, and uneven panels
    "rest": lambda: nn.Sequential(
        nn.Conv2d(48, 168, 3, padding=1), nn.Hardswish()
    ),  # eight channels left over
    "wide": lambda: nn.Sequential(nn.Conv2d(48, 1536, 1), nn.ReLU()),
    "strided": lambda: nn.Sequential(nn.Conv2d(48, 256, 3, 2, 1), nn.SiLU()),
    "residual": lambda: Residual(),
    "epilogue": lambda: nn.Sequential(nn.Conv2d(48, 1536, 1), nn.GELU(), nn.Softmax(1)),
}


class Residual(nn.Module):
    """A layer of many weights with a sum behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.mix = nn.Conv2d(48, 96, 1), nn.Conv2d(96, 96, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x)
        return torch.relu(self.mix(torch.relu(y)) + y)


@pytest.fixture(params=[2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many share the work; what was set is set again afterwards."""
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


def frames() -> Iterator[tuple[Tensor, bool]]:
    """Frames where all, few pixels, most of the second stream, nothing changes; whether to reset that."""
    generator = torch.Generator().manual_seed(7)
    frame = torch.rand(2, 48, *SIZE, generator=generator)
    yield frame, False
    for stream, rows, columns, reset in (
        (0, slice(0, 1), slice(0, 1), False),
        (1, slice(2, 8), slice(20, 26), False),
        (1, slice(0, 18), slice(0, 25), False),
        (0, slice(4, 9), slice(3, 20), True),
        (0, slice(0, 0), slice(0, 0), False),
    ):
        frame = frame.clone()
        frame[stream, :, rows, columns] = torch.rand(
            frame[stream, :, rows, columns].shape, generator=generator
        )
        yield frame, reset


@pytest.mark.parametrize(("threshold", "predict"), [(0.0, 0.0), (0.1, 0.0), (0.1, 1.0)])
@pytest.mark.parametrize("which", LAYERS)
def test_as_one_thread(which: str, threshold: float, predict: float, threads: int) -> None:
    torch.manual_seed(1)
    model = LAYERS[which]().eval()
    assert any(p.numel() * 4 >= SHARED_BYTES for p in model.parameters())
    example = torch.rand(2, 48, *SIZE)
    one, many = (videoeff.convert(model, example, threshold=threshold, predict=predict) for _ in range(2))
    for frame, reset in frames():
        if reset:
            one.reset(1)
            many.reset(1)
        torch.set_num_threads(1)
        wanted = one(frame)
        torch.set_num_threads(threads)
        assert torch.equal(many(frame), wanted)
        if not threshold:
            with torch.no_grad():
                assert relative_error(wanted, model(frame)) < 1e-5
    alone, shared = one.report(), many.report()
    assert [x.active_share for x in shared.layers] == [x.active_share for x in alone.layers]
    assert shared.macs == alone.macs


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype, threads: int) -> None:
    torch.manual_seed(1)
    model = LAYERS["residual"]().eval().to(dtype)
    stream = videoeff.convert(model, torch.rand(2, 48, *SIZE).to(dtype))
    torch.set_num_threads(threads)
    with torch.no_grad():
        for frame, _ in frames():
            wanted = model(frame.to(dtype))
            with stream.observe() as seen:
                assert relative_error(stream(frame.to(dtype)), wanted) <= TOLERANCES[dtype].relative
            assert_nodes_close(stream, seen)
