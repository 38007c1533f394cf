"""Sizes of the CUDA kernels: candidates for a layer, the choice among measured ones, the table made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch

from videoeff.errors import BackendError
from videoeff.kernels.triton import rules
from videoeff.kernels.triton.configs import Config, power_of_two
from videoeff.kernels.triton.rules import MATRIX, Rule, Table
from videoeff.serialize.files import write_text

#: Kinds of which nothing can be chosen by measuring one layer alone.
FIXED = ("unit", "rows", "tiles", "prediction")

#: Facts that a rule of a measured layer asks for as they are; of the size of the map it asks for a range.
EXACT = ("inputs", "outputs", "taps", "bytes", "aligned", "along", "tf32")

#: Bytes of shared memory that a block's buffers may take.
SHARED = {"sm_80": 160 * 1024, "sm_90": 220 * 1024}
LEAST_SHARED = 96 * 1024


@dataclass(frozen=True)
class Layer:
    """A layer as rules see it.

    Attributes:
        kind: of the table's.
        facts: what rules may ask for.
    """

    kind: str
    facts: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, kind: str, facts: Mapping[str, float]) -> Layer:
        """From the facts by name."""
        return cls(kind, tuple(sorted(facts.items())))

    def __getitem__(self, fact: str) -> float:
        return dict(self.facts)[fact]

    def __str__(self) -> str:
        what = f"{self.kind} {self['inputs']:g}->{self['outputs']:g}"
        taps = f", {self['taps']:g} taps" if self["taps"] > 1 else ""
        return f"{what}{taps}, {self['all_pixels']:g} pixels, {8 * self['bytes']:g} bits"


@dataclass(frozen=True)
class Measured:
    """What one size gave.

    Attributes:
        layer: of which layer.
        config: the sizes.
        full_ms: with all tiles listed.
        part_ms: with 5 % of them listed.
    """

    layer: Layer
    config: Config
    full_ms: float
    part_ms: float

    @property
    def score(self) -> float:
        """The geometric mean of both times: neither is bought with the other."""
        return math.sqrt(self.full_ms * self.part_ms)


def require_cuda(what: str) -> None:
    """Make sure that there is a GPU.

    Raises:
        BackendError: there is none.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            f"{what} needs a CUDA device, and PyTorch finds none here; run it where there is one"
        )


def candidates(layer: Layer, now: Config, capability: str) -> list[Config]:
    """Sizes worth measuring for a layer, those it has now first."""
    found = [now]
    if layer.kind in MATRIX and not layer["along"]:
        found += _products(layer, now, SHARED.get(capability, LEAST_SHARED))
    elif layer.kind not in FIXED and layer.kind not in MATRIX:
        found += _without_products(layer, now)
    return list(dict.fromkeys(found))


def _products(layer: Layer, now: Config, shared: int) -> Iterable[Config]:
    size, wide = int(layer["bytes"]), power_of_two(int(layer["outputs"]), 16)
    deep = power_of_two(int(layer["inputs"] * (layer["taps"] if layer["inputs"] < 16 else 1)), 16)
    for pixels in (64, 128):
        for channels in sorted({min(wide, w) for w in (32, 64, 128)}):
            for step in sorted({min(deep, k // size) for k in (64, 128)}):
                for stages in (3, 4):
                    taken = stages * size * step * (pixels + channels)
                    warps = 8 if pixels * channels > 64 * 64 else 4
                    if taken > shared or step < 16:
                        continue
                    programs = max(1, min(16 // warps, shared // taken))
                    plain = Config(
                        now.U, pixels, channels, step, warps, stages, programs, whole_from=now.whole_from
                    )
                    yield plain
                    if layer.kind in rules.LONG and pixels == channels == 64:
                        yield from _with_long_blocks(plain, wide, shared, size)


def _with_long_blocks(config: Config, wide: int, shared: int, size: int) -> Iterable[Config]:
    """The same small blocks, with larger ones for long lists."""
    for pixels, channels in ((128, 64), (128, 128), (256, 128)):
        taken = config.stages * size * config.BK * (pixels + channels)
        if channels <= wide and taken <= shared:
            warps = 8 if pixels * channels > 128 * 64 else 4
            programs = max(1, min(12 // warps, shared // taken))
            yield replace(config, warps=warps, programs=programs, long_BM=pixels, long_BN=channels)


def _without_products(layer: Layer, now: Config) -> Iterable[Config]:
    wide = now.BN if layer["along"] else power_of_two(min(1024, int(layer["outputs"])))
    for area in (2048, 4096, 8192):
        for warps in (4, 8):
            pixels = max(1, min(256, area // wide))
            yield Config(
                now.U if pixels >= now.U**2 else 1, pixels, wide, now.BK, warps, now.stages,
                32 // warps, now.whole_from,
            )  # fmt: skip


def choice(measured: Sequence[Measured]) -> Measured:
    """The best of one layer's; of those within 2 % of it the first, so that noise changes nothing.

    Raises:
        ValueError: there are none.
    """
    least = min(m.score for m in measured)
    return next(m for m in measured if m.score <= 1.02 * least)


def table_of(device: str, chosen: Iterable[Measured]) -> Table:
    """Rules for layers like the measured ones: the same channels and window, and maps of about the size."""
    groups: dict[tuple[str, tuple[tuple[str, float], ...]], list[Measured]] = {}
    for one in chosen:
        exact = tuple((n, one.layer[n]) for n in EXACT)
        groups.setdefault((one.layer.kind, exact), []).append(one)
    kinds: dict[str, tuple[Rule, ...]] = {}
    for (kind, exact), members in groups.items():
        members.sort(key=lambda m: m.layer["all_pixels"])
        sizes = [m.layer["all_pixels"] for m in members]
        edges = [
            0.0,
            *(math.floor(math.sqrt(a * b)) for a, b in pairwise(sizes)),
            math.inf,
        ]
        for one, low, high in zip(members, edges[:-1], edges[1:], strict=True):
            when = {n: (v, v) for n, v in exact} | {"all_pixels": (low, high)}
            left_out = {"U"} if one.config.long_BM else {"U", "long_BM", "long_BN"}
            use = {n: v for n, v in asdict(one.config).items() if n not in left_out}
            kinds[kind] = (*kinds.get(kind, ()), Rule(when, use))
    return {device: kinds}


def save(table: Table, path: Path) -> None:
    """Write a table, over rules for the same layers that the file holds already.

    Raises:
        BackendError: the file is there and holds no table.
        ArtifactError: it cannot be written.
    """
    if path.is_file():
        table = rules.merged(table, _without(rules.read(path), table))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, rules.text(table))
    rules.forget()


def _without(old: Table, new: Table) -> Table:
    """What of an old table is not in a new one."""
    return {
        device: {
            kind: tuple(r for r in listed if all(r.when != n.when for n in new.get(device, {}).get(kind, ())))
            for kind, listed in kinds.items()
        }
        for device, kinds in old.items()
    }
