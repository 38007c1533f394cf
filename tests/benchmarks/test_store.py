"""Results of several runs in one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.store import FORMAT, Store
from videoeff.errors import ArtifactError


def test_a_second_run_adds_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "results" / "cpu.json"
    first = Store(path)
    assert first.started("one", {"cpu": "a"}, {}) == 0
    first.put("synthetic", "a/1x1", {"ms": 1.0, "run": 0})
    second = Store(path)
    assert second.started("two", {"cpu": "b"}, {}) == 1
    assert second.known("synthetic", "a/1x1")
    second.put("synthetic", "b/1x1", {"ms": 2.0, "run": 1})
    document = json.loads(path.read_text())
    assert document["format"] == FORMAT
    assert [r["command"] for r in document["runs"]] == ["one", "two"]
    assert document["sections"]["synthetic"] == {
        "a/1x1": {"ms": 1.0, "run": 0},
        "b/1x1": {"ms": 2.0, "run": 1},
    }


@pytest.mark.parametrize("row", [{"failed": "no package"}, {"ms": 1.0, "partial": True}])
def test_failed_and_partial_rows_are_measured_again(row: dict[str, object]) -> None:
    store = Store(None)
    assert not store.known("synthetic", "a")
    store.put("synthetic", "a", row)
    assert not store.known("synthetic", "a")
    store.put("synthetic", "a", {"ms": 1.0, "partial": False})
    assert store.known("synthetic", "a")


def test_again_measures_known_rows_once(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    Store(path).put("fixed", "a", {"ms": 1.0})
    store = Store(path, again=True)
    assert not store.known("fixed", "a")
    store.put("fixed", "a", {"ms": 2.0})
    assert store.known("fixed", "a")
    assert Store(path).section("fixed")["a"] == {"ms": 2.0}


def test_added_rows_are_written_with_the_next(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    store = Store(path)
    store.add("layers", "a", {"ms": 1.0})
    assert not path.exists()
    store.write()
    assert Store(path).known("layers", "a")


@pytest.mark.parametrize("text", ["", "[]", '{"format": "other"}', "{"])
def test_refuses_another_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"cpu\.json"):
        Store(path)
    assert path.read_text() == text
