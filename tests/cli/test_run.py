"""``videoeff run``: figures, files, and clips that end early."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import videoeff
from tests.cli.conftest import REFERENCE, call, call_json, refused
from tests.support import tiny_models as tiny
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

DRAW = """
import numpy as np

def red(frame, outputs):
    assert outputs.shape[1] == 5
    frame[:4, :4] = (255, 0, 0)
    return frame

def fails(frame, outputs):
    missing = {}
    return missing["boxes"]

def wrong(frame, outputs):
    return frame[:2]

def interrupts(frame, outputs, seen=[]):
    seen.append(1)
    if len(seen) == 4:
        raise KeyboardInterrupt
    return frame
"""


def expected_outputs(artifact: Path, clip: Path) -> np.ndarray:
    pre = Preprocess.from_json(videoeff.load(artifact).extra["preprocess"])
    model = tiny.build()
    with torch.no_grad():
        return np.stack([model(pre(frame)).numpy() for frame in open_clip(clip)])


def test_figures_and_files(artifact: Path, clip: Path, tmp_path: Path) -> None:
    overlay, outputs, report = tmp_path / "o.mp4", tmp_path / "x.npz", tmp_path / "r.json"
    files = ("-o", overlay, "--outputs", outputs, "--report", report)
    found = call_json("run", artifact, clip, "--compare", *files)
    assert json.loads(report.read_text()) == found
    assert found["frames"] == 8
    assert 0 < found["active_share"] < 1
    macs = found["macs"]
    assert macs["dense"] >= macs["scheduled"] >= macs["needed"] > 0
    assert found["ms"]["stream_median"] > 0
    assert found["ms"]["dense_median"] > 0
    assert found["error"]["max_abs"] < 1e-5
    assert found["error"]["relative_l2"] < 1e-5
    assert found["state_bytes"] == videoeff.load(artifact).report().state_bytes
    assert found["stopped"] is None
    assert found["decoder"].startswith("pyav ")
    np.testing.assert_allclose(np.load(outputs)["output_0"], expected_outputs(artifact, clip), atol=1e-5)
    with open_clip(overlay) as drawn:
        assert drawn.size == (64, 96)
        assert len(list(drawn)) == 8


def test_frames_threshold_and_a_summary_for_people(artifact: Path, clip: Path) -> None:
    result = call("run", artifact, clip, "--frames", 3, "--compare", "--threshold", 0.5)
    assert result.exit_code == 0
    for words in ("3, 1 stream(s)", "MACs a frame", "relative L2", "median time", "state"):
        assert words in result.stdout
    exact = call_json("run", artifact, clip)
    lossy = call_json("run", artifact, clip, "--threshold", 0.5)
    assert lossy["macs"]["needed"] < exact["macs"]["needed"]
    assert exact["error"] is None
    assert exact["ms"]["dense_median"] is None


def test_one_frame_has_no_figures_of_later_ones(artifact: Path, clip: Path) -> None:
    found = call_json("run", artifact, clip, "--frames", 1, "--compare")
    assert found["frames"] == 1
    assert found["active_share"] is None
    assert found["macs"]["needed"] is None
    assert found["ms"]["stream_median"] is None
    assert found["ms"]["stream_first"] > 0
    assert found["error"]["max_abs"] < 1e-5


def test_folder_of_images(artifact: Path, clip: Path, tmp_path: Path) -> None:
    for index, frame in enumerate(open_clip(clip)):
        Image.fromarray(frame).save(tmp_path / f"{index}.png")
    found = call_json("run", artifact, tmp_path)
    assert found["frames"] == 8
    assert found["decoder"].startswith("pillow")


def test_two_streams_see_the_same_clip(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    out, outputs = tmp_path / "a.veff", tmp_path / "x.npz"
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "--streams", 2)
    call_json("convert", checkpoint, *options, "-o", out)
    assert call_json("run", out, clip, "--outputs", outputs)["streams"] == 2
    kept = np.load(outputs)["output_0"]
    assert kept.shape[:2] == (8, 2)
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])


def test_half_precision_weights(clip: Path, tmp_path: Path) -> None:
    source, out, outputs = tmp_path / "b.pth", tmp_path / "a.veff", tmp_path / "x.npz"
    torch.save({k: v.bfloat16() for k, v in tiny.build().state_dict().items()}, source)
    call_json("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    found = call_json("run", out, clip, "--frames", 3, "--compare", "--outputs", outputs)
    assert found["error"]["relative_l2"] < 0.02
    assert np.load(outputs)["output_0"].dtype == np.float32
    assert call_json("verify", out, clip, "--frames", 3)["dtype"] == "float32"  # a CPU is slow in half


def test_a_model_in_parts(clip: Path, tmp_path: Path) -> None:
    source, out, outputs = tmp_path / "d.pth", tmp_path / "a.veff", tmp_path / "x.npz"
    reference = f"{tiny.__file__}:build_detector"
    torch.save(tiny.build_detector().state_dict(), source)
    options = ("--model", reference, "--input-size", *tiny.SIZE)
    found = call_json("convert", source, *options, "-o", out)
    assert found["eager"]
    assert "--model REF" in refused("run", out, clip)
    files = ("--outputs", outputs, "-o", tmp_path / "o.mp4")
    found = call_json("run", out, clip, "--model", reference, "--compare", *files)
    assert found["ms"]["dense_median"] > 0
    assert found["error"] == {"max_abs": 0.0, "relative_l2": 0.0, "frames_with_other_shapes": 0}
    with np.load(outputs) as kept:  # as many boxes as pixels are bright: an array a frame
        assert set(kept) == {f"output_0_frame_{index:05}" for index in range(8)}
    found = call_json("verify", out, clip, "--model", reference, "--frames", 4)
    assert (found["holds"], found["judged_by"]) == (True, "layers")
    assert 0 < max(x["relative"] for x in found["layers"]) < 1e-4
    strict = ("--model", reference, "--frames", 4, "--tolerance", 0)
    assert not call_json("verify", out, clip, *strict, status=1)["holds"]
    assert call("inspect", out, "--model", reference).exit_code == 0


def test_drawing(artifact: Path, clip: Path, tmp_path: Path) -> None:
    code, overlay = tmp_path / "draw.py", tmp_path / "o.mp4"
    code.write_text(DRAW)
    assert call("run", artifact, clip, "-o", overlay, "--draw", f"{code}:red").exit_code == 0
    first = next(iter(open_clip(overlay)))
    assert first[1, 1, 0] > 180
    assert first[1, 1, 1] < 90
    overlay.unlink()
    message = refused("run", artifact, clip, "-o", overlay, "--draw", f"{code}:fails")
    assert f"{code}:11: KeyError: 'boxes'" in message
    assert "must return the frame" in refused("run", artifact, clip, "-o", overlay, "--draw", f"{code}:wrong")
    assert "no function 'blue'" in refused("run", artifact, clip, "-o", overlay, "--draw", f"{code}:blue")
    assert "no file" in refused("run", artifact, clip, "-o", overlay, "--draw", "nothing.py:f")
    assert "file.py:function" in refused("run", artifact, clip, "-o", overlay, "--draw", "f")
    code.write_text("x = 1\ny = = 2\n")
    assert f"{code}:2: SyntaxError" in refused("run", artifact, clip, "-o", overlay, "--draw", f"{code}:f")
    assert "-o OVERLAY.mp4" in refused("run", artifact, clip, "--draw", f"{code}:red")
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".py" and p.is_file()] == []


def test_truncated_clip_keeps_what_came(artifact: Path, truncated: Path, tmp_path: Path) -> None:
    overlay, outputs, report = tmp_path / "o.mp4", tmp_path / "x.npz", tmp_path / "r.json"
    files = ("-o", overlay, "--outputs", outputs, "--report", report)
    result = call("run", artifact, truncated, *files)
    assert result.exit_code == 1
    assert "ends early" in result.stderr
    found = json.loads(report.read_text())
    assert 2 < found["frames"] < 40
    assert "ends early" in found["stopped"]
    assert len(np.load(outputs)["output_0"]) == found["frames"]
    assert len(list(open_clip(overlay))) == found["frames"]
    verified = call_json("verify", artifact, truncated, "--frames", 40, status=1)
    assert verified["holds"]
    assert "ends early" in verified["stopped"]


def test_interrupted_keeps_what_came(artifact: Path, clip: Path, tmp_path: Path) -> None:
    code, overlay, report = tmp_path / "draw.py", tmp_path / "o.mp4", tmp_path / "r.json"
    code.write_text(DRAW)
    draw = ("--draw", f"{code}:interrupts", "-o", overlay, "--report", report)
    result = call("run", artifact, clip, *draw)
    assert result.exit_code == 1
    assert "interrupted after 3 frame(s)" in result.stderr
    assert json.loads(report.read_text())["frames"] == 3
    assert len(list(open_clip(overlay))) == 3


def test_ctrl_c(artifact: Path, clip: Path, tmp_path: Path) -> None:
    code, started, report = tmp_path / "slow.py", tmp_path / "started", tmp_path / "r.json"
    code.write_text(
        "import pathlib, time\n\ndef slow(frame, outputs):\n"
        f"    pathlib.Path({str(started)!r}).touch()\n    time.sleep(0.5)\n    return frame\n"
    )
    options = ["-o", str(tmp_path / "o.mp4"), "--draw", f"{code}:slow", "--report", str(report)]
    command = [sys.executable, "-m", "videoeff", "run", str(artifact), str(clip), *options]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        command,
        cwd=root,
        stderr=subprocess.PIPE,
        text=True,
        # A test run started in the background hands on an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 60
        while not started.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1, message
    assert "interrupted after" in message
    assert "Traceback" not in message
    assert json.loads(report.read_text())["frames"] < 8


def test_still_camera_needs_nothing(artifact: Path, clip: Path, tmp_path: Path) -> None:
    Image.fromarray(next(iter(open_clip(clip)))).save(tmp_path / "0.png")
    for index in range(1, 4):
        shutil.copy(tmp_path / "0.png", tmp_path / f"{index}.png")
    found = call_json("run", artifact, tmp_path, "--compare")
    assert found["macs"]["needed"] == 0
    assert found["active_share"] == 0


def test_every_nth_frame_and_audits(artifact: Path, clip: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    options = ("--every", 3, "--audit", 0.5, "--compare", "--report", report)
    found = call_json("run", artifact, clip, *options)
    assert json.loads(report.read_text()) == found
    assert (found["frames"], found["every"], found["held"]) == (8, 3, 5)
    assert found["macs_handed_out"]["needed"] == found["macs"]["needed"] * 2 / 7
    assert min(found["ms"]["stream_mean"], found["ms"]["stream_median"]) > 0
    audit = found["audit"]
    assert audit["frames"] == 8
    assert audit["count"] == len(audit["records"]) == 4
    assert audit["records"] == call_json("run", artifact, clip, *options)["audit"]["records"]
    held = [r["value"] for r in audit["records"] if r["held"]]
    looked = [r["value"] for r in audit["records"] if not r["held"]]
    assert held
    assert max(looked, default=0.0) < 1e-5 < min(held), "the stream is exact in the frames it looks at"
    assert found["error"]["max_abs"] > 1e-3, "the error is that of all frames handed out"
    text = call("run", artifact, clip, *options).stdout
    for words in ("3 looked at, 5 between (every=3)", "MACs a frame handed out", "frames between included"):
        assert words in text
    assert "audits (relative error): 4 of 8" in text


def test_a_budget_for_audits(artifact: Path, clip: Path) -> None:
    options = ("run", artifact, clip, "--every", 4, "--audit", 1.0)
    kept = call(*options, "--audit-budget", 100.0)
    assert "drift" not in kept.stderr
    left = call(*options, "--audit-budget", 1e-6)
    assert left.exit_code == 0
    assert left.stderr.count("note: drift: frame ") == 1
    assert "--audit SHARE" in refused("run", artifact, clip, "--audit-budget", 0.1)


def test_what_an_artifact_says_of_its_frames(checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.veff"
    options = ("--model", REFERENCE, "--input-size", *tiny.SIZE, "--every", 4, "--audit", 0.5)
    call_json("convert", checkpoint, *options, "-o", out)
    found = call_json("run", out, clip)
    assert (found["held"], found["audit"]["count"]) == (6, 4)
    other = call_json("run", out, clip, "--every", 1, "--audit", 0)
    assert (other["held"], other["audit"]) == (0, None)


def test_a_clip_has_idle_time(artifact: Path, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.veff"
    videoeff.load(artifact).audit(0.5, at_most=1.0, idle=True).save(out)
    found = call_json("run", out, clip)["audit"]
    assert (found["count"], found["missed"], found["at_most"]) == (4, 0, 1.0)
