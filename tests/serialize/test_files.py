"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.calls import make
from videoeff.errors import (
    ArtifactError,
)
from videoeff.serialize.files import write_atomic, write_text


@pytest.mark.parametrize("what", ["missing folder", "parent is a file", "target is a folder"])
@pytest.mark.parametrize("save", ["save", "save_thresholds"])
def test_outputs_that_cannot_be_written(tmp_path: Path, what: str, save: str) -> None:
    _, stream = make()
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    target = {
        "missing folder": tmp_path / "none" / "out.veff",
        "parent is a file": tmp_path / "file" / "out.veff",
        "target is a folder": tmp_path / "folder",
    }[what]
    with pytest.raises(ArtifactError, match=rf"{target.name}: cannot be written \("):
        getattr(stream, save)(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stream = make()
    path = tmp_path / "stream.veff"
    stream.save(path)
    before = path.read_bytes()

    def fails(_: Any, target: Path, **__: Any) -> None:
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(ArtifactError, match="No space left"):
        stream.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["stream.veff"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(target: Path) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", interrupted)
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert (tmp_path / "a.txt").stat().st_mode & 0o600 == 0o600
