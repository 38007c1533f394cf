"""Errors beside times: the arithmetic, and which contenders may differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from videoeff.bench import errors
from videoeff.bench.clip_frames import write_calibration, write_frames
from videoeff.bench.contenders import Contenders
from videoeff.bench.exports import int8_file
from videoeff.bench.figures import compare, summary
from videoeff.bench.spec import Job
from videoeff.bench.tables import dense_rows, error_rows
from videoeff.calibration.sample import MARGIN
from videoeff.errors import BackendError
from videoeff.video.preprocess import Preprocess
from videoeff.video.writer import ClipWriter

FRAMES = [np.array([[3.0, 4.0]]), np.array([[6.0, 8.0]]), np.array([[6.0, 0.0]]), np.array([[0.0, 5.0]])]


class Made(Contenders):
    """Contenders without processes, whose outputs are made up."""

    def __init__(self, factors: dict[str, float]) -> None:
        self.factors, self.failed, self.notes = factors, {}, {}
        self.job = Job("net", "", (8, 8), 1, "", "net")
        self.ready: dict[str, Any] = {kind: Asked() for kind in factors}
        self.note = lambda _: None

    def outputs(self, kind: str, clip: dict[str, Any], frames: int) -> dict[str, Any]:
        factor = self.factors[kind] + self.ready[kind].threshold
        return {f"frame{i}_0": factor * FRAMES[i] for i in range(frames)}


class Asked:
    def __init__(self) -> None:
        self.threshold, self.stopped = 0.0, False

    def ask(self, do: str, **options: float) -> None:
        assert do == "configure"
        self.threshold = options["threshold"]

    def stop(self) -> None:
        self.stopped = True


def test_relative() -> None:
    assert errors.relative([np.array([3.0]), np.array([5.0])], [np.array([0.0]), np.array([4.0])]) == (
        pytest.approx(10**0.5 / 4)
    )
    assert errors.relative([np.array([2.0])], [np.array([0.0])]) == 2


def test_errors_on_a_clip() -> None:
    contenders = Made({"eager": 1.0, "openvino": 1.0, "openvino-int8": 1.1, "videoeff": 1.0})
    streams = {"0.25": {"threshold": 0.25}}
    found = errors.on_clip(contenders, {"file": "clip.npy"}, 4, streams)
    assert found["openvino-int8"] == pytest.approx(0.1)
    assert found["0.25"] == pytest.approx(0.25)
    # Of frames 1 to 3 every second: 1 holds frame 0, 2 is computed, 3 holds frame 2.
    assert found["every 2nd frame"] == pytest.approx((0.5 + 0 + 61**0.5 / 5) / 3)
    assert found["every 4th frame"] == pytest.approx((0.5 + 5 / 6 + 10**0.5 / 5) / 3)
    assert set(found) == {"openvino-int8", "every 2nd frame", "every 4th frame", "0.25"}


def test_what_is_coarse_may_differ_and_what_is_float32_may_not() -> None:
    contenders = Made({"eager": 1.0, "openvino": 1.0, "openvino-int8": 1.1})
    assert contenders.parity({}) == {"openvino": 0.0, "openvino-int8": pytest.approx(0.1)}
    with pytest.raises(BackendError, match=r"openvino by 0\.01"):
        Made({"eager": 1.0, "openvino": 1.01, "openvino-int8": 1.1}).parity({})


def test_coarse_is_not_broken() -> None:
    contenders = Made({"eager": 1.0, "openvino-int8": float("nan")})
    process = contenders.ready["openvino-int8"]
    assert contenders.parity({}) == {}
    assert process.stopped
    assert "not finite" in contenders.failed["openvino-int8"]


def test_rows() -> None:
    dense = {"eager": summary([20.0]), "openvino": summary([10.0]), "openvino-int8": summary([4.0])}
    stream = [{"label": "0.1", **compare(2.5, {"openvino": 10.0}, 0.2, 0.2)}]
    found = {"openvino-int8": 0.031, "every 2nd frame": 0.1, "every 4th frame": 0.2, "0.1": 0.04}
    row = {"dense": dense, "stream": stream, "errors": found, "parity": {"openvino-int8": 0.2}}
    assert stream[0]["best_peer"] == "openvino"
    assert error_rows(row) == [
        ["openvino, float32", "10.0", "0"],
        ["openvino-int8", "4.00", "0.031"],
        ["every 2nd frame of openvino (each 10.0)", "5.00", "0.1"],
        ["every 4th frame of openvino (each 10.0)", "2.50", "0.2"],
        ["videoeff, τ = 0.1", "2.50", "0.04"],
    ]
    assert dense_rows(row)[-1] == ["openvino-int8", "4.00 (4.00–4.00)", "2.0e-01"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 frames whose brightness tells their number."""
    path = tmp_path_factory.mktemp("clip") / "grey.mp4"
    with ClipWriter(path, 25.0, (32, 48)) as writer:
        for index in range(80):
            writer.write(np.full((32, 48, 3), 40 + 2 * index, np.uint8))
    return path


def test_calibration_keeps_away_from_the_measured_frames(clip: Path, tmp_path: Path) -> None:
    target, levels = tmp_path / "c.npy", Preprocess((16, 24), 1.0)
    assert write_calibration(clip, target, levels, 30, 20, most=200) == 80 - 20 - 2 * MARGIN
    numbers = np.round((np.load(target)[:, 1].mean((1, 2)) - 40) / 2).astype(int)
    assert not set(numbers) & set(range(32 - MARGIN, 48 + MARGIN))  # the codec's own error: a frame or two
    assert write_calibration(clip, target, levels, 30, 20, most=8) == 8
    assert len(np.load(target)) == 8
    assert write_calibration(clip, tmp_path / "none.npy", levels, 5, 70) == 0
    assert not (tmp_path / "none.npy").exists()


def test_frames_have_the_models_scale(clip: Path, tmp_path: Path) -> None:
    size = (16, 24)
    assert write_frames(clip, tmp_path / "a.npy", Preprocess(size, bgr=True), 3, 4) == 4
    write_frames(clip, tmp_path / "b.npy", Preprocess(size, 1.0, bgr=True), 3, 4)
    unit, levels = np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")
    assert unit.shape == levels.shape == (4, 3, *size)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(255 * unit, levels, rtol=1e-5)
    assert Preprocess(size=size).scale == 1 / 255


def test_int8(tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs the packages of videoeff[bench]")
    pytest.importorskip("onnx", reason="needs the packages of videoeff[bench]")
    code = tmp_path / "net.py"
    code.write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, 1, 1))\n"
    )
    frames = np.random.default_rng(0).random((6, 3, 32, 48), dtype=np.float32)
    np.save(tmp_path / "frames.npy", frames)
    job = Job(f"{code}:net", "", (32, 48), 1, str(tmp_path / "cache"), "net", str(tmp_path / "frames.npy"))
    path, count = int8_file(job)
    assert count == 6
    assert "FakeQuantize" in path.read_text()
    again, _ = int8_file(job)
    assert again == path
    np.save(tmp_path / "frames.npy", frames[:5])
    other, count = int8_file(job)
    assert count == 5
    assert other != path
