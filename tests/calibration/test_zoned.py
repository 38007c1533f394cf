"""calibrate on a stream with zones: what is ignored is the clip's first frame, for the dense network too."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import videoeff
from videoeff.calibration import calibrate as module
from videoeff.calibration import int8
from videoeff.calibration.calibrate import calibrate
from videoeff.calibration.settings import InputTest
from videoeff.calibration.space import Space
from videoeff.calibration.zoned import frozen
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.video.preprocess import Preprocess
from videoeff.video.zones import Zones

LEFT = Zones.parse(ignore=["0,0 0.5,0 0.5,1 0,1"])


@pytest.fixture(autouse=True)
def few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small space to search, and int8 as it is without packages."""
    small = partial(Space, reaches=(None,), refreshes=(64,), thresholds=(0.0, 0.1), predicts=(0.0,))
    monkeypatch.setattr(module, "Space", small)
    monkeypatch.setattr(module, "INPUTS", (InputTest(), InputTest(6.0, 4, 1)))
    monkeypatch.setattr(module, "NOISY", ())
    monkeypatch.setattr(int8, "missing", lambda: "nncf not installed")


def stream(zones: Zones | None) -> StreamingModule:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    found = videoeff.convert(net, torch.rand(1, 3, 24, 32), zones=zones)
    found.extra["preprocess"] = Preprocess(size=(24, 32)).to_json()
    return found


def clip(total: int = 48) -> list[NDArray[np.uint8]]:
    """Pictures (48, 64, 3): the left half is all new in each, on the right a square moves."""
    generator = np.random.default_rng(0)
    frames = []
    for number in range(total):
        frame = np.full((48, 64, 3), 90, np.uint8)
        frame[:, :32] = generator.integers(0, 256, (48, 32, 3))
        frame[16:28, 34 + number % 18 : 46 + number % 18] = 220
        frames.append(frame)
    return frames


def run(zones: Zones | None, budget: str) -> Mapping[str, Any]:
    return calibrate(stream(zones), clip(), budget, by="work", time_limit=120).record


def test_ignored_pixels_cost_no_fidelity() -> None:
    """With the busy half ignored, a tenth of the work keeps a budget for which it is needed else."""
    plain, zoned = run(None, "error=0.02"), run(LEFT, "error=0.02")
    assert zoned["held"]["figure"]["value"] <= 0.02
    assert zoned["held"]["work"] < 0.5 * plain["held"]["work"]
    exact = next(j for j in zoned["curve"] if j["label"] == "exact")
    assert exact["figure"]["value"] < 1e-5, (
        "the exact stream is the dense network, whichever frame it begins with"
    )
    (note,) = (n for n in zoned["notes"] if n.startswith("zones: "))
    assert "50.0 % of the frame's pixels are ignored" in note
    assert "the clip's first" in note
    assert not any(n.startswith("zones: ") for n in plain["notes"])


def test_int8_and_frame_skipping_see_the_same_frames() -> None:
    record = run(LEFT, "int8")
    assert next(j for j in record["curve"] if j["label"] == "exact")["figure"]["value"] < 1e-5
    int8_error = next(c for c in record["controls"] if c["label"] == "int8, simulated")["figure"]["value"]
    skipping = next(c for c in record["controls"] if c["label"] == "every 2nd frame")["figure"]["value"]
    assert 0 < int8_error < 0.1
    assert 0 < skipping < 0.3, "with the left half in it, all of the frame would be another"


def test_the_stream_given_stays_as_it_is() -> None:
    given = stream(LEFT)
    found = calibrate(given, clip(), "work=0.5", by="work", time_limit=120)
    assert given.zones == found.stream.zones == LEFT
    assert "calibration" not in given.extra


def test_a_frozen_feed() -> None:
    one = stream(LEFT)
    feed = Preprocess(size=(24, 32))
    frames = clip(3)
    fed = frozen(lambda frame: ((feed(frame),), {}), one, frames[0])
    for frame in frames:
        (found,), kwargs = fed(frame)
        assert kwargs == {}
        assert torch.equal(found[..., :16], feed(frames[0])[..., :16])
        assert torch.equal(found[..., 16:], feed(frame)[..., 16:])

    def plain(frame: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (frame,), {}

    assert frozen(plain, stream(None), frames[0]) is plain
