"""Buffers that a model's forward changes: carried by the stream, from reset to artifact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.remembering import (
    SHAPE,
    Last,
    Net,
    RunningMean,
    calls_inner,
    counts,
    in_parts,
)
from videoeff.errors import CaptureError, StateError
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.streaming_module import StreamingModule

FRAMES = [torch.rand(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(6)]

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "whole": Last,
    "statistics": RunningMean,
    "around parts": lambda: Net(in_parts(counts)),
    "of a part": lambda: calls_inner(1),
}


def made(name: str, example: Tensor = FRAMES[0]) -> tuple[nn.Module, StreamingModule]:
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    return copy.deepcopy(model), videoeff.convert(model, example)


@torch.no_grad()
def assert_streams(stream: nn.Module, expected: list[Tensor], start: int = 0, count: int = 6) -> None:
    for frame, want in list(zip(FRAMES, expected, strict=True))[start : start + count]:
        torch.testing.assert_close(stream(frame), want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def outputs(model: nn.Module) -> list[Tensor]:
    return [model(frame) for frame in FRAMES]


@pytest.mark.parametrize("name", BUILDERS)
def test_snapshot_restore_copy_and_reset(name: str) -> None:
    model, stream = made(name)
    expected = outputs(model)
    assert_streams(stream, expected, 0, 2)
    kept = stream.snapshot()
    assert_streams(stream, expected, 2, 4)
    stream.restore(kept)
    twin = copy.deepcopy(stream)
    assert_streams(stream, expected, 2, 4)
    assert_streams(twin, expected, 2, 4)
    stream.reset()
    assert_streams(stream, expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_artifacts_begin_with_the_first_values(name: str, tmp_path: Path) -> None:
    model, stream = made(name)
    source, expected = BUILDERS[name]().eval(), outputs(model)
    assert_streams(stream, expected, 0, 3)
    stream.save(tmp_path / "a.veff")
    parts = isinstance(stream.body, PartitionedModel)
    loaded = videoeff.load(tmp_path / "a.veff", model=source if parts else None)
    assert [str(c) for c in loaded.report().carried] == [str(c) for c in stream.report().carried]
    assert_streams(loaded, expected)
    loaded.reset()
    assert_streams(loaded, expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_casting_takes_the_values_along(name: str) -> None:
    model, stream = made(name)
    expected = outputs(model)
    assert_streams(stream, expected, 0, 2)
    stream.double()
    for frame, want in zip(FRAMES[2:], expected[2:], strict=True):
        torch.testing.assert_close(stream(frame.double()), want.double(), rtol=1e-4, atol=1e-5)
    stream.reset()
    torch.testing.assert_close(stream(FRAMES[0].double()), expected[0].double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_users_model_is_not_written_by_the_stream(name: str) -> None:
    model = BUILDERS[name]().eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    stream = videoeff.convert(model, FRAMES[0])
    for frame in FRAMES:
        stream(frame)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_reports_name_what_is_carried() -> None:
    for name, carried in (("whole", ["last", "k"]), ("around parts", ["n"]), ("of a part", ["inner.n"])):
        report = made(name)[1].report()
        assert [c.name for c in report.carried] == carried
        assert f"carried for the model: {carried[0]} [" in str(report)
        assert [c["name"] for c in report.to_json()["carried"]] == carried
    assert (
        made("statistics")[1].report().state_bytes
        > videoeff.convert(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)).eval(), FRAMES[0])
        .report()
        .state_bytes
    )


def test_a_buffer_with_the_batch_in_front_belongs_to_its_entries() -> None:
    class Map(nn.Module):
        """Adds half of its last result, kept for each entry of the batch."""

        last: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("last", torch.zeros(2, *SHAPE[1:]))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(x) + self.last
            self.last.copy_(y * 0.5)
            return y

    model = Map().eval()
    stream = videoeff.convert(model, torch.rand(2, *SHAPE[1:]))
    pairs = [torch.cat([FRAMES[i], FRAMES[-1 - i]]) for i in range(5)]
    with torch.no_grad():
        for pair in pairs[:3]:
            torch.testing.assert_close(stream(pair), model(pair), rtol=1e-4, atol=1e-5)
        stream.reset(stream=1)
        model.last[1] = 0
        for pair in pairs[3:]:
            torch.testing.assert_close(stream(pair), model(pair), rtol=1e-4, atol=1e-5)
    assert not stream.report().carried[0].shared


@pytest.mark.parametrize("body", [counts, in_parts(counts)])
def test_a_buffer_that_the_batch_shares_is_not_reset_for_one(body: Callable[..., Tensor]) -> None:
    model = Net(body).eval()
    stream = videoeff.convert(model, torch.rand(2, *SHAPE[1:]))
    pair = torch.cat(FRAMES[:2])
    first = stream(pair)
    with pytest.raises(StateError, match=r"stream 1 cannot be reset alone.*'n'.*2 entries"):
        stream.reset(stream=1)
    torch.testing.assert_close(stream(pair), 2 * first, rtol=1e-4, atol=1e-5)
    assert stream.report().carried[0].shared
    assert "shared by the batch" in str(stream.report())
    stream.reset()
    torch.testing.assert_close(stream(pair), first, rtol=1e-4, atol=1e-5)


def test_thresholds_never_hold_a_buffer_back() -> None:
    model = Net(counts).eval()
    stream = videoeff.convert(model, FRAMES[0], threshold=0.3)
    first = stream(FRAMES[0])
    torch.testing.assert_close(stream(FRAMES[0]), 2 * first, rtol=1e-4, atol=1e-5)
    stream.set_threshold(0.5)
    torch.testing.assert_close(stream(FRAMES[0]), 3 * first, rtol=1e-4, atol=1e-5)


def test_a_snapshot_of_other_buffers_does_not_fit() -> None:
    _, stream = made("whole")
    other = videoeff.convert(Net(counts).eval(), FRAMES[0])
    with pytest.raises(StateError, match="snapshot"):
        stream.restore(other.snapshot())


def test_nan_in_a_frame_is_refused_and_nan_in_a_buffer_is_not() -> None:
    class Sums(nn.Module):
        """Adds up its results, beginning with a NaN in one place."""

        total: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("total", torch.zeros(SHAPE))
            self.total[0, 0, 3, 3] = float("nan")

        def forward(self, x: Tensor) -> Tensor:
            self.total += self.c(x)
            return self.total * 1.0

    model = Sums().eval()
    stream = videoeff.convert(copy.deepcopy(model), FRAMES[0])
    bad = FRAMES[1].clone()
    bad[0, 0, 0, 0] = float("nan")
    with torch.no_grad():
        for frame in FRAMES[:3]:
            torch.testing.assert_close(stream(frame), model(frame), rtol=1e-4, atol=1e-5, equal_nan=True)
        with pytest.raises(StateError, match="argument 0 holds NaN"):
            stream(bad)
        torch.testing.assert_close(stream(FRAMES[4]), model(FRAMES[4]), rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_buffer_keeps_its_shape() -> None:
    class Grows(nn.Module):
        """Appends to its buffer."""

        past: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("past", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(x)
            self.past = torch.cat([self.past, y.mean().view(1)])
            return y * self.past.sum()

    with pytest.raises(CaptureError, match="the buffer 'past' another shape"):
        videoeff.convert(Grows().eval(), FRAMES[0])


def test_a_compiled_stream_carries_too() -> None:
    model, stream = made("whole")
    frame = torch.export.export(stream, (FRAMES[0],)).module()
    assert_streams(frame, outputs(model))
