"""``videoeff demo`` and ``videoeff doctor``, and how fast ``--help`` answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import videoeff
from tests.cli.conftest import call, call_json, refused
from videoeff.bench import costs as measuring
from videoeff.cli.commands.doctor import PRODUCTS
from videoeff.kernels.cpp import costs, library
from videoeff.video.source import open_clip

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("convert", "run", "verify", "inspect", "bench", "tune", "demo", "doctor")


def test_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    found = call_json("demo", "--out", out, "--frames", 4)
    assert json.loads((out / "summary.json").read_text()) == found
    exact, lossy = found["settings"]
    assert exact["error"]["max_abs"] < 1e-3
    assert exact["same_label"] > 0.999
    assert abs(exact["miou"]["dense"] - exact["miou"]["stream"]) < 1e-3
    assert exact["miou"]["dense"] > 0.6  # few objects are in sight yet
    assert lossy["macs"]["needed"] < lossy["macs"]["dense"]
    for setting in found["settings"]:
        assert all(Path(name).is_file() for name in setting["files"])
        assert len(list(open_clip(out / f"{setting['setting']}.mp4"))) == 4
        stream = videoeff.load(out / f"{setting['setting']}.veff")
        assert stream.extra["input_size"] == [256, 448]


def test_demo_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "--out" in refused("demo", "--out", tmp_path / "file")


def test_doctor() -> None:
    found = call_json("doctor")
    assert found["videoeff"]
    assert found["packages"]["torch"]
    assert found["cpu"]["cores"] > 0
    names = {b["name"]: b for b in found["backends"]}
    assert names["reference"]["serves"]
    assert all(b["serves"] or b["reason"] for b in found["backends"])
    text = call("doctor").stdout
    assert "backend reference" in text
    assert "C++ compiler" in text
    native = found["native"]
    assert bool(native["path"]) != bool(native["why_none"])
    assert not native["path"] or (native["instruction_sets"][0] == "portable" and native["compiler"])
    assert "native library" in text


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
def test_doctor_says_whose_costs_serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    costs.table.cache_clear()
    assert call_json("doctor")["native"]["tuned"] == ""
    assert "shipped, of another processor" in call("doctor").stdout
    path = measuring.write(costs.table())
    assert call_json("doctor")["native"]["tuned"] == path
    assert "measured here" in call("doctor").stdout
    costs.table.cache_clear()


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
def test_doctor_says_how_numbers_are_multiplied() -> None:
    found = call_json("doctor")["native"]["products"]
    assert found == library.load().products.name.lower()
    assert PRODUCTS[found] in call("doctor").stdout


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
def test_tune_shows_and_keeps_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measuring, "measure", lambda: replace(costs.table(), winograd=1.25))
    said = call("tune").stdout
    assert "of 1.25 plain ones" in said
    assert costs.table().winograd == 1.25
    assert costs.table().measured
    costs.table.cache_clear()


def test_doctor_names_a_missing_native_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDEOEFF_NATIVE", str(tmp_path / "none.so"))
    monkeypatch.setattr(library, "_find", library._find.__wrapped__)  # looks anew
    found = call_json("doctor")["native"]
    assert not found["instruction_sets"]
    assert "none.so is not there" in found["why_none"]


def test_doctor_names_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = call_json("doctor")["compiler"]
    assert not found["version"]
    assert "no-such-compiler" in found["why_none"]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_light_and_quick(command: str) -> None:
    start = [sys.executable, "-X", "importtime", "-m", "videoeff", *command.split(), "--help"]
    took = []
    for _ in range(3):
        begin = os.times()
        done = subprocess.run(start, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        end = os.times()  # the processor's time, which other work on the machine does not lengthen
        used = end.children_user + end.children_system - begin.children_user - begin.children_system
        took.append(used)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "videoeff.cli.main" in loaded
    assert not loaded & {"torch", "numpy", "av", "rich", "networkx"}
    assert min(took) < 0.5
    if command:
        assert "--json" in done.stdout
    else:
        assert all(name in done.stdout for name in COMMANDS)


def test_version() -> None:
    from importlib.metadata import version

    assert version("videoeff") in call("--version").stdout


def test_examples_in_help_keep_their_lines() -> None:
    for command in ((), ("convert",)):
        said = call(*command, "--help").stdout
        assert "\\b" not in said
        assert [line for line in said.splitlines() if line.startswith("  videoeff convert ")]


def test_every_command_says_in_a_line_what_it_does() -> None:
    said = call("--help").stdout.partition("Commands:")[2]
    assert "..." not in said
    assert len(said.split("\n")) >= 8
