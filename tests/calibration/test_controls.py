"""Frame skipping, noise and int8 as controls, on small networks whose answers are known."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.support import tiny_models as tiny
from tests.support.remembering import Net, counts
from videoeff import convert
from videoeff.calibration import int8 as int8_control
from videoeff.calibration.controls import (
    Held,
    Network,
    Noise,
    noisy,
    ordinal,
    skip_label,
    usual_controls,
)
from videoeff.calibration.int8 import Int8, missing
from videoeff.calibration.metrics import RelativeError, total
from videoeff.calibration.simulated import Range, quantised_weight
from videoeff.errors import BackendError
from videoeff.runtime.streaming_module import StreamingModule

Frame = NDArray[np.uint8]
SIZE = tiny.SIZE


def feed(frame: Frame) -> tuple[tuple[Tensor], dict[str, Any]]:
    """The frame in 0..1."""
    return (torch.from_numpy(frame).permute(2, 0, 1)[None] / 255,), {}


def whole(frame: Frame) -> tuple[tuple[Tensor], dict[str, Any]]:
    """The frame in grey levels."""
    return (torch.from_numpy(frame).permute(2, 0, 1)[None].float(),), {}


def frames(count: int, seed: int = 0) -> list[Frame]:
    generator = np.random.default_rng(seed)
    return [generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(count)]


def stream_of(model: nn.Module) -> StreamingModule:
    return convert(model, torch.rand(1, 3, *SIZE))


@pytest.fixture
def model() -> nn.Module:
    return tiny.build()


# ---------------------------------------------------------------- the dense network


def test_the_network_is_the_model_and_leaves_the_stream_alone(model: nn.Module) -> None:
    stream, clip = stream_of(model), frames(3)
    dense = Network(stream, feed)
    for frame in clip:
        args, _ = feed(frame)
        with torch.no_grad():
            torch.testing.assert_close(dense(frame), model(*args))
    assert stream.report().frames == 0
    assert len(dense.ms) == 3
    assert not dense.remembers


# ---------------------------------------------------------------- frame skipping


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_ordinal(number: int, text: str) -> None:
    assert ordinal(number) == text
    assert skip_label(number) == f"every {text} frame"


def test_every_third_frame() -> None:
    control, (frame,) = Held(3), frames(1)
    assert [control.outputs(i, frame, i) for i in range(8)] == [0, 0, 0, 3, 3, 3, 6, 6]
    assert control.work == pytest.approx(1 / 3)
    assert control.ms([6.0, 9.0]) == [2.0, 3.0]


def test_a_network_that_remembers_sees_the_frames_it_computes_only() -> None:
    torch.manual_seed(0)
    model = Net(counts).eval()
    stream, clip = stream_of(model), frames(5)
    dense = Network(stream, feed)
    assert dense.remembers
    control = Held(2, Network(stream, feed))
    found = [control.outputs(i, frame, dense(frame)) for i, frame in enumerate(clip)]
    with torch.no_grad():
        for count, place in enumerate((0, 2, 4), start=1):  # it counts frames and multiplies with the count
            torch.testing.assert_close(found[place], count * model.c(*feed(clip[place])[0]))
    assert found[3] is found[2]


# ---------------------------------------------------------------- noise


def test_noise() -> None:
    frame = np.full((60, 80, 4), 128, np.uint8)
    frame[:20, :, :3], frame[20:40, :, :3], frame[..., 3] = 0, 255, 7
    for sigma in (1.0, 2.0):
        moved = noisy(frame, sigma, np.random.default_rng(0))
        assert moved.dtype == np.uint8
        assert (moved[..., 3] == 7).all()
        spread = (moved[40:, :, :3].astype(float) - 128).std()
        assert spread == pytest.approx((sigma**2 + 1 / 12) ** 0.5, rel=0.05)  # rounded to whole levels
        assert moved[:20, :, :3].max() > 0
        assert moved[20:40, :, :3].min() < 255  # cut off at black and white, not wrapped around
        assert (moved[:20, :, :3] < 20).all()
        assert (moved[20:40, :, :3] > 235).all()


def test_noise_is_the_same_every_time(model: nn.Module) -> None:
    stream, clip = stream_of(model), frames(2)
    one, same, other = (Noise(1.0, Network(stream, feed), seed) for seed in (7, 7, 8))
    dense = Network(stream, feed)
    for number, frame in enumerate(clip):
        expected, exact = one.outputs(number, frame, None), dense(frame)
        assert torch.equal(same.outputs(number, frame, None), expected)
        assert not torch.equal(other.outputs(number, frame, None), expected)
        error = RelativeError().value(RelativeError().frame(expected, exact))
        assert 0 < error < 0.02
    assert one.ms([1.0, 2.0]) == []


def test_the_usual_controls(model: nn.Module) -> None:
    controls = usual_controls(stream_of(model), feed)
    assert [(c.label, c.work) for c in controls] == [
        ("every 2nd frame", 0.5),
        ("every 3rd frame", pytest.approx(1 / 3)),
        ("every 4th frame", 0.25),
        ("every 8th frame", 0.125),
        ("noise, σ = 1", 1.0),
        ("noise, σ = 2", 1.0),
    ]


# ---------------------------------------------------------------- int8


def errors(stream: StreamingModule, control: Int8, clip: list[Frame]) -> float:
    metric, dense = RelativeError(), Network(stream, feed)
    scores = [metric.frame(control.outputs(i, f, None), dense(f)) for i, f in enumerate(clip)]
    return metric.value(total(scores))


class Depthwise(nn.Module):
    """Channels of very different size, kept apart: one range for all would erase the small one."""

    def __init__(self) -> None:
        super().__init__()
        self.grow = nn.Conv2d(3, 2, 1, bias=False)
        self.apart = nn.Conv2d(2, 2, 3, padding=1, groups=2, bias=False)
        with torch.no_grad():
            self.grow.weight.copy_(torch.tensor([[1.0, 1, 1], [1e-4, 1e-4, 1e-4]])[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        small: Tensor = self.apart(self.grow(x))[:, 1:]
        return small


def test_depthwise_convolutions_round_each_channel_by_itself() -> None:
    torch.manual_seed(0)
    stream = stream_of(Depthwise().eval())
    control = Int8(stream, feed, frames(4), simulate=True)
    assert errors(stream, control, frames(3, seed=1)) < 0.02


class Exact(nn.Module):
    """What int8 represents exactly: whole weights up to 127, whole inputs from 0 to 255."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.randint(-127, 128, self.conv.weight.shape))
            self.conv.weight[:, 0, 0, 0] = 127

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


def test_what_int8_represents_exactly_has_no_error() -> None:
    torch.manual_seed(0)
    stream, clip = stream_of(Exact().eval()), frames(3)
    for frame in clip:
        frame[0, 0, 0], frame[0, 1, 0] = 0, 255
    control = Int8(stream, whole, clip, simulate=True)
    dense = Network(stream, whole)
    for frame in clip:
        torch.testing.assert_close(control.outputs(0, frame, None), dense(frame), rtol=1e-6, atol=1e-2)


def test_int8_is_about_a_hundredth_off(model: nn.Module) -> None:
    stream, clip = stream_of(model), frames(4)
    control = Int8(stream, feed, clip, simulate=True)
    assert control.label == "int8, simulated"
    assert "calibrated on 4 frame(s)" in control.note
    assert "not a runtime (as asked)" in control.note
    assert control.work is None
    assert control.ms([1.0]) == []
    assert 1e-4 < errors(stream, control, frames(3, seed=1)) < 0.05


def test_what_lies_beyond_the_calibration_is_cut_off(model: nn.Module) -> None:
    stream = stream_of(model)
    dark = [frame // 8 for frame in frames(4)]
    control = Int8(stream, feed, dark, simulate=True)
    assert errors(stream, control, frames(3, seed=1)) > 0.3


def test_a_network_in_parts(model: nn.Module) -> None:
    stream = stream_of(tiny.build_detector())
    control = Int8(stream, feed, frames(4), simulate=True)
    dense = Network(stream, feed)
    (frame,) = frames(1, seed=1)
    (found,), (exact,) = control.outputs(0, frame, None), dense(frame)
    common = set(map(tuple, found.tolist())) & set(map(tuple, exact.tolist()))
    assert found.shape != exact.shape or not torch.equal(found, exact)  # it is not the network itself
    assert len(common) > 0.95 * len(exact)


def test_rounding() -> None:
    spread = Range()
    for low, high in ((-1.0, 2.0), (-3.0, 4.0)):
        spread.add(torch.tensor([low, 0.0, high]))
    found = spread.quantised(torch.tensor([-9.0, -2.0, 0.0, 3.0, 9.0]))  # -2 to 3 in 255 steps
    assert found.tolist() == pytest.approx([-2, -2, 0, 3, 3])
    assert float(spread.quantised(torch.tensor(0.012))) == pytest.approx(5 / 255)
    nothing = Range()
    nothing.add(torch.zeros(2))
    assert nothing.quantised(torch.ones(2)).tolist() == pytest.approx([0, 0], abs=1e-6)
    apart = Range(channels=True)
    apart.add(torch.tensor([[[255.0, 0.0], [-5.1, 0.0]]]))
    found = apart.quantised(torch.tensor([[[3.4, 300.0], [-1.017, 7.0]]]))  # steps of 1, and of 0.02
    assert found.flatten().tolist() == pytest.approx([3, 255, -1.02, 0], abs=1e-5)
    weight = torch.tensor([[127.0, 0.4], [12.7, 0.06]])
    assert quantised_weight(weight, 0).tolist() == [[127, 0], pytest.approx([12.7, 0.1])]
    assert quantised_weight(weight, -1)[0].tolist() == pytest.approx([127, 0.4], abs=0.002)
    assert quantised_weight(weight.bfloat16(), 0).dtype == torch.bfloat16


def test_int8_needs_frames(model: nn.Module) -> None:
    with pytest.raises(BackendError, match="no frames to calibrate on"):
        Int8(stream_of(model), feed, [], simulate=True)


def test_without_the_packages_it_is_simulated(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("nncf", "openvino") else found(name)
    )
    assert missing() == "openvino and nncf not installed; pip install 'videoeff[bench]'"
    control = Int8(stream_of(model), feed, frames(2))
    assert control.simulated
    assert "nncf not installed" in control.note


def test_what_cannot_be_quantised_is_simulated(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no export today")

    stream = stream_of(model)
    monkeypatch.setattr(int8_control, "missing", lambda: "")
    monkeypatch.setattr(torch.export, "export", fails)
    control = Int8(stream, feed, frames(2))
    assert control.label == "int8, simulated"
    assert "(it could not be exported: no export today)" in control.note


@pytest.mark.slow
def test_int8_by_openvino(model: nn.Module) -> None:
    if missing():
        pytest.skip(missing())
    stream, clip = stream_of(model), frames(3, seed=1)
    control = Int8(stream, feed, frames(8), threads=1)
    assert (control.label, control.simulated) == ("int8 (OpenVINO)", False)
    simulated = Int8(stream, feed, frames(8), simulate=True)
    found, expected = errors(stream, control, clip), errors(stream, simulated, clip)
    assert 1e-4 < found < 0.05
    assert 0.2 < found / expected < 5
    assert len(control.ms([])) == 3
