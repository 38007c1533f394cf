"""The results as one JSON file that several runs add to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videoeff.errors import ArtifactError
from videoeff.serialize.files import write_text

FORMAT = "videoeff-bench-1"


class Store:
    """Named rows in named sections; every addition is written at once, whole or not at all.

    A row that is already there and holds no ``failed`` or ``partial`` is not measured again unless asked to;
    what one run measures is merged into what earlier ones left.

    Args:
        path: the file, or None to keep the rows in memory.
        again: forget nothing, but count no row as known.

    Raises:
        ArtifactError: the file is there and is not such a document.
    """

    def __init__(self, path: Path | None, again: bool = False) -> None:
        self.path, self.again = path, again
        self.document: dict[str, Any] = {"format": FORMAT, "runs": [], "sections": {}}
        self._new: set[tuple[str, str]] = set()
        if path is not None and path.is_file():
            self.document = read(path)

    def section(self, name: str) -> dict[str, Any]:
        """The rows of a section by key."""
        found: dict[str, Any] = self.document["sections"].setdefault(name, {})
        return found

    def known(self, section: str, key: str) -> bool:
        """Whether the row need not be measured."""
        row = self.section(section).get(key)
        if row is None or "failed" in row or row.get("partial"):
            return False
        return not self.again or (section, key) in self._new

    def put(self, section: str, key: str, row: Mapping[str, Any]) -> None:
        """Add or replace a row and write the file."""
        self.add(section, key, row)
        self.write()

    def add(self, section: str, key: str, row: Mapping[str, Any]) -> None:
        """Add or replace a row; the file is written with the next :meth:`write`."""
        self.section(section)[key] = dict(row)
        self._new.add((section, key))

    def started(self, command: str, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
        """Note a run; returns its number, which rows carry as ``run``."""
        runs: list[dict[str, Any]] = self.document["runs"]
        runs.append({"command": command, "machine": dict(machine), "settings": dict(settings)})
        return len(runs) - 1

    def write(self) -> None:
        """Write the file."""
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.document, indent=1, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A document written earlier.

    Raises:
        ArtifactError: it cannot be read or is none.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as benchmark results ({error}); name another") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{path}: holds no benchmark results of this version; name another file")
    return document
