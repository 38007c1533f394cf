"""Predicted changes: which of the pixels that changes reach are due to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from videoeff.kernels.call import Prediction, RegionCall
from videoeff.kernels.change_test import energy_limit_of
from videoeff.kernels.region_spec.producers import Convolution
from videoeff.kernels.triton.binding import Binding, Launch, site_of
from videoeff.kernels.triton.configs import Config, present, special
from videoeff.kernels.triton.device import length, pixels, plain_site
from videoeff.kernels.triton.records import WindowArgs


def reached(layer: str) -> str:
    """The name of the list of what changes reach, before it is decided what of it is due."""
    return f"{layer}/reached"


def sizes(call: RegionCall) -> Config:
    """How that list is walked."""
    return special("prediction", call.extent, 1, present(call.device))


class EnergyArgs(NamedTuple):
    """Which energy is due.

    Attributes:
        limit: above which a pixel is due.
        scale: pointer to the rows' scales, or None.
        fresh: pointer to flags of rows without a past.
    """

    limit: Any
    scale: Any
    fresh: Any


class TermArgs(NamedTuple):
    """A map whose changes count: pointers to its stamps and squared magnitudes, and their share."""

    stamps: Any
    squares: Any
    share: Any


class ShapeArgs(NamedTuple):
    """The size of the input."""

    height: Any
    width: Any


@triton.jit
def _energy(terms, place, ok, frame):
    """The weighted squared magnitudes of what changed in this frame."""
    total = tl.zeros(place.shape, tl.float32)
    for i in tl.static_range(len(terms)):
        stamp = tl.load(terms[i].stamps + place, mask=ok, other=0)
        squares = tl.load(terms[i].squares + place, mask=ok, other=0.0)
        total += tl.where(stamp == frame, squares, 0.0) * terms[i].share
    return total


@triton.jit(do_not_specialize=["full"])
def predicted(
    site, worklist, due, test, pending, taps, sources, residuals, shape, window, full,
    U: tl.constexpr, BM: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    """Add to the pending energy of reached pixels, list those where it exceeds the limit, and clear theirs.

    In a full frame all pixels are looked at. All of rows without a past are due.

    Args:
        due: ``ListArgs`` of the pixels that are due: tiles of one pixel.
        test: ``EnergyArgs``.
        pending: (R, H, W) float32.
        taps: (KH KW) float32, the energy that a tap passes on.
        sources: ``TermArgs`` of each map that the input consists of.
        residuals: the same of maps that are added behind the convolution, or None.
        shape: ``ShapeArgs`` of the input.
        window: ``WindowArgs``.
    """
    frame = tl.load(worklist.frame)
    site = plain_site(site)
    tiles, whole = length(worklist, site, full)
    for chunk in tl.range(tl.program_id(0), tl.cdiv(tiles, BM // (U * U)), tl.num_programs(0)):
        r, y, x, valid = pixels(chunk, tiles, whole, worklist, site, U, BM)
        energy = tl.zeros([BM], tl.float32)
        for v in range(KH):
            iy = y * window.stride_y - window.padding_y + v * window.dilation_y
            for h in tl.static_range(KW):
                ix = x * window.stride_x - window.padding_x + h * window.dilation_x
                ok = valid & (iy >= 0) & (iy < shape.height) & (ix >= 0) & (ix < shape.width)
                arrived = _energy(sources, (r * shape.height + iy) * shape.width + ix, ok, frame)
                energy += arrived * tl.load(taps + v * KW + h)
        place = (r * site.height + y) * site.width + x
        if residuals is not None:
            energy += _energy(residuals, place, valid, frame)
        energy += tl.load(pending + place, mask=valid, other=0.0)
        limit = tl.zeros([BM], tl.float32) + test.limit
        if test.scale is not None:
            scale = tl.load(test.scale + r, mask=valid, other=0.0)
            limit = limit * (scale * scale)
        fresh = tl.load(test.fresh + r, mask=valid, other=0) != 0
        wanted = valid & (fresh | ((energy <= limit) == 0))
        tl.store(pending + place, tl.where(wanted, 0.0, energy), mask=valid)
        counted = wanted.to(tl.int32)
        number = tl.sum(counted, 0)
        if number > 0:
            slot = tl.atomic_add(due.length, number, sem="relaxed") + tl.cumsum(counted, 0) - 1
            tl.store(due.listed + slot, place, mask=wanted)
            tl.store(due.stamps + place, frame, mask=wanted)


def launch(b: Binding, found: Convolution, prediction: Prediction) -> Launch:
    """What runs before the kernel of a convolution whose changes are predicted."""
    call, memory, worklist = b.call, b.memory, b.before
    assert worklist is not None  # what is reached

    def terms(found: Sequence[tuple[str, float]]) -> tuple[TermArgs, ...] | None:
        held = [(b.masks[name].tensors, share) for name, share in found]
        return tuple(TermArgs(t["mask"], t["magnitude"], float(share)) for t, share in held) or None

    with torch.no_grad():
        weight = memory.constants[prediction.weight].detach().to(torch.float32)
        taps = memory.keep(weight.square().sum((0, 1)).flatten() / weight.shape[0])
    config = sizes(call)
    due, (kh, kw) = b.unbounded or b.worklist, weight.shape[2:]
    pads = (prediction.padding[0][0], prediction.padding[1][0])
    given = {
        "site": site_of(worklist),
        "worklist": b.worklist_of(worklist),
        "due": memory.list_of(due),
        "test": EnergyArgs(
            energy_limit_of(prediction.factor, call.test.threshold),
            memory.state[call.scale] if call.scale else None,
            memory.fresh[b.streams],
        ),
        "pending": memory.state[prediction.pending],
        "taps": taps,
        "sources": terms(prediction.sources),
        "residuals": terms(prediction.residuals),
        "shape": ShapeArgs(*found.input.extent[1:3]),
        "window": WindowArgs(*prediction.stride, *pads, *prediction.dilation),
        "U": config.U,
        "BM": config.BM,
        "KH": kh,
        "KW": kw,
    }
    chunks = -(-worklist.tiles // (config.BM // config.U**2))
    programs = max(1, min(memory.processors * config.programs, chunks))
    options = {"num_warps": config.warps, "maxnreg": 128}
    return Launch(call.name, predicted, programs, given, options, ("full",))
