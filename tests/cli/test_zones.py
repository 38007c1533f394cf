"""Zones on the command line: convert and run take them, verify and inspect know them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import tiny_models as tiny
from videoeff.demo.synth import write_clip
from videoeff.runtime.zoning import masks_of
from videoeff.video.source import open_clip
from videoeff.video.zones import Zones

LEFT, TOP = "0,0 0.5,0 0.5,1 0,1", "0,0 1,0 1,0.25 0,0.25"
HALF = Zones.parse(ignore=[LEFT])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of which every pixel changes."""
    return write_clip(tmp_path_factory.mktemp("noisy") / "clip.avi", 6, (64, 96), noise=8.0)


@pytest.fixture(scope="module")
def zoned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, exact, with the left half of the frame ignored."""
    path = tmp_path_factory.mktemp("zoned") / "zoned.veff"
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "--ignore", LEFT)
    found = call_json("convert", checkpoint, *options, "-o", path)
    assert any("zones: 50.0 % of the frame's pixels are ignored" in note for note in found["notes"])
    return path


def test_an_artifact_keeps_its_zones(zoned: Path) -> None:
    stream = videoeff.load(zoned)
    assert stream.zones == HALF
    assert stream.report().ignored == 0.5
    found = call_json("inspect", zoned)
    assert "50.0 % of the frame's pixels" in found["summary"]["zones"]
    (cache,) = (n for n in found["nodes"] if n["extra"].get("cache_kind") == "input")
    assert cache["extra"]["watched"] == "50.0 % of the pixels"
    assert "watched='1x32x48:…'" in cache["args"]


def test_comparisons_are_of_what_the_stream_sees(zoned: Path, noisy: Path, tmp_path: Path) -> None:
    """Exact, though the dense network on the whole frames gives something else."""
    report = tmp_path / "r.json"
    found = call_json("run", zoned, noisy, "--compare", "--audit", 1.0, "--report", report)
    assert found["ignored"] == json.loads(report.read_text())["ignored"] == 0.5
    assert found["error"]["max_abs"] < 1e-5
    assert found["audit"]["largest"] < 1e-5
    whole = call_json("run", zoned, noisy, "--compare", "--watch", "0,0 1,0 1,1 0,1")
    assert whole["ignored"] == 0.0
    assert found["macs"]["needed"] < 0.7 * whole["macs"]["needed"]
    text = call("run", zoned, noisy, "--compare", "--frames", 3).stdout
    assert "50.0 % of the frame's pixels are ignored" in text
    assert "compared on the watched pixels; the ignored ones as the stream keeps them" in text


def test_verify_judges_what_the_stream_sees(zoned: Path, checkpoint: Path, noisy: Path) -> None:
    options = ("verify", zoned, noisy, "--model", REFERENCE, "--weights", checkpoint)
    found = call_json(*options)
    assert found["holds"]
    assert found["ignored"] == 0.5
    assert found["relative"] < 1e-5
    assert found["model_relative"] < 1e-5
    assert "compared on the watched pixels" in call(*options, "--frames", 2).stdout


def test_zones_given_to_run_take_the_place_of_the_artifacts(
    artifact: Path, zoned: Path, noisy: Path, tmp_path: Path
) -> None:
    file = tmp_path / "zones.json"
    file.write_text(json.dumps(Zones.parse(ignore=[TOP]).to_json()))
    for source in (artifact, zoned):
        assert call_json("run", source, noisy, "--zones", file)["ignored"] == 0.25
    both = call_json(
        "run", artifact, noisy, "--zones", file, "--ignore", LEFT, "--watch", "0,0,1,0,1,0.5,0,0.5"
    )
    assert both["ignored"] == pytest.approx(1 - 0.5 * 0.25)
    assert call_json("run", artifact, noisy)["ignored"] == 0.0


def test_the_overlay_shows_what_is_ignored(zoned: Path, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "large.avi", 3, (128, 192), noise=0.0, illumination=1.0)
    drawn = {}
    for name, options in {
        "zones": ("--no-heat",),
        "none": ("--no-heat", "--watch", "0,0 1,0 1,1 0,1"),
    }.items():
        overlay = tmp_path / f"{name}.mp4"
        call_json("run", zoned, clip, "-o", overlay, *options)
        drawn[name] = next(iter(open_clip(overlay))).astype(float)[:100]
    with_zones, without = drawn["zones"], drawn["none"]
    assert with_zones[:, :92].mean() < 0.85 * without[:, :92].mean()
    assert np.abs(with_zones[:, 100:] - without[:, 100:]).mean() < 4
    assert call("run", zoned, clip, "-o", tmp_path / "heat.mp4").exit_code == 0


def test_a_letterbox_needs_the_cameras_size(checkpoint: Path, noisy: Path, tmp_path: Path) -> None:
    out, small = tmp_path / "a.veff", tmp_path / "small.avi"
    options = ("convert", checkpoint, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    box = ("--fit", "letterbox", "--ignore", LEFT)
    assert "give --camera-size H W" in refused(*options, *box)
    assert "--camera-size places zones in a letterbox" in refused(*options, "--camera-size", 64, 64)
    assert not out.exists()
    call_json(*options, *box, "--camera-size", 64, 64)  # 32 x 32 of the 32 x 48 show the frame
    (mask,) = masks_of(videoeff.load(out).body).values()
    expected = torch.ones(1, *tiny.SIZE, dtype=torch.bool)
    expected[:, :, 8:24] = False
    assert torch.equal(mask, expected)
    assert call_json("run", out, noisy)["ignored"] == 0.5, "a clip of 64 x 96 fills the input"
    write_clip(small, 3, (64, 64), noise=8.0)
    found = call_json("run", out, small, "--compare")
    assert found["ignored"] == pytest.approx(1 / 3)
    assert found["error"]["max_abs"] < 1e-5
    assert call("run", out, small, "-o", tmp_path / "o.mp4").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ignore", "0,0 1,1"), "ignore polygon 1 has 2 corner(s)"),
        (("--watch", "0,0 320,0 320,240"), "fractions 0..1 of the frame's width and height, not pixels"),
        (("--ignore", "left"), "'left' is no corner x,y"),
        (("--ignore", "0,0 1,0 1,1 0,1"), "nothing is left to watch at 32x48 pixels"),
        (("--zones", "missing.json"), "missing.json: cannot be read"),
        (("--zones", "{"), "is no JSON"),
        (("--zones", '{"mask": []}'), "unknown key(s) mask; known: watch, ignore"),
        (("--zones", '{"ignore": [[[0, 0], [1, 0]]]}'), "zones.json: zones: ignore polygon 1 has 2"),
    ],
)  # fmt: skip
def test_what_is_no_zone_is_refused(
    checkpoint: Path, artifact: Path, noisy: Path, tmp_path: Path, options: tuple[str, str], said: str
) -> None:
    if options[0] == "--zones" and options[1] != "missing.json":
        file = tmp_path / "zones.json"
        file.write_text(options[1])
        options = ("--zones", str(file))
    base = ("convert", checkpoint, "--model", REFERENCE, "--input-size", *tiny.SIZE)
    assert said in refused(*base, "-o", tmp_path / "a.veff", *options)
    assert not (tmp_path / "a.veff").exists()
    assert said in refused("run", artifact, noisy, *options)
