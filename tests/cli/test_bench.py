"""``videoeff bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import REFERENCE, call, refused


def test_bench(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    done = call(
        "bench", REFERENCE, "--input-size", 32, 48, "--threads", 1, "--rounds", 2, "--frames", 2,
        "--peer", "eager", "--share", 0, "--share", 0.25, "--json", file,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert set(found["dense"]) == {"eager"}
    assert [r["label"] for r in found["stream"]] == ["0", "0.25"]
    assert found["parity"]["videoeff"] < 1e-4
    assert found["machine"]["threads"] == 1
    assert found["state_bytes"] > 0
    assert "25 %" in done.output
    assert "eager" in done.output


def test_bench_on_a_clip(tmp_path: Path, clip: Path) -> None:
    file = tmp_path / "bench.json"
    done = call(
        "bench", REFERENCE, clip, "--input-size", 32, 48, "--threads", 1, "--rounds", 1, "--frames", 5,
        "--peer", "eager", "--threshold", 0.1, "--json", file,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text())
    assert found["frames"] == [0, 4]
    assert [r["label"] for r in found["stream"]] == ["0.1"]
    assert found["stream"][0]["spread"]["count"] == 4


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    assert "torchvision has no model" in refused("bench", "torchvision:resnet19")
    assert "no such file" in refused("bench", tmp_path / "absent.pt2")
    assert "no such file" in refused("bench", REFERENCE, tmp_path / "absent.mp4", "--peer", "eager")


def test_help_imports_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "videoeff", "bench", "--help"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert "--peer" in done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "videoeff.cli.main" in loaded
    assert not {"torch", "numpy"} & loaded
