"""``videoeff bench``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.cli.conftest import REFERENCE, call, refused
from videoeff.bench.spec import CLIP_INPUT
from videoeff.video.preprocess import Preprocess


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


def timed(folder: Path, *arguments: object) -> dict[str, Any]:
    """The figures of a short run."""
    file = folder / "bench.json"
    short = ("--threads", 1, "--rounds", 1, "--frames", 4, "--peer", "eager", "--json", file)
    done = call("bench", *arguments, *short)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def grey_export(folder: Path) -> Path:
    """A network that takes one channel of whole grey levels at one size."""
    torch.manual_seed(0)
    path, example = folder / "grey.pt2", torch.zeros(1, 1, 32, 48, dtype=torch.uint8)
    torch.export.save(torch.export.export(Grey().eval(), (example,)), path)
    return path


class Grey(nn.Module):
    """(B, 1, H, W) of whole grey levels to (B, 2, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Two convolutions."""
        found: Tensor = self.b(torch.relu(self.a(x.to(torch.float32) / 255)))
        return found


def test_a_model_is_timed_on_what_it_takes(tmp_path: Path, clip: Path) -> None:
    """A file says its size, channels and number format; each was a failure once, or black frames."""
    source = grey_export(tmp_path)
    for found in (timed(tmp_path, source, clip, "--threshold", 0), timed(tmp_path, source, "--share", 0.25)):
        assert found["size"] == [32, 48]
        look = Preprocess.from_json(found["preprocess"])
        assert (look.channels, look.dtype, look.scale) == (1, "uint8", 1)
        assert found["parity"]["videoeff"] < 1e-4
        assert 0 < found["stream"][0]["needed_share"] < 1


def test_the_preprocessing_is_that_of_convert(tmp_path: Path, clip: Path) -> None:
    options = (
        "--mean",
        10,
        20,
        30,
        "--std",
        50,
        60,
        70,
        "--scale",
        1,
        "--bgr",
        "--fit",
        "letterbox",
        "--pad",
        3,
    )
    found = timed(tmp_path, REFERENCE, clip, "--input-size", 32, 32, "--threshold", 0.1, *options)
    expected = Preprocess((32, 32), 1.0, (10.0, 20.0, 30.0), (50.0, 60.0, 70.0), True, fit="letterbox", pad=3)
    assert Preprocess.from_json(found["preprocess"]) == expected


def test_the_input_test_is_the_one_asked_for(tmp_path: Path, clip: Path) -> None:
    base = (REFERENCE, clip, "--input-size", 32, 48, "--threshold", 0.1)
    usual, wide = timed(tmp_path, *base), timed(tmp_path, *base, "--block", 4, "--dilation", 3)
    deaf = timed(tmp_path, *base, "--input-threshold", 1000)
    assert usual["settings"]["input_test"] is None
    expected = {"input_threshold": 0.0625, "block": 4, "dilation": 3}
    assert wide["settings"]["input_test"] == expected
    assert deaf["settings"]["input_test"] == {**CLIP_INPUT, "input_threshold": 1000.0}
    needed = [found["stream"][0]["needed_share"] for found in (deaf, usual, wide)]
    assert needed[0] == 0
    assert 0 < needed[1] < needed[2]


def test_doubtful_values_are_named(tmp_path: Path, clip: Path) -> None:
    options = ("--threads", 1, "--rounds", 1, "--frames", 2, "--peer", "eager", "--threshold", 0.1)
    done = call("bench", REFERENCE, clip, "--input-size", 32, 48, "--mean", 120, 120, 120, *options)
    assert "lies outside the scaled grey levels" in done.stderr
    words = refused("bench", REFERENCE, clip, "--input-size", 32, 48, "--scale", 1e-60, *options)
    assert "every value of frame 0 becomes 0" in words


def test_what_a_file_cannot_take_is_refused(tmp_path: Path, clip: Path) -> None:
    source = grey_export(tmp_path)
    assert "was exported for 32x48 alone" in refused("bench", source, "--input-size", 64, 64)
    assert "--channels 3: the exported program takes 1" in refused("bench", source, clip, "--channels", 3)
    assert "give scale=1" in refused("bench", source, clip, "--scale", 0.5)
    assert "are for a CLIP" in refused("bench", source, "--block", 8)
    double = torch.export.export(nn.Conv2d(3, 3, 1).double(), (torch.zeros(1, 3, 8, 8, dtype=torch.double),))
    torch.export.save(double, tmp_path / "double.pt2")
    assert "takes float64; dense runtimes are compared in float32" in refused(
        "bench", tmp_path / "double.pt2"
    )


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


def test_streams_that_skip_frames(tmp_path: Path, clip: Path) -> None:
    found = timed(
        tmp_path, REFERENCE, clip, "--input-size", 32, 48, "--threshold", 0, "--every", 1, "--every", 3
    )
    every, third = found["stream"]
    assert [every["label"], third["label"]] == ["0", "0, every 3rd frame"]
    assert (every["spread"]["count"], third["spread"]["count"]) == (3, 1)
    assert 0 < third["needed_share"] < every["needed_share"]
    assert found["errors"]["0"] < 1e-4 < found["errors"]["0, every 3rd frame"]
    assert found["errors"]["0, every 3rd frame"] > 0.5 * found["errors"]["every 2nd frame"]
    assert "--every is for a CLIP" in refused("bench", REFERENCE, "--every", 2)
