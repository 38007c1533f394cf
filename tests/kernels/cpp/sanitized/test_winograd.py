"""3x3 convolutions by minimal filtering (Winograd): each result exact, and the same to the last bit."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import plans_of
from videoeff.kernels.backend import Accepted
from videoeff.kernels.cpp import abi, costs, library
from videoeff.kernels.cpp.describe import describe
from videoeff.kernels.cpp.winograd import uses_winograd
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

#: Input and output channels, dilation, padding, height and width: vectors that are full and not, one panel of
#: weights and several, weights that threads share, tiles cut by the border on none, one and both sides, maps
#: smaller than a window.
SHAPES = [
    (32, 32, 1, 1, 24, 30),
    (17, 45, 1, 1, 31, 27),
    (3, 8, 1, 0, 19, 70),
    (40, 19, 1, 2, 9, 13),
    (64, 96, 2, 2, 21, 34),
    (24, 40, 4, 4, 13, 29),
    (20, 33, 3, 1, 17, 16),
    (128, 128, 1, 1, 22, 30),
    (130, 100, 16, 16, 40, 41),
    (16, 1300, 2, 2, 12, 9),
    (5, 7, 1, 1, 1, 1),
    (6, 9, 2, 2, 2, 3),
]


class Residual(nn.Module):
    """Such a convolution in a residual block, whose sum is its ending."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def convolution(inputs: int, outputs: int, dilation: int, padding: int) -> nn.Module:
    torch.manual_seed(4)
    conv = nn.Conv2d(inputs, outputs, 3, padding=padding, dilation=dilation, bias=outputs % 2 == 0)
    return nn.Sequential(conv, nn.ReLU()).eval()


def stream_of(
    model: nn.Module, example: Tensor, on: bool | None = True, isa: int = -1, nan_policy: str = "error"
) -> StreamingModule:
    stream = videoeff.convert(model, example, backend="cpp", nan_policy=nan_policy)
    for plan in plans_of(stream):
        plan.winograd, plan.isa = on, isa
    return stream


def frames(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Everything, single pixels, a patch, scattered pixels, everything, nothing."""
    generator = torch.Generator().manual_seed(9)
    frame = torch.randn(shape, generator=generator)
    yield frame
    _, _, height, width = shape
    for rows, columns in (
        ([0], [0]),
        ([height - 1], [width - 1]),
        (range(height // 3, height // 2 + 1), range(width // 4, width // 2 + 1)),
        (range(0, height, 7), range(1, width, 5)),
        (range(height), range(width)),
        ((), ()),
    ):
        frame = frame.clone()
        for y in rows:
            for x in columns:
                frame[0, :, y, x] = torch.randn(shape[1], generator=generator)
        yield frame


@pytest.mark.parametrize("isa", range(3))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_a_plain_convolution(shape: tuple[int, ...], isa: int) -> None:
    if isa > library.load().best_isa:
        pytest.skip("this processor has no such instructions")
    inputs, outputs, dilation, padding, height, width = shape
    model = convolution(inputs, outputs, dilation, padding)
    stream = stream_of(model, torch.randn(1, inputs, height, width), isa=isa)
    exact = convolution(inputs, outputs, dilation, padding).double()
    with torch.inference_mode():
        for frame in frames((1, inputs, height, width)):
            assert relative_error(stream(frame), exact(frame.double()).float()) < 2e-6


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_same_to_the_last_bit(shape: tuple[int, ...], threads: int) -> None:
    """Frames that change in places give what fresh streams give: neighbours do not matter."""
    inputs, outputs, dilation, padding, height, width = shape
    model = convolution(inputs, outputs, dilation, padding)
    example = torch.randn(2, inputs, height, width)
    stream, fresh = (stream_of(model, example) for _ in range(2))
    before = torch.get_num_threads()
    try:
        for frame in frames(tuple(example.shape)):
            torch.set_num_threads(threads)
            found = stream(frame)
            torch.set_num_threads(1)
            fresh.reset()
            assert torch.equal(found, fresh(frame))
    finally:
        torch.set_num_threads(before)


def test_what_is_not_finite_stays_in_its_windows() -> None:
    model = convolution(32, 32, 1, 1)
    frame = torch.randn(1, 32, 20, 26)
    stream, plain = (stream_of(model, frame, on, nan_policy="recompute") for on in (True, False))
    expected = plain(frame), stream(frame)
    frame = frame.clone()
    frame[0, 3, 9, 12] = float("nan")
    frame[0, 5, 0, 25] = float("inf")
    for which, before in ((plain, expected[0]), (stream, expected[1])):
        found = which(frame)
        finite = found.isfinite().all(1)[0]
        touched = torch.zeros(20, 26, dtype=torch.bool)
        touched[8:11, 11:14] = touched[0:2, 24:26] = True
        assert torch.equal(finite, ~touched)
        assert torch.equal(found[..., ~touched], before[..., ~touched])


@pytest.mark.parametrize(("threshold", "predict"), [(0.2, 0.0), (0.2, 1.0), (0.0, 0.0)])
def test_in_residual_blocks(threshold: float, predict: float) -> None:
    """Row blocks, residual sums, thresholds and predictions: as plain convolutions, pixel by pixel."""
    torch.manual_seed(2)
    model = nn.Sequential(Residual(32), Residual(32), nn.Conv2d(32, 160, 3, padding=1), nn.SiLU()).eval()
    example = torch.randn(2, 32, 40, 150)
    streams = [
        videoeff.convert(model, example, backend="cpp", threshold=threshold, predict=predict)
        for _ in range(2)
    ]
    for stream, on in zip(streams, (True, False), strict=True):
        for plan in plans_of(stream):
            plan.winograd = on
    for frame in frames(tuple(example.shape)):
        found, expected = (stream(frame) for stream in streams)
        # where a value lies at the threshold, one of them may keep what the other renews
        apart = (found - expected).abs().amax(1) > 1e-4 * expected.abs().max()
        assert apart.float().mean() <= (0.002 if threshold else 0.0)
    needed = [stream.report().macs["needed"] for stream in streams]
    assert needed[0] == pytest.approx(needed[1], rel=0.01)


def test_where_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide enough layers over large enough maps, without padding of mostly nothing; by the shipped costs."""
    monkeypatch.setattr(costs, "table", lambda: costs.read(costs.SHIPPED))
    cases = {
        (64, 64, 1, 1, 40, 40): True,
        (64, 64, 2, 2, 40, 40): True,
        (64, 64, 1, 1, 8, 8): False,
        (8, 64, 1, 1, 40, 40): False,
        (64, 8, 1, 1, 40, 40): False,
        (64, 64, 12, 12, 40, 40): False,  # most taps lie outside
        (64, 64, 20, 0, 100, 100): False,
    }
    for shape, expected in cases.items():
        inputs, outputs, dilation, padding, height, width = shape
        example = torch.randn(1, inputs, height, width)
        stream = stream_of(convolution(inputs, outputs, dilation, padding), example, on=None)
        stream(example)
        (plan,) = plans_of(stream)
        found = describe(plan.calls[-1])
        assert isinstance(found, Accepted)
        assert uses_winograd(found.description) == expected, shape
        if expected:  # 16 weights for 9
            assert plan.nbytes["weights"] == pytest.approx(16 * inputs * outputs * 4, rel=0.02)


@pytest.mark.parametrize(
    "change",
    [
        {"sy": 2, "sx": 2}, {"dy": 2}, {"dy": 17, "dx": 17}, {"kh": 5}, {"groups": 2},
        {"kind": abi.Kind.MAXPOOL}, {"dtype": 1},
    ],
    ids=str,
)  # fmt: skip
def test_others_are_refused(change: dict[str, int]) -> None:
    model = convolution(16, 16, 1, 1)
    frame = torch.randn(1, 16, 20, 20)
    stream = stream_of(model, frame)
    stream(frame)
    (plan,), engine = plans_of(stream), next(iter(stream.engines.values()))
    ops, masks, kept = plan.descriptors(engine._state, engine._constants)
    (index,) = (i for i, op in enumerate(ops) if op.winograd)
    error = ctypes.create_string_buffer(256)
    native = library.load()
    handle = native.vf_plan_create(ops, len(ops), masks, len(masks), -1, error, len(error))
    assert handle, error.value
    native.vf_plan_destroy(handle)
    for name, value in change.items():
        setattr(ops[index], name, value)
    assert not native.vf_plan_create(ops, len(ops), masks, len(masks), -1, error, len(error))
    assert error.value, "refused without a sentence"
    if change.keys() & {"sy", "dy", "kh"}:
        assert b"winograd" in error.value
    del kept
