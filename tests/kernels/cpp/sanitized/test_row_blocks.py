"""Large maps are computed row block by row block through several layers: the same as layer by layer."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import plans_of
from videoeff.kernels.cpp import library
from videoeff.passes import recipe
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

SIZE = (173, 211)


class Net(nn.Module):
    """Strides, dilation, pooling, a residual and a concatenation over large maps; a small map at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depth = nn.Conv2d(32, 32, 5, padding=4, dilation=2, groups=32)
        self.mix, self.widen = nn.Conv2d(32, 24, 1), nn.Conv2d(24, 96, 1)
        self.down = nn.Conv2d(96, 96, 3, 2, 1, groups=96)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.last = nn.Conv2d(120, 8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.mix(torch.relu(self.depth(x) + x))
        z = self.down(torch.relu(self.widen(y)))
        result: Tensor = self.last(torch.cat([self.pool(z), self.pool(y[..., ::2, ::2])], 1))
        return result


def frames() -> Iterator[tuple[Tensor, bool]]:
    """Frames that change much, everywhere, in one stream, nowhere; and whether to reset stream 1 first."""
    generator = torch.Generator().manual_seed(2)
    frame = torch.rand(2, 3, *SIZE, generator=generator)
    yield frame, False
    for streams, rows, reset in (
        (slice(0, 2), slice(0, 173), False),
        (slice(0, 2), slice(20, 150), False),
        (slice(1, 2), slice(0, 173), False),
        (slice(0, 1), slice(0, 120), True),
        (slice(0, 2), slice(0, 0), False),
        (slice(0, 2), slice(60, 173), False),
    ):
        frame = frame.clone()
        frame[streams, :, rows] = torch.rand(frame[streams, :, rows].shape, generator=generator)
        yield frame, reset


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many work on a row block."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("whole_from", [2.0, 0.6], ids=["as-active", "whole-where-most-is"])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_as_layer_by_layer(threshold: float, whole_from: float, threads: int) -> None:
    torch.manual_seed(4)
    model = Net().eval()
    kept = [p for p in recipe("delta")[:-1] if p.name != "recompute-expansions"]
    passes = [*kept, InsertThresholds(threshold)]
    apart = videoeff.convert(model, torch.rand(2, 3, *SIZE), passes=passes)
    for plan in plans_of(apart):
        plan.whole_from = whole_from
    after = copy.deepcopy(apart)
    for plan in plans_of(after):
        plan.whole_from, plan.op_by_op = whole_from, True
    for frame, reset in frames():
        if reset:
            apart.reset(1)
            after.reset(1)
        found = apart(frame)
        assert torch.equal(found, after(frame))
        if threshold == 0:
            with torch.no_grad():
                assert relative_error(found, model(frame)) < 1e-5
    assert sum(p.row_blocks for p in plans_of(apart)) > 10 * len(apart.report().layers)
    assert sum(p.row_blocks for p in plans_of(after)) == 0
    assert apart.report().macs["needed"] == after.report().macs["needed"]
