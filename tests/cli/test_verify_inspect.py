"""``videoeff verify`` and ``videoeff inspect``."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import tiny_models as tiny
from videoeff.kernels.call import RegionCall


def test_the_law_holds(artifact: Path, clip: Path) -> None:
    found = call_json("verify", artifact, clip)
    assert found["holds"]
    assert found["exact"]
    assert found["tolerance"] == 1e-4
    assert found["frames"] == 8
    assert found["relative"] < 1e-5
    assert {x["name"] for x in found["layers"]} == set(videoeff.load(artifact).values())
    result = call("verify", artifact, clip, "--worst", 2)
    assert result.exit_code == 0
    assert "Holds: the law of threshold 0" in result.stdout


def test_the_model_itself_is_compared_if_it_is_named(artifact: Path, checkpoint: Path, clip: Path) -> None:
    assert call_json("verify", artifact, clip)["model_relative"] is None
    options = ("verify", artifact, clip, "--frames", 4, "--model", REFERENCE)
    found = call_json(*options, "--weights", checkpoint)
    assert found["holds"]
    assert found["model_relative"] < 1e-5
    assert "the model itself: outputs differ by" in call(*options, "--weights", checkpoint).stdout
    assert "name what builds it" in refused("verify", artifact, "--weights", checkpoint)


def test_another_model_than_the_artifacts_is_told(artifact: Path, clip: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({k: 2 * v for k, v in tiny.build().state_dict().items()}, other)
    options = ("verify", artifact, clip, "--frames", 2, "--model", REFERENCE, "--weights", other)
    found = call_json(*options, status=1)
    assert not found["holds"]
    assert found["relative"] < 1e-5
    assert found["model_relative"] > 1e-3


def test_without_a_clip_one_is_made(artifact: Path) -> None:
    found = call_json("verify", artifact, "--frames", 3)
    assert found["clip"] == "synthetic"
    assert found["frames"] == 3
    assert found["holds"]


def test_float64(tmp_path: Path, clip: Path) -> None:
    source, out = tmp_path / "c.pth", tmp_path / "a.veff"
    torch.save({k: v.double() for k, v in tiny.build().state_dict().items()}, source)
    call_json("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    found = call_json("verify", out, clip)
    assert (found["dtype"], found["tolerance"], found["holds"]) == ("float64", 1e-9, True)


def test_thresholds_have_no_law(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.veff"
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "--threshold", 0.5)
    call_json("convert", checkpoint, *options, "-o", out)
    found = call_json("verify", out, clip)
    assert found["holds"]
    assert found["tolerance"] is None
    assert found["relative"] > 1e-3
    assert found["first_frame_relative"] < 1e-5
    assert found["first_layer_apart"] == "x"  # the frame itself is the first that is held back
    assert "no law bounds the later outputs" in call("verify", out, clip).stdout
    assert call_json("verify", out, clip, "--tolerance", 10.0)["holds"]
    broken = call_json("verify", out, clip, "--tolerance", 1e-3, status=1)
    assert not broken["holds"]
    assert "BROKEN: the tolerance" in call("verify", out, clip, "--tolerance", 1e-3).stdout


def test_a_wrong_kernel_is_found(artifact: Path, clip: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from videoeff.kernels.reference import region

    right = region.commit

    def wrong(call: RegionCall, context, new, old, active) -> None:  # type: ignore[no-untyped-def]
        right(
            call, context, new * 1.01 if "body" in call.name and not context.all_fresh else new, old, active
        )

    monkeypatch.setattr(region, "commit", wrong)
    found = call_json("verify", artifact, clip, "--backend", "reference", status=1)
    assert not found["holds"]
    assert "body" in found["first_layer_apart"]
    assert found["first_frame_relative"] < 1e-5
    text = call("verify", artifact, clip, "--backend", "reference")
    assert text.exit_code == 1
    assert f"first layer apart by more than 0.0001: {found['first_layer_apart']}" in text.stdout


def test_inspect_shows_graph_and_passes(artifact: Path) -> None:
    result = call("inspect", artifact)
    assert result.exit_code == 0
    for words in ("conv2d", "delta_cache", "fold-batchnorm", "insert-delta-caches"):
        assert words in result.stdout
    assert "insert-delta-caches" not in call("inspect", artifact, "--no-passes").stdout
    assert "delta_cache" in call("inspect", artifact, "--text", "--no-passes").stdout
    found = call_json("inspect", artifact)
    assert found["extra"]["input_size"] == list(tiny.SIZE)
    assert [p["name"] for p in found["passes"]] == [
        r.name for r in videoeff.load(artifact).programs[""].history
    ]
    assert found["nodes"]
    assert found["edges"]


def test_inspect_writes_pages(artifact: Path, clip: Path, tmp_path: Path) -> None:
    report, html, explorer = tmp_path / "r.json", tmp_path / "g.html", tmp_path / "g.json"
    call_json("run", artifact, clip, "--report", report)
    files = ("--html", html, "--model-explorer", explorer)
    found = call_json("inspect", artifact, *files, "--activity", report)
    shares = [n["share"] for n in found["nodes"] if n["share"] is not None]
    assert any(0 < s < 1 for s in shares)
    assert "<html" in html.read_text()
    assert [g["id"] for g in json.loads(explorer.read_text())["graphs"]] == ["before", "after"]


def test_inspect_refuses_a_foreign_report(artifact: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    report.write_text("{}")
    assert "has no list of layers" in refused("inspect", artifact, "--activity", report)
    report.write_text('{"layers": [3]}')
    assert "no name or active_share" in refused("inspect", artifact, "--activity", report)
    report.write_text('{"layers": [{"name": "nowhere", "active_share": 0.5}]}')
    assert "nowhere" in refused("inspect", artifact, "--activity", report)


def test_frames_between_are_not_judged(artifact: Path, clip: Path, tmp_path: Path) -> None:
    """An exact stream that looks at every third frame holds the law in the frames it looks at."""
    out = tmp_path / "a.veff"
    videoeff.load(artifact).every(3).audit(1.0, at_most=0.0).save(out)
    found = call_json("verify", out, clip)
    assert (found["frames"], found["held"], found["every"], found["holds"]) == (3, 5, 3, True)
    assert found["relative"] < 1e-5
    result = call("verify", out, clip)
    assert result.exit_code == 0
    assert "5 frame(s) between were not looked at (every=3)" in result.stdout
    assert "Holds: the law of threshold 0" in result.stdout
