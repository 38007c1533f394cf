"""What decides between two ways of computing an op: data, measured once for a processor.

``videoeff tune`` measures it and writes it to the user's cache folder; without that the shipped table serves.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Costs:
    """The costs of a processor.

    Attributes:
        shares: by kind of op, the share of active pixels from which on it is computed whole; above 1: never.
        winograd: time of a product of minimal filtering, with its share of the transforms, over that of a
            product of a plain convolution.
        path: the file it was read from.
    """

    shares: Mapping[str, float]
    winograd: float
    path: Path

    @property
    def measured(self) -> bool:
        """Whether it was measured on this processor, by ``videoeff tune``."""
        return self.path != SHIPPED

    def to_json(self) -> dict[str, float]:
        """What a table's file holds."""
        return {**self.shares, WINOGRAD: self.winograd}


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
    if set(found) != {*KINDS, WINOGRAD} or not all(_is_cost(v) for v in found.values()):
        return None
    return Costs({k: float(found[k]) for k in KINDS}, float(found[WINOGRAD]), path)


def _is_cost(value: object) -> bool:
    """Whether a value is a finite number above 0."""
    return (
        isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    )
