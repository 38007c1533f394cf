"""``run --compare`` with metrics and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import call, call_json, refused
from videoeff.calibration import int8

LABELS = [
    "stream", "dense", "every 2nd frame", "every 3rd frame", "every 4th frame", "every 8th frame",
    "noise, σ = 1", "noise, σ = 2", "int8, simulated",
]  # fmt: skip

CODE = """
def peak(outputs, dense):
    return bool(outputs.argmax() == dense.argmax())

def fails(outputs, dense):
    return outputs["boxes"]
"""


@pytest.fixture(autouse=True)
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """int8 is simulated, whatever is installed."""
    monkeypatch.setattr(int8, "missing", lambda: "nncf not installed")


def rows_of(comparison: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in comparison["rows"]}


def test_controls(artifact: Path, clip: Path, tmp_path: Path) -> None:
    outputs, report = tmp_path / "x.npz", tmp_path / "r.json"
    files = ("--outputs", outputs, "--report", report)
    found = call_json("run", artifact, clip, "--compare", "--controls", *files)["comparison"]
    assert found["frames"] == 7
    assert found["metrics"] == [{"name": "relative error", "better": "lower"}]
    rows = rows_of(found)
    assert list(rows) == LABELS
    exact = np.load(outputs)["output_0"].astype(np.float64)  # at threshold 0, what the dense network returns
    for step, label in ((2, "every 2nd frame"), (3, "every 3rd frame")):
        held = exact[[i - i % step for i in range(8)]]
        error = np.linalg.norm((held - exact)[1:]) / np.linalg.norm(exact[1:])
        assert rows[label]["figures"]["relative error"]["value"] == pytest.approx(error, rel=1e-4)
        assert rows[label]["work"]["value"] == pytest.approx(1 / step)
        assert rows[label]["ms"]["value"] == pytest.approx(rows["dense"]["ms"]["value"] / step)
    assert rows["stream"]["figures"]["relative error"]["value"] < 1e-5
    assert rows["stream"]["figures"]["relative error"]["low"] is None  # of too few frames
    assert 0 < rows["stream"]["work"]["value"] < 1
    errors = [rows[k]["figures"]["relative error"]["value"] for k in LABELS[6:]]
    assert 0 < errors[0] < errors[1] < 0.1
    assert 0 < errors[2] < 0.1
    assert rows["every 2nd frame"]["stream_minus"]["relative error"]["value"] < 0
    text = " ".join(found["notes"])
    assert "7 frames after the first" in text
    assert "intervals need 41 frames" in text
    assert "adds a delay that no figure here shows" in text
    assert "calibrated on 8 frame(s) of the clip that are judged too; it is a simulation of our own" in text
    assert "not a runtime (nncf not installed)" in text
    assert "--decoder segmentation" in text
    assert '"comparison"' in report.read_text()


def test_int8_is_calibrated_on_frames_that_are_not_judged(artifact: Path, tmp_path: Path) -> None:
    from videoeff.demo.synth import write_clip

    clip = write_clip(tmp_path / "c.avi", 20, (64, 96))
    found = call_json("run", artifact, clip, "--compare", "--controls", "--frames", 5)["comparison"]
    assert found["frames"] == 4
    note = rows_of(found)["int8, simulated"]["note"]
    assert "calibrated on 5 frame(s) of the clip that are not judged" in note


def test_the_table(artifact: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = call("run", artifact, clip, "--compare", "--controls", "--decoder", "segmentation")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if "mIoU" in line)
    assert "work" in head
    (row,) = (line.split() for line in lines if "every 4th frame" in line)
    assert row[3] == "25.0"
    assert sum(any(label in line for line in lines) for label in LABELS) == len(LABELS)
    assert "note: 7 frames after the first" in result.stdout


def test_label_maps(artifact: Path, clip: Path) -> None:
    options = ("--compare", "--decoder", "segmentation")
    found = call_json("run", artifact, clip, *options)["comparison"]
    rows = rows_of(found)
    assert list(rows) == ["stream", "dense"]
    figures = rows["stream"]["figures"]
    assert list(figures) == ["relative error", "mIoU", "pixel agreement"]
    assert figures["pixel agreement"]["value"] == figures["mIoU"]["value"] == 1
    assert not any("--decoder segmentation" in text for text in found["notes"])


def test_a_metric_of_the_users(artifact: Path, clip: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text(CODE)
    found = call_json("run", artifact, clip, "--compare", "--metric", f"{code}:peak")["comparison"]
    assert [m["name"] for m in found["metrics"]] == ["relative error", "peak"]
    assert rows_of(found)["stream"]["figures"]["peak"]["value"] == 1
    message = refused("run", artifact, clip, "--compare", "--metric", f"{code}:fails")
    assert f"metric fails failed at {code}:6" in message
    assert "no function 'absent'" in refused("run", artifact, clip, "--compare", "--metric", f"{code}:absent")


def test_refused(artifact: Path, clip: Path) -> None:
    for option in (("--controls",), ("--decoder", "none"), ("--metric", "a.py:f")):
        assert "add --compare" in refused("run", artifact, clip, *option)
    assert "decoder 'yolo' is unknown" in refused("run", artifact, clip, "--compare", "--decoder", "yolo")
    message = refused("run", artifact, clip, "--compare", "--decoder", "yolox")
    assert "the decoder yolox expects one tensor (B, 31, 5 + classes) for 32×48 pixels" in message


def test_without_metrics_nothing_is_compared_that_was_not_before(artifact: Path, clip: Path) -> None:
    assert "comparison" not in call_json("run", artifact, clip, "--compare")
