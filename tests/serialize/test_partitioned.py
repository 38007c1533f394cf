"""Artifacts of models captured in parts: they need the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.serialize.artifacts import assert_streams_agree
from tests.support.detectors import CallsAgain, detector
from tests.support.small_nets import (
    Plain,
    Structured,
    clip,
    lively,
)
from videoeff.errors import ArtifactError


def test_parts_need_the_model(tmp_path: Path) -> None:
    model = detector()
    frames = [[frame] for frame in clip(4, (3, 30, 40))]
    stream = videoeff.convert(model, frames[0], threshold=0.05)
    path = tmp_path / "parts.veff"
    stream.save(path)
    with pytest.raises(ArtifactError, match=r"outer code is not in the file.*model=model"):
        videoeff.load(path)
    other = detector()  # of other weights: the file brings its own
    before = {k: v.clone() for k, v in other.state_dict().items()}
    other.train()
    loaded = videoeff.load(path, model=other)
    assert other.training
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), "it was not written into"
    assert loaded.thresholds() == stream.thresholds()
    assert loaded.report().eager == stream.report().eager
    assert loaded.report().convolutions_streamed == stream.report().convolutions_streamed
    assert_streams_agree(stream, loaded, frames)
    for reference in ("os:getcwd", "tests.support.detectors:detector", "detectors.py:detector"):
        stream.extra["model"] = reference
        stream.save(path)
        with pytest.raises(ArtifactError, match=r"not run because a file asks for it.*build it yourself"):
            videoeff.load(path)
        assert_streams_agree(stream, videoeff.load(path, model=detector()), frames[:2])
    with pytest.raises(ArtifactError, match="model is a str; give"):
        videoeff.load(path, model="detector")  # type: ignore[arg-type]
    for wrong in (lively(Plain()), Structured("dict"), nn.Sequential()):
        with pytest.raises(ArtifactError, match="the model given is not the one that was converted"):
            videoeff.load(path, model=wrong)


def test_a_loaded_part_still_serves_calls_of_another_size(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = CallsAgain().eval()
    frame = torch.rand(1, 3, 16, 20) + 0.5
    videoeff.convert(model, frame).save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff", model=CallsAgain())
    with torch.no_grad():
        for shift in (0.0, -0.9, 3.0, 0.0):
            torch.testing.assert_close(loaded(frame + shift), model(frame + shift))


def test_parts_of_a_model_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = videoeff.convert(CallsAgain().eval(), torch.rand(1, 3, 16, 20))
    stream.extra["model"] = "torchvision:calls_again"
    path = tmp_path / "it.veff"
    stream.save(path)
    with pytest.raises(ArtifactError, match=r"it\.veff: torchvision has no model 'calls_again'"):
        videoeff.load(path)
    asked: list[str] = []

    def builds(name: str) -> nn.Module:
        asked.append(name)
        return CallsAgain()

    monkeypatch.setattr("videoeff.serialize.models._torchvision", builds)
    loaded = videoeff.load(path)
    assert asked == ["calls_again"]
    assert_streams_agree(stream, loaded, list(clip(4, (1, 3, 16, 20))))


def test_a_module_under_two_names(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
            self.right = self.left

        def forward(self, x: Tensor) -> Tensor:
            y = self.right(self.left(x))
            result: Tensor = y if float(y.sum()) > 0 else -y
            return result

    stream = videoeff.convert(Shared().eval(), torch.rand(1, 3, 16, 20))
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff", model=Shared())
    assert list(loaded.engines) == ["left#1", "left#2"]
    assert_streams_agree(stream, loaded, list(clip(3, (1, 3, 16, 20))))
    assert [e.counts.frames for e in loaded.engines.values()] == [2, 2]
