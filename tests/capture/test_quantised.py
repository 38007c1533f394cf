"""convert(precision=): what it asks for, and what NNCF makes of a network where it is installed."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.quantised import Net
from videoeff.capture import quantised as module
from videoeff.errors import BackendError, CaptureError

FRAME = torch.rand(1, 3, 24, 32)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(12, 12, 3, 1, 1), nn.ReLU(), nn.Conv2d(12, 12, 3, 1, 1))
        self.last = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        found: Tensor = self.last(torch.relu(self.block(x) + x))
        return found


def convert(**options: Any) -> videoeff.StreamingModule:
    torch.manual_seed(0)
    return videoeff.convert(Small().eval(), FRAME, **options)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the packages were there."""
    monkeypatch.setattr(module, "PACKAGES", ())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"precision": "int4", "calibration": [FRAME]}, "no precision 'int4'; there is bf16, int8, and None"),
        ({"precision": "int8"}, "needs frames to calibrate on: calibration=frames"),
        ({"calibration": [FRAME]}, "calibration frames without a precision"),
    ],
)
def test_what_cannot_be_made_is_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(BackendError, match=why):
        convert(**options)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"nncf and torchao not installed; pip install 'videoeff\[int8\]'"):
        module.check_precision("int8", [FRAME])


@pytest.mark.usefixtures("installed")
def test_frames_that_are_no_calls_are_named() -> None:
    with pytest.raises(CaptureError, match=r"frame 1 is float32 \[1, 3, 8, 8\], the example float32"):
        convert(precision="int8", calibration=[FRAME, torch.rand(1, 3, 8, 8)])
    with pytest.raises(BackendError, match="calibration holds no frame"):
        convert(precision="int8", calibration=[])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([FRAME.numpy()], "frame 0 is ndarray, the example float32"),
        ([[FRAME]], r"frame 0 is \['float32 \[1, 3, 24, 32\]'\], the example float32"),
        (5, "calibration is a int; give a list"),
        ("clip.mp4", "calibration is a str; give a list"),
        ([FRAME, FRAME * float("nan")], "frame 1 holds NaN or infinity"),
    ],
)
def test_what_is_no_list_of_calls_is_named(frames: Any, why: str) -> None:
    with pytest.raises(CaptureError, match=why):
        convert(precision="int8", calibration=frames)


@pytest.mark.usefixtures("installed")
def test_other_precisions_and_sizes_are_refused() -> None:
    with pytest.raises(CaptureError, match="quantised in float32 on the CPU"):
        videoeff.convert(
            Small().double().eval(), FRAME.double(), precision="int8", calibration=[FRAME.double()]
        )
    with pytest.raises(CaptureError, match="for one size; drop on_resize"):
        convert(precision="int8", calibration=[FRAME], on_resize="replan")


@pytest.mark.usefixtures("installed")
def test_what_is_quantised_already_is_not_quantised_again() -> None:
    frame = torch.rand(1, 3, 36, 44)
    with pytest.raises(CaptureError, match="it is quantised already"):
        videoeff.convert(Net().eval(), frame, precision="int8", calibration=[frame])


def test_a_graph_of_operators_is_taken_as_it_is() -> None:
    """As torchao leaves it: marked as training, and its eval() raises."""
    graph = torch.export.export(Net().eval(), (torch.rand(1, 3, 36, 44),), strict=False).module()
    graph.training = True
    stream = videoeff.convert(graph, torch.rand(1, 3, 36, 44))
    assert any(s.grid is not None for s in stream.engines[""].plan.state)


@pytest.mark.usefixtures("installed")
def test_arguments_by_name_are_refused() -> None:
    with pytest.raises(CaptureError, match="kwargs with a precision"):
        convert(precision="int8", calibration=[FRAME], kwargs={"y": FRAME})


@pytest.mark.usefixtures("installed")
def test_a_network_that_cannot_be_exported_whole_is_named() -> None:
    class Branching(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.mean()) > 0 else -x)

    with pytest.raises(CaptureError, match="it cannot be exported whole"):
        videoeff.convert(Branching().eval(), FRAME, precision="int8", calibration=[FRAME])


@pytest.mark.slow
def test_the_stream_computes_in_integers() -> None:
    pytest.importorskip("nncf", reason="needs the packages of videoeff[int8]")
    pytest.importorskip("torchao", reason="needs the packages of videoeff[int8]")
    stream = convert(precision="int8", calibration=[torch.rand(1, 3, 24, 32) for _ in range(8)])
    torch.manual_seed(0)
    dense = Small().eval()
    assert any(s.grid is not None for s in stream.engines[""].plan.state)
    for _ in range(3):
        frame = torch.rand(1, 3, 24, 32)
        with torch.no_grad():
            expected = dense(frame)
        assert float((stream(frame) - expected).norm() / expected.norm()) < 0.1
