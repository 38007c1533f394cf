"""Frames without a batch dimension stream where the model takes them; what cannot is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import clip
from videoeff.errors import CaptureError
from videoeff.testing import relative_error

CHW = (3, 20, 24)


def hwc(frame: Tensor) -> Tensor:
    return frame.permute(1, 2, 0).contiguous()


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def normalised(s: Any, x: Tensor) -> Any:
    mean = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
    return s.d(torch.relu(s.c((x - mean) / 0.25)))


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Any]]] = {
    "layers": (lambda: nn.Sequential(conv(), nn.ReLU(), conv()), lambda x: x),
    "pooled": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2), nn.ReLU(), conv()), lambda x: x),
    "strided": (lambda: nn.Sequential(nn.Conv2d(3, 5, 3, 2), nn.ConvTranspose2d(5, 3, 2, 2)), lambda x: x),
    "padded": (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(3, 3, 3)), lambda x: x),
    "skip": (lambda: Body(lambda s, x: s.d(torch.relu(s.c(x))) + x), lambda x: x),
    "normalised": (lambda: Body(normalised), lambda x: x),
    "unsqueezed": (lambda: Body(lambda s, x: s.d(s.c(x[None]))[0]), lambda x: x),
    "viewed": (lambda: Body(lambda s, x: s.d(s.c(x.view(1, *x.shape)))), lambda x: x),
    "rows and columns first": (lambda: Body(lambda s, x: s.d(s.c(x.permute(2, 0, 1)[None]))), hwc),
    "bytes": (
        lambda: Body(lambda s, x: s.d(s.c(x.permute(2, 0, 1)[None].to(s.c.weight.dtype) / 255))),
        lambda x: (hwc(x) * 255).to(torch.uint8),
    ),
    "grey": (lambda: Body(lambda s, x: s.d(s.c(x.expand(3, -1, -1)[None]))), lambda x: x[:1]),
    "list of one": (lambda: Body(lambda s, x: s.d(s.c(torch.stack(x)))), lambda x: [x]),
    "list of two": (lambda: Body(lambda s, x: s.d(s.c(torch.stack(x)))), lambda x: [x, x.flip(1)]),
    "sizes differ": (lambda: Body(lambda s, x: [s.d(s.c(v[None])) for v in x]), lambda x: [x, x[:, :9]]),
    "in parts": (lambda: Body(lambda s, x: (lambda y: y[y > 0])(s.d(s.c(x)))), lambda x: x),
    "in parts, unsqueezed": (lambda: Body(lambda s, x: (lambda y: y[y > 0])(s.d(s.c(x[None])))), lambda x: x),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_frame_without_a_batch_streams(name: str) -> None:
    build, given = FORMS[name]
    model = build().double().eval()
    frames = [given(frame) for frame in clip(5, CHW, torch.float64)]
    stream = videoeff.convert(model, frames[0])
    for frame in frames[:4]:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-9
    assert stream.streams == 1
    report = stream.report()
    assert report.frames == 3
    if name != "grey":  # channels spread before the batch is there are computed whole
        assert report.convolutions_streamed == 1.0
        assert report.macs["needed"] < 0.7 * report.macs["dense"]
    assert relative_error(stream(frames[4]), dense(model, frames[4])) < 1e-9


def test_streams_of_a_batch_of_maps() -> None:
    """A batch (B, H, W) that is given a channel is a stream each."""
    model = Body(lambda s, x: s.d(s.c(x[:, None].repeat(1, 3, 1, 1))))
    frames = [f[:, 0] for f in clip(4, (2, 3, 20, 24))]
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-4
    assert stream.streams == 2


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = nn.Sequential(conv(), nn.ReLU(), conv()).eval()
    frames = list(clip(3, CHW))
    stream = videoeff.convert(model, frames[0])
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert loaded.streams == 1
    for frame in frames:
        assert torch.equal(loaded(frame), stream(frame))
    assert loaded.report().convolutions_streamed == 1.0


def test_a_frame_with_a_batch_does_not_fit() -> None:
    stream = videoeff.convert(nn.Sequential(conv()).eval(), torch.rand(CHW))
    with pytest.raises(videoeff.errors.StateError, match=r"4 dimensions.*takes 3.*add or drop the batch"):
        stream(torch.rand(1, *CHW))


@pytest.mark.parametrize("size", [(1, 3, 32), (3, 32)])
def test_signals_are_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(CaptureError, match=r"nothing of it would stream.*give frames as \(B, C, H, W\)"):
        videoeff.convert(nn.Sequential(nn.Conv1d(3, 3, 3)).eval(), torch.rand(size))


def test_volumes_without_a_batch_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"volume without a batch.*\(1, C, D, H, W\)"):
        videoeff.convert(nn.Sequential(nn.Conv3d(3, 3, 3)).eval(), torch.rand(3, 8, 16, 16))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"\[0, 3, 16, 16\], which holds no pixel"):
        videoeff.convert(nn.Sequential(conv()).eval(), torch.rand(0, 3, 16, 16))
