"""From which share of active pixels on an op is computed whole: data, measured once for a processor.

``videoeff tune`` measures it and writes it to the user's cache folder; without that the shipped table serves.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

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


@lru_cache(maxsize=1)
def shares() -> Mapping[str, float]:
    """Shares by kind of op; above 1 means never. A table that cannot be read is as if it were not there."""
    for path in (measured_path(), SHIPPED):
        found = read(path)
        if found is not None:
            return found
    return dict.fromkeys(KINDS, 2.0)


def read(path: Path) -> dict[str, float] | None:
    """A table from a file, None if the file is missing or holds no table."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or set(found) != set(KINDS):
        return None
    numbers = all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in found.values()
    )
    return {k: float(v) for k, v in found.items()} if numbers and min(found.values()) > 0 else None
