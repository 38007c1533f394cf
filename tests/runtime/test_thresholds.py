"""Thresholds of a running stream: set everywhere, by name, and from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    SIZE,
    Gated,
    Plain,
    Structured,
    clip,
    lively,
)
from videoeff.errors import ArtifactError, StateError


def test_set_threshold_everywhere_by_name_and_by_pattern() -> None:
    _, stream = make(Gated())
    assert set(stream.thresholds().values()) == {0.0}
    stream.set_threshold(0.2)
    after = stream.thresholds()
    assert after["a"] == after["x"] == 0.2
    assert make(Structured("tensor"), threshold=0.2)[1].thresholds()["b"] == 0.0, "an output is not held back"
    stream.set_threshold(0.05, "left")
    assert stream.thresholds()["left"] == 0.05
    assert stream.thresholds()["right"] == 0.2
    stream.set_threshold(0.0, "*e*")
    assert stream.thresholds()["left"] == 0.0
    stream.set_thresholds({"a": 0.3, "last": 0.1})
    assert stream.thresholds()["a"] == 0.3
    assert stream.thresholds()["last"] == 0.1
    shown = {x.name: x.threshold for x in stream.report().layers}
    assert shown["a"] == 0.3


def test_setting_thresholds_keeps_the_state() -> None:
    model, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    before = {k: v.clone() for k, v in stream.values().items()}
    stream.set_threshold(1e6)
    for name, value in stream.values().items():
        assert torch.equal(value, before[name])
    assert_same(stream(frames[3]), dense(model, frames[0]))  # nothing moves that far
    stream.set_threshold(0.0)
    assert_same(stream(frames[3]), dense(model, frames[3]))  # and nothing was lost


def test_a_threshold_set_later_is_the_one_given_at_conversion() -> None:
    model = lively(Gated())
    options: dict[str, Any] = {"block": 4, "dilation": 1, "predict": 1.0}
    early = videoeff.convert(model, torch.rand(SIZE), threshold=0.1, **options)
    late = videoeff.convert(model, torch.rand(SIZE), threshold=0.0, **options)
    late.set_threshold(0.1)
    again = videoeff.convert(model, torch.rand(SIZE), threshold=0.4, **options)
    again.set_threshold(0.1)
    for frame in clip(5):
        expected = early(frame)
        assert_same(late(frame), expected, 0.0)
        assert_same(again(frame), expected, 0.0)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), "0.1", None, True, torch.tensor(0.1)])
def test_impossible_thresholds(wrong: Any) -> None:
    _, stream = make(Plain())
    before = stream.thresholds()
    calls: list[Callable[[], None]] = [
        lambda: stream.set_threshold(wrong),
        lambda: stream.set_threshold(wrong, "first"),
        lambda: stream.set_thresholds({"first": 0.5, "x": wrong}),
    ]
    for call in calls:
        with pytest.raises(StateError, match="finite number"):
            call()
    assert stream.thresholds() == before


def test_unknown_layers() -> None:
    _, stream = make(Plain())
    with pytest.raises(StateError, match="no layer matches 'nothing"):
        stream.set_threshold(0.1, "nothing.*")
    with pytest.raises(StateError, match=r"no such layer: frist"):
        stream.set_thresholds({"first": 0.1, "frist": 0.1})
    assert stream.thresholds()["first"] == 0.0


def test_thresholds_as_json(tmp_path: Path) -> None:
    _, stream = make(Gated(), threshold=0.1)
    stream.set_threshold(0.25, "left")
    path = tmp_path / "thresholds.json"
    stream.save_thresholds(path)
    _, other = make(Gated())
    other.load_thresholds(path)
    assert other.thresholds() == stream.thresholds()
    for frame in clip(3):
        assert other(frame)[0].shape == stream(frame)[0].shape
    known = json.loads(path.read_text())
    for edit, message in (
        ({**known, "extra": 0.1}, "no such layer: extra"),
        ({k: v for k, v in known.items() if k != "left"}, r"1 layer\(s\) have no threshold: left"),
        ({**known, "left": -1}, "threshold of left"),
        ({**known, "left": "a"}, "threshold of left"),
        ({**known, "left": float("nan")}, "threshold of left"),
    ):
        path.write_text(json.dumps(edit))
        with pytest.raises(StateError, match=message):
            other.load_thresholds(path)
    assert other.thresholds() == stream.thresholds()
    for text in ("[1, 2]", "no json", ""):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=str(path)):
            other.load_thresholds(path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        other.load_thresholds(tmp_path / "absent.json")


def test_whole_number_frames_do_not_wrap_around() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(x.to(torch.float32) / 255)
            return result

    model = Bytes().eval()
    frame = torch.randint(0, 200, SIZE, dtype=torch.uint8)
    stream = videoeff.convert(model, frame, threshold=0.5)
    stream(frame)
    frame = frame.clone()
    frame[..., 4:8, 4:8] = 255 - frame[..., 4:8, 4:8] // 8
    frame[..., 12:14, 4:8] = 0
    stream(frame)
    assert_same(stream.values()["x"][..., 4:8, 4:8], frame[..., 4:8, 4:8])
