"""Tables of sizes as data: for a device and a kind of kernel, rules of which the first that fits serves.

A table is JSON::

    {"sm_90": {"convolution": [{"when": {"outputs": [65, null], "bytes": 2}, "use": {"BM": 64, "BN": 128}}]}}

- devices: a device's full name, a compute capability (``sm_90``), or ``default``;
- kinds: those of ``KINDS``; ``unit`` is for the edge U alone, which all kinds share that give none;
- ``when``: a number, or the least and the largest (null: without limit), for any of ``FACTS``;
- ``use``: fields of a ``Config``.

Whatever a device's rules do not decide, its compute capability's do, and then those of ``default``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from videoeff.errors import BackendError

SHIPPED = Path(__file__).with_name("configs.json")

#: The environment variable that names a user's own table.
VARIABLE = "VIDEOEFF_TRITON_CONFIGS"

#: The kinds of kernels whose products run on the matrix units.
MATRIX = ("convolution", "convolution-1x1", "grouped", "transposed")

KINDS = (
    "unit", *MATRIX, "depthwise", "pooling", "resampling", "pointwise",
    "rows", "tiles", "input", "prediction",
)  # fmt: skip

#: What rules may ask for. ``inputs``, ``outputs``: channels, of a group where products run on the matrix
#: units; ``taps``: of the window; ``pixels``: of the map; ``all_pixels``: of all streams' maps; ``bytes``: of
#: a number; ``aligned``: whether pixels begin at multiples of eight elements, so that eight are read at once;
#: ``along``: whether the epilogue looks along the channels; ``tf32``: whether float32 is rounded.
FACTS = (
    "inputs", "outputs", "taps", "pixels", "all_pixels", "streams", "bytes", "aligned", "along", "tf32",
)  # fmt: skip

#: Fields of a ``Config``, least and largest; those that are numbers of elements are powers of two.
FIELDS: Mapping[str, tuple[float, float]] = {
    "U": (1, 16), "BM": (1, 1024), "BN": (1, 8192), "BK": (16, 256), "warps": (1, 32), "stages": (1, 8),
    "programs": (1, 32), "whole_from": (0.0, 1.0), "long_BM": (0, 1024), "long_BN": (0, 1024),
}  # fmt: skip
POWERS = ("U", "BM", "BN", "BK", "warps", "long_BM", "long_BN")

#: The kinds whose kernels take other blocks where their list is long.
LONG = ("convolution", "convolution-1x1")

#: Fewest pixels that Hopper's matrix units take at once.
WARPGROUP = 64

DEFAULT = "default"

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        when: least and largest of each fact that is asked for.
        use: fields of a ``Config``.
    """

    when: Mapping[str, Bounds]
    use: Mapping[str, float]

    def fits(self, facts: Mapping[str, float]) -> bool:
        """Whether all bounds hold."""
        return all(low <= facts[name] <= high for name, (low, high) in self.when.items())

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        when = {
            n: low if low == high else [low, None if math.isinf(high) else high]
            for n, (low, high) in self.when.items()
        }
        return ({"when": when} if when else {}) | {"use": dict(self.use)}


Table = Mapping[str, Mapping[str, tuple[Rule, ...]]]


# ---------------------------------------------------------------- reading


def read(path: Path) -> Table:
    """A table from a file.

    Raises:
        BackendError: it cannot be read, or holds no such table; the message says where in it.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"{path}: cannot be read as a table of sizes ({error}); mend or remove it"
        ) from error
    return parse(found, str(path))


def parse(found: Any, where: str) -> Table:
    """A table from what JSON gave.

    Raises:
        BackendError: it is none.
    """
    table: dict[str, dict[str, tuple[Rule, ...]]] = {}
    for device, kinds in _entries(found, where, "devices").items():
        if not (device == DEFAULT or re.fullmatch(r"sm_\d+", device) or " " in device):
            raise BackendError(
                f"{where}: {device!r} is no device; give {DEFAULT!r}, a compute capability such as 'sm_90', "
                "or a full name such as 'NVIDIA H200'"
            )
        rules: dict[str, tuple[Rule, ...]] = {}
        for kind, listed in _entries(kinds, f"{where}: {device}", "kinds of kernels").items():
            here = f"{where}: {device}: {kind}"
            if kind not in KINDS:
                raise BackendError(f"{here}: no such kind; there are {', '.join(KINDS)}")
            if not isinstance(listed, list):
                raise BackendError(f"{here}: give a list of rules")
            rules[kind] = tuple(_rule(r, f"{here}[{i}]", kind, device) for i, r in enumerate(listed))
        table[device] = rules
    return table


def _entries(found: Any, where: str, what: str) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise BackendError(f"{where}: give an object of {what}, not a {type(found).__name__}")
    return found


def _rule(found: Any, where: str, kind: str, device: str) -> Rule:
    odd = sorted(set(_entries(found, where, "'when' and 'use'")) - {"when", "use"})
    if odd or "use" not in found:
        raise BackendError(f"{where}: a rule has 'use' and perhaps 'when', not {', '.join(odd) or 'neither'}")
    when = {
        name: _bounds(name, bound, where)
        for name, bound in _entries(found.get("when", {}), f"{where}: when", "facts").items()
    }
    use = dict(_entries(found["use"], f"{where}: use", "sizes"))
    for name, value in use.items():
        _check_size(name, value, f"{where}: use")
    _check_together(use, when, kind, device, where)
    return Rule(when, use)


def _bounds(name: str, found: Any, where: str) -> Bounds:
    if name not in FACTS:
        raise BackendError(f"{where}: when: nothing is known of {name!r}; there are {', '.join(FACTS)}")
    pair = found if isinstance(found, list) else [found, found]
    low, high = (pair[0], math.inf if pair[1] is None else pair[1]) if len(pair) == 2 else (None, None)
    if not (_number(low) and _number(high)) or low is None or high is None or low > high:
        raise BackendError(
            f"{where}: when: {name} is {found!r}; give a number, or [least, largest] (null: without limit)"
        )
    return low, high


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _check_size(name: str, value: Any, where: str) -> None:
    if name not in FIELDS:
        raise BackendError(f"{where}: no such size {name!r}; there are {', '.join(FIELDS)}")
    low, high = FIELDS[name]
    whole = isinstance(low, float) or isinstance(value, int)
    if not _number(value) or not whole or not low <= value <= high:
        kind = "a number" if isinstance(low, float) else "a whole number"
        raise BackendError(f"{where}: {name} is {value!r}; give {kind} from {low:g} to {high:g}")
    if name in POWERS and value & (value - 1):
        raise BackendError(f"{where}: {name} is {value!r}; give a power of two")


def _check_together(
    use: Mapping[str, float], when: Mapping[str, Bounds], kind: str, device: str, where: str
) -> None:
    if kind == "unit":
        if set(use) != {"U"}:
            raise BackendError(f"{where}: use: a rule of 'unit' gives U and nothing else")
        return
    missing = sorted({"BM", "BN", "warps"} - set(use)) if kind not in ("rows", "tiles") else []
    if missing:
        raise BackendError(f"{where}: use: {missing[0]} is missing")
    if use.get("U", 1) ** 2 > use.get("BM", 1024):
        raise BackendError(
            f"{where}: use: BM is {use['BM']}, and a tile has {use['U'] ** 2} pixels; give a multiple of that"
        )
    if ("long_BM" in use) != ("long_BN" in use) or ("long_BM" in use and kind not in LONG):
        raise BackendError(
            f"{where}: use: long_BM and long_BN go together, and only {' and '.join(LONG)} have them"
        )
    along = when.get("along", (0, 1))[0] == 1
    if kind in MATRIX:
        if use["BM"] < 16 or use["BN"] < 16:
            raise BackendError(f"{where}: use: the matrix units take at least 16 pixels and 16 channels")
        if _hopper(device) and use["BM"] < WARPGROUP and not along:
            raise BackendError(
                f"{where}: use: BM is {use['BM']}; Hopper's matrix units take at least {WARPGROUP} pixels"
            )


def _hopper(device: str) -> bool:
    return device == "sm_90" or any(name in device for name in ("H100", "H200", "GH200", "H20", "H800"))


# ---------------------------------------------------------------- several tables


def merged(over: Table, under: Table) -> Table:
    """Two tables as one: of a device and kind that are in both, the rules of ``over`` come first."""
    table = {device: dict(kinds) for device, kinds in under.items()}
    for device, kinds in over.items():
        mine = table.setdefault(device, {})
        for kind, rules in kinds.items():
            mine[kind] = (*rules, *mine.get(kind, ()))
    return table


def measured_path(name: str) -> Path:
    """Where a device's own table lies once it was measured (``videoeff tune --device cuda``)."""
    root = os.environ.get("XDG_CACHE_HOME")
    folder = Path(root) if root else Path.home() / ".cache"
    key = hashlib.sha256(name.encode()).hexdigest()[:12]
    return folder / "videoeff" / f"triton-{key}.json"


def table(name: str = "") -> Table:
    """The shipped table, under what was measured of a device of this name, under the user's own.

    Raises:
        BackendError: a file holds no table.
    """
    files = [SHIPPED]
    if name and measured_path(name).is_file():
        files.append(measured_path(name))
    if own := os.environ.get(VARIABLE):
        files.append(Path(own))
    return _table(tuple(files))


@lru_cache(maxsize=8)
def _table(files: tuple[Path, ...]) -> Table:
    made = read(files[0])
    for path in files[1:]:
        made = merged(read(path), made)
    return made


def forget() -> None:
    """Read the files anew when they are needed next."""
    _table.cache_clear()


def rules_of(table: Table, devices: Sequence[str], kind: str) -> Iterator[Rule]:
    """The rules of a kind, those of the first device first."""
    for device in devices:
        yield from table.get(device, {}).get(kind, ())


def text(table: Table) -> str:
    """A table as JSON, a rule a line."""
    devices = []
    for device, kinds in table.items():
        parts = []
        for kind, rules in kinds.items():
            lines = ",\n".join(f"   {json.dumps(r.to_json())}" for r in rules)
            parts.append(f"  {json.dumps(kind)}: [\n{lines}\n  ]")
        devices.append(f" {json.dumps(device)}: {{\n" + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(devices) + "\n}\n"
