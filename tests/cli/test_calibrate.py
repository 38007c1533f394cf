"""``videoeff calibrate``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import tiny_models as tiny
from videoeff.calibration import calibrate as module
from videoeff.calibration.settings import InputTest
from videoeff.calibration.space import Space
from videoeff.demo.synth import write_clip


@pytest.fixture(autouse=True)
def few_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small space to search, so that tests are quick."""
    small = partial(Space, reaches=(None, 4.0), refreshes=(64,), thresholds=(0.0, 0.1), predicts=(0.0,))
    monkeypatch.setattr(module, "Space", small)
    monkeypatch.setattr(module, "INPUTS", (InputTest(), InputTest(4.0, 4, 1)))
    monkeypatch.setattr(module, "NOISY", ())


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 40 frames."""
    return write_clip(
        tmp_path_factory.mktemp("longer") / "clip.avi", 40, (64, 96), noise=0.0, illumination=1.0
    )


def test_a_budget_becomes_an_artifact(checkpoint: Path, longer: Path, tmp_path: Path) -> None:
    """The artifact, the picture and the record; inspect shows what was found, and its page the curve."""
    made, picture, report = tmp_path / "a.veff", tmp_path / "a.png", tmp_path / "a.json"
    options = ("--budget", "error=0.2", "--by", "work", "-o", made, "--picture", picture, "--report", report)
    found = call("calibrate", checkpoint, longer, "--model", REFERENCE, "--input-size", *tiny.SIZE, *options)
    assert found.exit_code == 0, found.output
    assert "held back" in found.output
    record = videoeff.load(made).extra["calibration"]
    assert record["budget"] == "error=0.2"
    assert record["held"]["figure"]["value"] <= 0.2
    assert json.loads(report.read_text())["clip"]["sha256"] == record["clip"]["sha256"]
    assert picture.stat().st_size > 1000
    page = tmp_path / "a.html"
    shown = call("inspect", made, "--html", page)
    assert "budget error=0.2" in shown.output
    assert "<svg" in page.read_text()


def test_a_budget_that_cannot_be_kept(artifact: Path, longer: Path, tmp_path: Path) -> None:
    """Status 1, a sentence, and the exact stream; an artifact has its own preprocessing."""
    made = tmp_path / "b.veff"
    options = ("--budget", "work=0.00001", "--by", "work", "-o", made)
    found = call_json("calibrate", artifact, longer, *options, status=1)
    assert found["kept"] is False
    assert videoeff.load(made).exact
    message = refused("calibrate", artifact, longer, "--bgr")
    assert "leave them out" in message


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--budget", "int4"), "int4"),
        (("--budget", "0.9"), "budget"),
        (("--metric", "none.py:x"), "none.py"),
        (("--picture", "x.gif"), "--picture"),
        (("-o", "missing/x.veff"), "-o"),
    ],
)
def test_refused_before_anything_is_read(
    artifact: Path, clip: Path, options: tuple[str, ...], said: str
) -> None:
    """One message that names it."""
    assert said in refused("calibrate", artifact, clip, *options)


def test_a_clip_that_is_too_short(artifact: Path, clip: Path) -> None:
    """Eight frames are not enough."""
    assert "at least 12" in refused("calibrate", artifact, clip, "--budget", "error=0.1")


def test_an_interrupted_search_leaves_no_file(
    artifact: Path, longer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle: status 1, nothing written."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("videoeff.calibration.search.Search.candidates", interrupted)
    found = call("calibrate", artifact, longer, "--budget", "error=0.1", "-o", tmp_path / "c.veff")
    assert found.exit_code == 1
    assert "no file was written" in found.output
    assert list(tmp_path.iterdir()) == []
