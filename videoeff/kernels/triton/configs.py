"""Sizes of blocks: what is known of a region at conversion, looked up in the tables of ``rules.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from videoeff.errors import BackendError
from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.codes import EpiOp, Kind
from videoeff.kernels.region_spec.producers import Convolution, MaxPool, Resampling, TransposedConvolution
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.region_spec.values import View
from videoeff.kernels.triton import rules
from videoeff.kernels.triton.rules import MATRIX, WARPGROUP, Rule

#: Instructions that look along all channels of a pixel.
ALONG = (EpiOp.SOFTMAX, EpiOp.LOG_SOFTMAX, EpiOp.NORMALIZE, EpiOp.RMS_NORMALIZE)

#: The fewest pixels and channels that a matrix product takes.
LEAST = 16

#: Most pixels of a chunk in tiles of one pixel: each has lists of its own to tell.
SINGLE = 64


@dataclass(frozen=True)
class Config:
    """How a kernel is cut.

    Attributes:
        U: edge of a tile in pixels.
        BM: pixels of a chunk, a multiple of U².
        BN: channels of a block.
        BK: channels of the input taken at once.
        warps, stages: of the compiler.
        programs: per multiprocessor.
        whole_from: share of the tiles from which on all are computed in order.
        long_BM, long_BN: pixels and channels of a block of a convolution where small blocks are more than the
            device takes at once; 0 where blocks are always the same.
    """

    U: int = 4
    BM: int = 64
    BN: int = 64
    BK: int = 32
    warps: int = 4
    stages: int = 3
    programs: int = 2
    whole_from: float = 0.75
    long_BM: int = 0
    long_BN: int = 0

    @property
    def most(self) -> int:
        """Pixels of the largest chunk."""
        return max(self.BM, self.long_BM)


@dataclass(frozen=True)
class Device:
    """Whose sizes are wanted.

    Attributes:
        name: in full, "" for none: tests, and compiling ahead.
        capability: ``sm_90``, "" for none.
    """

    name: str = ""
    capability: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """The entries of a table to look into, one after the other."""
        return tuple(k for k in (self.name, self.capability, rules.DEFAULT) if k)


def present(kind: str) -> Device:
    """The device that a stream on "cuda" runs on; none where kernels are interpreted or there is no GPU."""
    if kind != "cuda" or not torch.cuda.is_available():
        return Device()
    major, minor = torch.cuda.get_device_capability()
    return Device(torch.cuda.get_device_name(), f"sm_{major}{minor}")


# ---------------------------------------------------------------- what is known of a region


def looks_along(spec: RegionSpec) -> bool:
    """Whether the epilogue looks along the channels, which then lie in one block."""
    return any(i is not None and i.op in ALONG for i in spec.epilogue)


def by_channel(spec: RegionSpec) -> bool:
    """Whether it is a convolution, perhaps a transposed one, with one input channel a group."""
    match spec.producer:
        case Convolution(groups=groups, weight=weight):
            return groups > 1 and weight.shape[1] == 1
        case TransposedConvolution(groups=groups, weight=weight):
            return groups > 1 and weight.shape[0] == groups
    return False


def groups_of(spec: RegionSpec) -> int:
    """Groups of channels of its convolution, 1 where it has none."""
    return spec.producer.groups if isinstance(spec.producer, (Convolution, TransposedConvolution)) else 1


def by_rows(spec: RegionSpec) -> bool:
    """Whether its pixels are computed one by one, with linear layers inside the epilogue or from a mean."""
    return spec.kind == Kind.MEAN or any(i is not None and i.op == EpiOp.LINEAR for i in spec.epilogue)


def kind_of(spec: RegionSpec) -> str:
    """Which of the table's kinds it is."""
    if by_rows(spec):
        return "rows"
    if by_channel(spec):
        return "depthwise"
    if isinstance(spec.producer, Convolution):
        if spec.producer.groups > 1:
            return "grouped"
        return "convolution-1x1" if spec.producer.window.taps == 1 else "convolution"
    return {
        Kind.INPUT: "input",
        Kind.POINTWISE: "pointwise",
        Kind.MAXPOOL: "pooling",
        Kind.SEPARABLE: "resampling",
        Kind.TRANSPOSED: "transposed",
    }[spec.kind]


def width_of(spec: RegionSpec, kind: str) -> int:
    """The channels that blocks divide: those of a group of a matrix product, else those of the value."""
    return spec.channels // groups_of(spec) if kind in MATRIX else spec.out.extent[3]


def inputs_of(spec: RegionSpec) -> int:
    """The channels that a channel of the value is made of: those of a group of a convolution."""
    match spec.producer:
        case Convolution(weight=weight):
            return weight.shape[1]
        case TransposedConvolution(weight=weight, groups=groups):
            return weight.shape[0] // groups
    return (spec.input or spec.out).extent[3]


def facts_of(call: RegionCall, spec: RegionSpec, kind: str) -> dict[str, float]:
    """What rules may ask for."""
    streams, height, width = call.extent
    taps = 1
    match spec.producer:
        case Convolution(window=window) | TransposedConvolution(window=window) | MaxPool(window=window):
            taps = window.taps
        case Resampling(rows=rows, columns=columns):
            taps = rows.index.shape[1] * columns.index.shape[1]
    size = spec.dtype.itemsize
    return {
        "inputs": inputs_of(spec),
        "outputs": width_of(spec, kind),
        "taps": taps,
        "pixels": height * width,
        "all_pixels": streams * height * width,
        "streams": streams,
        "bytes": size,
        "aligned": int(all(_aligned(v) for v in (spec.out, spec.input) if v is not None)),
        "along": int(looks_along(spec)),
        "tf32": int(size == 4 and torch.backends.cudnn.allow_tf32),
    }


def _aligned(view: View) -> bool:
    """Whether each pixel's channels begin at a multiple of eight elements."""
    return view.strides[3] == 1 and all(s % 8 == 0 for s in (*view.strides[:3], view.offset))


# ---------------------------------------------------------------- choosing


def choose(call: RegionCall, spec: RegionSpec, device: Device | None = None) -> Config:
    """The sizes for a region.

    Raises:
        BackendError: the table has no rule for it, or is none.
    """
    device, kind = device or Device(), kind_of(spec)
    facts = facts_of(call, spec, kind)
    sizes: dict[str, Any] = {"U": tile_of(call.extent, device), **_rule(device, kind, facts, call.name).use}
    config = fitted(Config(**sizes), spec, kind, device)
    if call.prediction is not None:  # exactly the pixels that are due
        config = replace(config, U=1, BM=min(config.BM, SINGLE), whole_from=1.0, long_BM=0, long_BN=0)
    return config


def tile_of(extent: tuple[int, int, int], device: Device | None = None) -> int:
    """The edge of a tile of a value (R, H, W)."""
    streams, height, width = extent
    pixels = height * width
    facts = {"pixels": pixels, "all_pixels": streams * pixels, "streams": streams}
    return int(_rule(device or Device(), "unit", facts, f"a map of {height} x {width}").use["U"])


def special(kind: str, extent: tuple[int, int, int], channels: int, device: Device | None = None) -> Config:
    """The sizes of a kernel that is no region's own: of ``tiles`` and ``prediction``.

    Args:
        kind: which.
        extent: (R, H, W) of what it goes through.
        channels: of that.
        device: whose.
    """
    device = device or Device()
    streams, height, width = extent
    facts = dict.fromkeys(rules.FACTS, 0.0) | {
        "inputs": channels,
        "outputs": channels,
        "pixels": height * width,
        "all_pixels": streams * height * width,
        "streams": streams,
    }
    sizes: dict[str, Any] = {"U": tile_of(extent, device), **_rule(device, kind, facts, kind).use}
    return Config(**sizes)


def _rule(device: Device, kind: str, facts: Mapping[str, float], what: str) -> Rule:
    for rule in rules.rules_of(rules.table(device.name), device.keys, kind):
        if rule.fits(facts):
            return rule
    raise BackendError(f"{what}: no rule of {' or '.join(device.keys)} gives sizes for {kind}")


def fitted(config: Config, spec: RegionSpec, kind: str, device: Device) -> Config:
    """The sizes of a rule as far as they suit a region."""
    if kind == "rows":
        return replace(config, U=1, BM=1, BN=power_of_two(spec.out.extent[3]))
    matrix, tile = kind in MATRIX, config.U
    least = LEAST if matrix else 1
    wide = power_of_two(width_of(spec, kind), least)
    if looks_along(spec):
        pixels = max(least, min(config.BM, config.BM * config.BN // wide))
    else:
        hopper = matrix and device.capability == "sm_90"
        wide, pixels = min(wide, config.BN), max(config.BM, WARPGROUP if hopper else least)
    step = config.BK
    producer = spec.producer
    if isinstance(producer, (Convolution, TransposedConvolution)) and matrix:
        step = min(step, power_of_two(producer.window.taps * inputs_of(spec), LEAST))
    if isinstance(producer, TransposedConvolution) and matrix and producer.window.stride[0] in (2, 4):
        tile = max(tile, producer.window.stride[0])  # see ``transposed.py``
    while tile**2 > pixels:
        tile //= 2
    long = (config.long_BM, min(config.long_BN, power_of_two(width_of(spec, kind), least)))
    if looks_along(spec) or kind not in rules.LONG or long[0] * long[1] <= pixels * wide:
        long = (0, 0)
    return replace(config, U=tile, BM=pixels, BN=wide, BK=step, long_BM=long[0], long_BN=long[1])


def shipped() -> Iterator[tuple[str, str, Rule, Config]]:
    """Every rule of the shipped table with its device, its kind and the sizes that it gives."""
    for device, kinds in rules.read(rules.SHIPPED).items():
        for kind, listed in kinds.items():
            for rule in listed:
                sizes: dict[str, Any] = dict(rule.use)
                config = Config(**sizes)
                while config.U**2 > config.BM:
                    config = replace(config, U=config.U // 2)
                yield device, kind, rule, config


def power_of_two(number: int, least: int = 1) -> int:
    """The next power of two."""
    return max(least, 1 << max(0, number - 1).bit_length())
