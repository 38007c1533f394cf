"""Sizes of blocks: what is known of a region at conversion, looked up in the tables of ``rules.py``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from videoeff.errors import BackendError
from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.codes import EpiOp, Kind
from videoeff.kernels.region_spec.spec import Form
from videoeff.kernels.region_spec.trace import View
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


def looks_along(form: Form) -> bool:
    """Whether the epilogue looks along the channels, which then lie in one block."""
    return any(i is not None and i.op in ALONG for i in form.code)


def by_channel(form: Form) -> bool:
    """Whether it is a convolution, perhaps a transposed one, with one input channel a group."""
    if form.weight is None or form.window.get("groups", 1) == 1:
        return False
    inputs = form.weight.shape[0] if form.kind == Kind.TRANSPOSED else form.weight.shape[1]
    return inputs == (form.window["groups"] if form.kind == Kind.TRANSPOSED else 1)


def by_rows(form: Form) -> bool:
    """Whether its pixels are computed one by one, with linear layers inside the epilogue or from a mean."""
    return form.kind == Kind.MEAN or any(i is not None and i.op == EpiOp.LINEAR for i in form.code)


def kind_of(form: Form) -> str:
    """Which of the table's kinds it is."""
    if by_rows(form):
        return "rows"
    if by_channel(form):
        return "depthwise"
    if form.kind == Kind.CONV:
        if form.window["groups"] > 1:
            return "grouped"
        return "convolution-1x1" if form.window["kh"] * form.window["kw"] == 1 else "convolution"
    return {
        Kind.INPUT: "input",
        Kind.POINTWISE: "pointwise",
        Kind.MAXPOOL: "pooling",
        Kind.SEPARABLE: "resampling",
        Kind.TRANSPOSED: "transposed",
    }[form.kind]


def width_of(form: Form, kind: str) -> int:
    """The channels that blocks divide: those of a group of a matrix product, else those of the value."""
    return form.channels // form.window["groups"] if kind in MATRIX else form.out.extent[3]


def inputs_of(form: Form) -> int:
    """The channels that a channel of the value is made of: those of a group of a convolution."""
    if form.weight is None:
        return (form.input or form.out).extent[3]
    shape = form.weight.shape
    return shape[1] if form.kind == Kind.CONV else shape[0] // form.window["groups"]


def facts_of(call: RegionCall, form: Form, kind: str) -> dict[str, float]:
    """What rules may ask for."""
    streams, height, width = call.extent
    taps = 1
    if "kh" in form.window:
        taps = form.window["kh"] * form.window["kw"]
    elif form.tables is not None:
        taps = form.tables[0].index.shape[1] * form.tables[1].index.shape[1]
    size = form.dtype.itemsize
    return {
        "inputs": inputs_of(form),
        "outputs": width_of(form, kind),
        "taps": taps,
        "pixels": height * width,
        "all_pixels": streams * height * width,
        "streams": streams,
        "bytes": size,
        "aligned": int(all(_aligned(v) for v in (form.out, form.input) if v is not None)),
        "along": int(looks_along(form)),
        "tf32": int(size == 4 and torch.backends.cudnn.allow_tf32),
    }


def _aligned(view: View) -> bool:
    """Whether each pixel's channels begin at a multiple of eight elements."""
    return view.strides[3] == 1 and all(s % 8 == 0 for s in (*view.strides[:3], view.offset))


# ---------------------------------------------------------------- choosing


def choose(call: RegionCall, form: Form, device: Device | None = None) -> Config:
    """The sizes for a region.

    Raises:
        BackendError: the table has no rule for it, or is none.
    """
    device, kind = device or Device(), kind_of(form)
    facts = facts_of(call, form, kind)
    sizes: dict[str, Any] = {"U": tile_of(call.extent, device), **_rule(device, kind, facts, call.name).use}
    config = fitted(Config(**sizes), form, kind, device)
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


def fitted(config: Config, form: Form, kind: str, device: Device) -> Config:
    """The sizes of a rule as far as they suit a region."""
    if kind == "rows":
        return replace(config, U=1, BM=1, BN=power_of_two(form.out.extent[3]))
    matrix, tile = kind in MATRIX, config.U
    least = LEAST if matrix else 1
    wide = power_of_two(width_of(form, kind), least)
    if looks_along(form):
        pixels = max(least, min(config.BM, config.BM * config.BN // wide))
    else:
        hopper = matrix and device.capability == "sm_90"
        wide, pixels = min(wide, config.BN), max(config.BM, WARPGROUP if hopper else least)
    step = config.BK
    if matrix:
        assert form.weight is not None  # what it is a product with
        depth = form.weight.shape[2] * form.weight.shape[3] * inputs_of(form)
        step = min(step, power_of_two(depth, LEAST))
    if kind == "transposed" and form.window["sy"] in (2, 4):
        tile = max(tile, form.window["sy"])  # see ``transposed.py``
    while tile**2 > pixels:
        tile //= 2
    long = (config.long_BM, min(config.long_BN, power_of_two(width_of(form, kind), least)))
    if looks_along(form) or kind not in rules.LONG or long[0] * long[1] <= pixels * wide:
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
