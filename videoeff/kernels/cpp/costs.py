"""What decides between two ways of computing an op: data, measured once for a processor.

The first use on a processor (:mod:`videoeff.kernels.cpp.first_use`) or ``videoeff tune`` measures it and
writes it to the user's cache folder; where neither did the shipped table serves.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from videoeff.errors import BackendError

SHIPPED = Path(__file__).with_name("costs.json")

#: What the table tells apart.
KINDS = (
    "pointwise", "convolution", "convolution-1x1", "depthwise", "pooling", "resampling", "transposed",
)  # fmt: skip


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def measured_path() -> Path:
    """Where this processor's own table lies once it was measured."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = Path(root) if root else Path.home() / ".cache"
    key = hashlib.sha256(processor().encode()).hexdigest()[:12]
    return folder / "videoeff" / f"costs-{key}.json"


#: In a table's file, what stands beside the kinds.
WINOGRAD = "winograd"

#: Words that a table's file may hold: which processor it is of, what measured it and on which day.
NOTES = ("processor", "by", "date")

#: What measures tables.
FIRST_USE, TUNE = "first use", "tune"


@dataclass(frozen=True)
class Costs:
    """The costs of a processor.

    Attributes:
        shares: by kind of op, the share of active pixels from which on it is computed whole; above 1: never.
        winograd: time of a product of minimal filtering, with its share of the transforms, over that of a
            product of a plain convolution.
        path: the file it was read from.
        notes: the words of :data:`NOTES` that are known of it.
    """

    shares: Mapping[str, float]
    winograd: float
    path: Path
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether it was measured on this processor, by its first use or by ``videoeff tune``."""
        return self.path != SHIPPED

    @property
    def fits(self) -> bool:
        """Whether it is of this processor: measured here, or shipped for it."""
        return self.measured or self.notes.get("processor") == processor()

    def to_json(self) -> dict[str, float]:
        """The costs, without notes."""
        return {**self.shares, WINOGRAD: self.winograd}


def keep(found: Costs, by: str) -> Costs:
    """Write a table for this processor, whole or not at all; it serves from now on.

    Args:
        found: the costs; its path and notes are left out.
        by: what measured it, :data:`FIRST_USE` or :data:`TUNE`.

    Raises:
        OSError: the cache folder cannot be written.
    """
    path = measured_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {"processor": processor(), "by": by, "date": datetime.date.today().isoformat()}
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps({**notes, **found.to_json()}, indent=1) + "\n")
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    table.cache_clear()
    return replace(found, path=path, notes=notes)


@lru_cache(maxsize=1)
def table() -> Costs:
    """The table that serves here. A measured one that cannot be read is as if it were not there."""
    shipped = read(SHIPPED)
    if shipped is None:
        raise BackendError(f"{SHIPPED.name} of the native kernels cannot be read; install videoeff again")
    return read(measured_path(), shipped.winograd) or shipped


def read(path: Path, winograd: float | None = None) -> Costs | None:
    """A table from a file, None if the file is missing or holds no table.

    Args:
        path: the file.
        winograd: its cost of minimal filtering where the file has none, as those of version 0.1.0.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    if winograd is not None:
        found.setdefault(WINOGRAD, winograd)
    notes = {key: str(found.pop(key)) for key in NOTES if key in found}
    if set(found) != {*KINDS, WINOGRAD} or not all(_is_cost(v) for v in found.values()):
        return None
    return Costs({k: float(found[k]) for k in KINDS}, float(found[WINOGRAD]), path, notes)


def _is_cost(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )
