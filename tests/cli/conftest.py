"""Checkpoints, clips and an artifact, made once; and a way to call the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tests.support import tiny_models as tiny
from videoeff.cli.main import main
from videoeff.demo.synth import write_clip

REFERENCE = f"{Path(tiny.__file__)}:build"

Call = Callable[..., Result]


def call(*arguments: object) -> Result:
    """Run ``videoeff`` in this process; an error that is none of ours fails the test with its traceback."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def call_json(*arguments: object, status: int = 0) -> dict[str, Any]:
    """Run with ``--json`` and read what it wrote."""
    result = call(*arguments, "--json")
    assert result.exit_code == status, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*arguments: object) -> str:
    """What a refused call says: status 2, one message, no traceback."""
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.stderr


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of the tiny network."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    torch.save(tiny.build().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny network, converted at threshold 0."""
    path = tmp_path_factory.mktemp("artifact") / "tiny.veff"
    result = call("convert", checkpoint, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight frames of 64x96 pixels, without noise."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    return write_clip(path, 8, (64, 96), noise=0.0, illumination=1.0)


@pytest.fixture(scope="session")
def truncated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of 40 frames, cut off half-way."""
    path = tmp_path_factory.mktemp("truncated") / "cut.mp4"
    write_clip(path, 40, (64, 96))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Screens are as wide as in a pipe, whatever the terminal that runs the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)
