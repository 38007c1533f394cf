"""calibrate on a tiny network and a clip in which a square moves over noise."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import videoeff
from videoeff.calibration import calibrate as module
from videoeff.calibration import int8
from videoeff.calibration.calibrate import calibrate
from videoeff.calibration.record import Calibration
from videoeff.calibration.settings import InputTest
from videoeff.calibration.space import Space
from videoeff.calibration.trials import Bench
from videoeff.errors import MetricError, VideoEffError

TOTAL = 48


@pytest.fixture(autouse=True)
def few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small space to search, and int8 as it is without packages, so that tests are quick."""
    small = partial(Space, reaches=(None, 4.0), refreshes=(64,), thresholds=(0.0, 0.05, 0.2), predicts=(0.0,))
    tests = (InputTest(), InputTest(3.0, 4, 1), InputTest(6.0, 4, 1), InputTest(6.0, 4, 0))
    monkeypatch.setattr(module, "Space", small)
    monkeypatch.setattr(module, "INPUTS", tests)
    monkeypatch.setattr(module, "NOISY", ())
    monkeypatch.setattr(int8, "missing", lambda: "nncf not installed")


def network() -> nn.Module:
    """Three convolutions."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(8, 4, 3, padding=1)).eval()


def clip(total: int = TOTAL) -> list[NDArray[np.uint8]]:
    """Pictures (24, 32, 3): a bright square moves; every pixel has a little noise."""
    generator = np.random.default_rng(0)
    frames = []
    for number in range(total):
        frame = np.full((24, 32, 3), 90.0) + generator.normal(0, 0.6, (24, 32, 3))
        frame[8:14, number % 26 : number % 26 + 6] = 220
        frames.append(np.clip(frame.round(), 0, 255).astype(np.uint8))
    return frames


def run(budget: str | float, **options: Any) -> Calibration:
    """Calibrated by work, which does not depend on the machine."""
    return calibrate(network(), clip(), budget, by="work", time_limit=120, **options)


def outputs(stream: videoeff.StreamingModule, frames: list[NDArray[np.uint8]]) -> list[Tensor]:
    """What a calibrated stream gives."""
    stream.reset()
    return [stream(torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255) for f in frames]


def test_an_error_is_kept_on_frames_it_has_not_seen() -> None:
    """Less work than the exact stream, the error within the budget, and all of it on record."""
    found = run("error=0.05")
    assert found.kept
    held = found.record["held"]
    exact = next(j for j in found.record["curve"] if j["label"] == "exact")
    assert held["figure"]["value"] <= 0.05
    assert held["work"] < 0.5 * exact["work"]
    assert found.stream.extra["calibration"] == found.record
    assert found.record["clip"]["frames"] == TOTAL
    assert len(found.record["clip"]["sha256"]) == 64
    assert found.record["controls"][0]["label"] == "every 2nd frame"
    dense, frames = network(), clip()[32:]
    errors = [
        float((ours - theirs).norm() / theirs.norm())
        for ours, theirs in zip(outputs(found.stream, frames), outputs(_exact(dense), frames), strict=True)
    ]
    assert max(errors) < 0.1


def _exact(model: nn.Module) -> videoeff.StreamingModule:
    return videoeff.convert(model, torch.zeros(1, 3, 24, 32))


def test_no_error_is_the_exact_stream() -> None:
    """Nothing else keeps an error of 0; rounding is not held against it."""
    found = run("error=0")
    assert found.kept
    assert found.record["held"]["label"] == "exact"
    assert found.stream.exact


def test_a_cost_is_kept() -> None:
    """The most faithful at a fifth of the work."""
    found = run("work=0.2")
    assert found.kept
    assert found.record["held"]["work"] <= 0.2
    looser = run("work=0.6")
    assert looser.record["held"]["figure"]["value"] <= found.record["held"]["figure"]["value"]


def test_an_impossible_cost_gives_the_exact_stream() -> None:
    """And says so, with the least that was found."""
    found = run("work=0.0001")
    assert not found.kept
    assert found.stream.exact
    assert any("no setting costs as little" in note for note in found.record["notes"])
    assert "NOT kept" in str(found)


def test_an_impossible_figure_gives_the_exact_stream() -> None:
    """A metric that not even the dense network's own outputs satisfy."""
    found = run(2.0, metric=lambda outputs, dense: 1.0)
    assert not found.kept
    assert found.stream.exact
    assert any("not even the exact stream" in note for note in found.record["notes"])


def test_the_search_does_not_touch_what_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has decided, no frame of the last third is streamed or computed."""
    seen: list[tuple[str, int]] = []
    tell = "search"

    def progress(text: str, _: float) -> None:
        nonlocal tell
        tell = "judge" if "held back" in text else tell

    original = Bench.dense

    def dense(self: Bench, block: range) -> list[Any]:
        seen.extend((tell, i) for i in block)
        return original(self, block)

    monkeypatch.setattr(Bench, "dense", dense)
    found = run("error=0.05", progress=progress)
    first = found.record["clip"]["held"][0][0]
    assert first == TOTAL - TOTAL // 3
    assert max(i for when, i in seen if when == "search") < first
    assert min(i for when, i in seen if when == "judge") >= first


def test_a_stream_stays_as_it_was() -> None:
    """A stream that is given is not changed; its own options are not given twice."""
    stream = _exact(network())
    found = calibrate(stream, clip(), "error=0.05", by="work", time_limit=120)
    assert found.stream is not stream
    assert stream.exact
    assert not found.stream.exact
    with pytest.raises(VideoEffError, match="threshold"):
        calibrate(stream, clip(), "error=0.05", threshold=0.1)


def test_int8_is_a_budget() -> None:
    """Its own error is measured on both parts; the stream is no further off."""
    found = run("int8")
    assert found.kept
    label = found.record["controls"][-1]["label"]
    assert label.startswith("int8")
    assert found.record["held"]["figure"]["value"] <= found.record["held_limit"]


def test_noise_is_a_budget() -> None:
    """The error under the measured noise."""
    found = run("noise")
    assert found.kept
    assert any(note.startswith("noise σ") for note in found.record["notes"])


def test_frames_that_are_tensors() -> None:
    """The model's own input serves too, except where grey levels are needed."""
    frames = [torch.from_numpy(f).permute(2, 0, 1)[None].float() / 255 for f in clip()]
    found = calibrate(network(), frames, "error=0.05", by="work", time_limit=120)
    assert found.kept
    with pytest.raises(MetricError, match="uint8 frames"):
        calibrate(network(), frames, "noise", by="work")


def test_the_settings_last(tmp_path: Any) -> None:
    """Saved and loaded, the stream computes the same, and the record is there."""
    found = run("error=0.05")
    path = tmp_path / "net.veff"
    found.stream.save(path)
    again = videoeff.load(path)
    assert again.extra["calibration"]["budget"] == "error=0.05"
    frames = clip()[20:30]
    for ours, theirs in zip(outputs(found.stream, frames), outputs(again, frames), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    again.set_threshold(0.1)  # reads the passes that the calibration noted


def test_unknown_words() -> None:
    """They are refused before anything is read."""
    with pytest.raises(MetricError, match="by="):
        calibrate(network(), [], "int8", by="money")
    with pytest.raises(MetricError, match="int4"):
        calibrate(network(), [], "int4")
