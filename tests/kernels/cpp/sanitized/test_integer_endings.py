"""Layers of 8-bit numbers of every width, of many weights, and over a mean."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import WAYS, plans_of
from tests.support.quantised import Chain, Conv, Rounded, conv
from videoeff.ir.markers import cache_option
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Isa, Products
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.recipes import recipe
from videoeff.runtime.streaming_module import StreamingModule

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason="needs the native library")

WIDTHS = (1, 6, 12, 16, 18, 24, 32, 50, 72, 130)


class Both(nn.Module):
    """Two results that lie in one buffer, one read of them, and a sum."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__()
        self.given = Rounded(0.02, 7, torch.uint8)
        self.left, self.right = conv(5, left, 3, padding=1), conv(5, right, 1)
        self.rounded, self.last = Rounded(0.03, 100, torch.uint8), conv(left + right, left, 1)
        self.behind, self.summed = Rounded(0.02, 90, torch.uint8), Rounded(0.04, 30, torch.uint8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.given(x)
        left = self.rounded(nn.functional.silu(self.left(x)))
        both = torch.cat([left, self.rounded(self.right(x))], 1)
        return both, self.summed(torch.relu(self.behind(self.last(both)) + left))


def frames(channels: int, size: tuple[int, int], batch: int = 2) -> Iterator[Tensor]:
    """All, some pixels, one pixel, nothing changes."""
    generator = torch.Generator().manual_seed(3)
    frame = 2 * torch.rand(batch, channels, *size, generator=generator) - 0.5
    yield frame
    for rows, columns in ((slice(1, 6), slice(2, 9)), (slice(0, 1), slice(4, 5)), (slice(0, 0), slice(0, 0))):
        frame = frame.clone()
        part = frame[-1:, :, rows, columns]
        frame[-1:, :, rows, columns] = part + torch.rand(part.shape, generator=generator) - 0.5
        yield frame


def make(
    model: nn.Module, frame: Tensor, isa: str, threshold: float = 0.0, test: str = "max"
) -> StreamingModule:
    inserted = InsertThresholds(threshold=threshold, test=test, input_threshold=0.0)
    stream = videoeff.convert(model, frame, passes=[*recipe("exact"), inserted])
    for plan in plans_of(stream):
        plan.isa = Isa[isa.upper()]
    return stream


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_any_number_of_channels(isa: str, products: Products) -> None:
    """Bit for bit the dense network; where a threshold keeps nothing back, too."""
    for index, width in enumerate(WIDTHS):
        torch.manual_seed(width)
        model = Both(width, WIDTHS[-1 - index]).eval()
        first, *later = frames(5, (7, 11))
        dense = make(model, first, isa)
        streams = [make(model, first, isa), make(model, first, isa, 1e-9, ("max", "rms")[index % 2])]
        for frame in (first, *later):
            dense.reset()
            expected = dense(frame)
            for stream in streams:
                for found, wanted in zip(stream(frame), expected, strict=True):
                    assert torch.equal(found, wanted), width


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_a_threshold_keeps_small_changes_back(isa: str, products: Products) -> None:
    """What is left is at most the threshold away from what was passed on, half a step of rounding aside."""
    for width in (16, 24, 50):
        torch.manual_seed(width)
        model = Chain(
            [conv(5, width, 1), conv(width, 4, 1)],
            Rounded(0.02, 7, torch.uint8),
            [Rounded(0.03, 100, torch.uint8), Rounded(0.03, 100, torch.uint8)],
        )
        first, *later = frames(5, (7, 11))
        dense, stream = make(model.eval(), first, isa), make(model, first, isa, 0.2)
        held = 0
        for frame in (first, *later):
            dense.reset()
            stream(frame), dense(frame)
            apart = (stream.values()["parts.0"] - dense.values()["parts.0"]).abs()
            assert float(apart.max()) <= 0.2 + 0.03
            held += int((apart.amax(1) > 0).sum())
        assert held > 0


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("options", [{"padding": 1}, {"padding": 1, "stride": 2}])
def test_many_weights_as_one_thread(threads: int, options: dict[str, int], products: Products) -> None:
    """Threads share the weights: each copies a block's inputs once for all its panels."""
    before = torch.get_num_threads()
    torch.manual_seed(1)
    model = Chain(
        [conv(64, 460, 3, **options), conv(460, 600, 1)],
        Rounded(0.02, 7, torch.uint8),
        [Rounded(0.1, 100, torch.uint8), Rounded(0.1, 90, torch.uint8)],
    ).eval()
    made = list(frames(64, (13, 15)))
    try:
        torch.set_num_threads(1)
        alone = videoeff.convert(model, made[0])
        expected = [alone(frame) for frame in made]
        torch.set_num_threads(threads)
        shared = videoeff.convert(model, made[0])
        for frame, wanted in zip(made, expected, strict=True):
            assert torch.equal(shared(frame), wanted)
    finally:
        torch.set_num_threads(before)


class Classifier(nn.Module):
    """A mean over all pixels and a linear layer of 8-bit numbers."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.first, self.given = conv(5, channels, 1), Rounded(0.02, 7, torch.uint8)
        self.rounded, self.mean = Rounded(0.03, 100, torch.uint8), Rounded(0.01, 80, torch.uint8)
        self.last = Conv(nn.Conv2d(channels, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.rounded(self.first(self.given(x)))
        found: Tensor = self.last(self.mean(nn.functional.adaptive_avg_pool2d(x, 1))).flatten(1)
        return found


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_a_linear_layer_of_many_weights(isa: str, products: Products) -> None:
    """It multiplies integers, and gives what PyTorch does with the numbers of the mean."""
    torch.manual_seed(0)
    model = Classifier(301, 500).eval()
    first, *later = frames(5, (7, 11))
    stream = make(model, first, isa)
    (engine,) = stream.engines.values()
    constants = dict(engine.network.named_buffers(remove_duplicate=False))
    (plan,) = plans_of(stream)
    ops, _, _ = plan.descriptors(engine.state, constants)
    assert [op.integer for op in ops if op.weight] == [1, 1]
    for frame in (first, *later):
        found = stream(frame)
        (mean,) = (v for n, v in stream.values().items() if v.shape == (2, 301, 1, 1))
        torch.testing.assert_close(found, model.last(mean).flatten(1), rtol=1e-5, atol=1e-5)


def test_a_small_linear_layer_stays_with_its_mean() -> None:
    model = Classifier(40, 10).eval()
    stream = videoeff.convert(model, next(frames(5, (7, 11))))
    (engine,) = stream.engines.values()
    kinds = [cache_option(n, "kind") for n in engine.program.nodes if "delta_cache" in n.name]
    assert kinds.count("global") == 1
