"""Models, examples and options that do not fit: an error of the tree that says what, where and the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.calls import dense, make
from tests.support.small_nets import SIZE, Plain, clip, lively
from videoeff.errors import (
    BackendError,
    CaptureError,
    PassError,
    StateError,
    VideoEffError,
)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_training_mode() -> None:
    with pytest.raises(CaptureError, match=r"training mode.*model\.eval\(\)"):
        videoeff.convert(Plain().train(), torch.rand(SIZE))


@pytest.mark.parametrize("kind", [lambda: nn.BatchNorm2d(4), lambda: nn.Dropout()])
def test_one_submodule_in_training_mode(kind: Callable[..., nn.Module]) -> None:
    inner = kind()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(inner, nn.ReLU())).eval()
    inner.train()
    with pytest.raises(CaptureError, match=r"1\.0 \((BatchNorm2d|Dropout)\) is in training mode"):
        videoeff.convert(model, torch.rand(SIZE))


def test_a_model_without_convolutions() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 4)).eval()
    with pytest.raises(CaptureError, match=r"no convolution.*run it as it is"):
        videoeff.convert(model, torch.rand(SIZE))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ([torch.rand(SIZE), 2.0], r"\(\[tensor, 2\.0\]\).*a list is one argument; pass a tuple"),
        ({"x": torch.rand(SIZE)}, r"dictionary is one argument; pass keyword arguments as kwargs="),
        (np.zeros(SIZE, np.float32), "ndarray"),
        ("clip.avi", "'clip.avi'"),
        (None, "None"),
        ((3, 20, 24), r"\(3, 20, 24\)"),
        ((), "missing 1 required"),
        (torch.rand(1, 5, 20, 24), "expected input"),
        (torch.rand(SIZE, dtype=torch.float64), "[Dd]ouble|type"),
        (torch.rand(SIZE, device="meta"), "meta"),
    ],
)
def test_examples_that_do_not_fit(example: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=f"(?s)Plain.*{message}"):
        videoeff.convert(lively(Plain()), example)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"threshold": -1}, PassError, "threshold=-1"),
        ({"threshold": float("nan")}, PassError, "threshold=nan"),
        ({"threshold": float("inf")}, PassError, "threshold=inf"),
        ({"threshold": "0.1"}, PassError, "threshold='0.1'"),
        ({"threshold": None}, PassError, "threshold=None"),
        ({"input_threshold": -0.1}, PassError, "input_threshold=-0.1"),
        ({"predict": -1.0}, PassError, "predict=-1"),
        ({"predict": float("nan")}, PassError, "predict=nan"),
        ({"block": 0}, PassError, "block=0"),
        ({"block": 1.5}, PassError, "block=1.5"),
        ({"dilation": -1}, PassError, "dilation=-1"),
        ({"recipe": "fast"}, PassError, "no recipe 'fast'; there are exact, delta"),
        ({"recipe": "exact", "threshold": 0.1}, PassError, "recipe='delta'"),
        ({"passes": "nothing"}, PassError, "no pass 'nothing'; there are"),
        ({"passes": "insert-delta-caches{tau=1}"}, PassError, "no option 'tau'"),
        ({"passes": [1]}, PassError, "passes holds 1"),
        (
            {"passes": "insert-delta-caches,insert-thresholds{threshold=0.1}", "threshold": 0.1},
            PassError,
            "twice",
        ),
        ({"backend": "warp"}, BackendError, "no backend 'warp'"),
        ({"nan_policy": "ignore"}, StateError, "nan_policy='ignore' is none of error, recompute"),
        ({"on_resize": "yes"}, StateError, "on_resize='yes' is none of error, replan"),
        ({"kwargs": [1]}, CaptureError, "kwargs is a list"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], kind: type[VideoEffError], message: str) -> None:
    with pytest.raises(kind, match=message):
        videoeff.convert(lively(Plain()), torch.rand(SIZE), **options)


def test_blocks_larger_than_the_frame() -> None:
    model, stream = make(threshold=0.01, block=64, dilation=2)
    frames = list(clip(3))
    stream(frames[0])
    assert (stream(frames[2]) - dense(model, frames[2])).abs().max() < 0.01


def test_strict_names_what_does_not_stream() -> None:
    class Steered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return nn.functional.conv2d(y, self.b.weight * y.mean(), self.b.bias, padding=1)

    model = Steered().eval()
    frame = torch.rand(SIZE)
    with pytest.raises(CaptureError, match=r"does not stream: \w+ \(.*strict=False"):
        videoeff.convert(model, frame, strict=True)
    stream = videoeff.convert(model, frame)
    for frame in clip(3):
        assert_close(stream(frame), dense(model, frame))
    assert stream.report().convolutions_streamed == pytest.approx(3 / 7)


@pytest.mark.parametrize("model", ["resnet18", {"weight": torch.rand(1)}, lambda x: x, None])
def test_models_that_are_none(model: Any) -> None:
    with pytest.raises(CaptureError, match=r"the model is a \w+; give a torch\.nn\.Module"):
        videoeff.convert(model, torch.rand(SIZE))


def test_a_model_that_fixes_a_dtype_inside_is_not_cast() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv((x.to(torch.float64) / 2).to(torch.float32))
            return result

    model, stream = make(Fixed())
    frames = list(clip(3))
    stream(frames[0])
    with pytest.raises(StateError, match=r"Fixed: it cannot be cast.*fixes a dtype inside.*cast the model"):
        stream.to(torch.bfloat16)
    for frame in frames:
        assert_close(stream(frame), dense(model, frame))


def test_an_exported_program_of_another_size() -> None:
    height, width = torch.export.Dim("height", min=8, max=64), torch.export.Dim("width", min=8, max=64)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    free = torch.export.export(model, (torch.rand(SIZE),), dynamic_shapes=({2: height, 3: width},))
    fixed = torch.export.export(model, (torch.rand(SIZE),))
    for exported, size in ((free, (1, 3, 16, 32)), (free, SIZE), (fixed, SIZE)):
        stream = videoeff.convert(exported, torch.rand(size), name="it")
        for frame in clip(3, size):
            assert_close(stream(frame), dense(model, frame))
        assert stream.name == "it"
    for exported, size in ((free, (1, 3, 16, 100)), (fixed, (1, 3, 16, 24)), (free, (1, 4, 20, 24))):
        with pytest.raises(CaptureError, match=r"exported: torch\.export could not trace it: "):
            videoeff.convert(exported, torch.rand(size))


def test_the_module_of_an_exported_program() -> None:
    model = lively(Plain())
    exported = torch.export.export(model, (torch.rand(SIZE),))
    stream = videoeff.convert(exported, torch.rand(SIZE))
    for frame in clip(3):
        assert_close(stream(frame), dense(model, frame))
