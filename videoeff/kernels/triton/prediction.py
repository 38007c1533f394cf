"""Predicted changes: which of the pixels that changes reach are due to be computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from videoeff.kernels.call import Prediction, RegionCall
from videoeff.kernels.change_test import energy_limit_of
from videoeff.kernels.region_spec.producers import Convolution
from videoeff.kernels.triton.binding import Binding, Launch, site_of
from videoeff.kernels.triton.configs import Config, present, special
from videoeff.kernels.triton.device import length, pixels, plain_site


def reached(layer: str) -> str:
    """The name of the list of what changes reach, before it is decided what of it is due."""
    return f"{layer}/reached"


def sizes(call: RegionCall) -> Config:
    """How that list is walked."""
    return special("prediction", call.extent, 1, present(call.device))


@triton.jit
def _energy(terms, place, ok, frame):
    """The weighted squared magnitudes of what changed in this frame."""
    total = tl.zeros(place.shape, tl.float32)
    for i in tl.static_range(len(terms)):
        stamp = tl.load(terms[i][0] + place, mask=ok, other=0)
        squares = tl.load(terms[i][1] + place, mask=ok, other=0.0)
        total += tl.where(stamp == frame, squares, 0.0) * terms[i][2]
    return total


@triton.jit(do_not_specialize=["full"])
def predicted(
    site, work, due, test, pending, taps, sources, residuals, shape, window, full,
    U: tl.constexpr, BM: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
):  # fmt: skip
    """Add to the pending energy of reached pixels, list those where it exceeds the limit, and clear theirs.

    In a full frame all pixels are looked at. All of rows without a past are due.

    Args:
        due: (list, stamps, count) of the region's own list, in units of one pixel.
        test: (limit of the energy, the rows' scales or None, flags of rows without a past).
        pending: (R, H, W) float32.
        taps: (KH KW) float32, the energy that a tap passes on.
        sources: (stamps, squared magnitudes, share) of each map that the input consists of.
        residuals: the same of maps that are added behind the convolution, or None.
        shape: (H, W) of the input.
        window: (stride y, x, padding y, x, dilation y, x).
    """
    frame = tl.load(work[2])
    site = plain_site(site)
    units, whole = length(work, site, full)
    for chunk in tl.range(tl.program_id(0), tl.cdiv(units, BM // (U * U)), tl.num_programs(0)):
        r, y, x, valid = pixels(chunk, units, whole, work, site, U, BM)
        energy = tl.zeros([BM], tl.float32)
        for v in range(KH):
            iy = y * window[0] - window[2] + v * window[4]
            for h in tl.static_range(KW):
                ix = x * window[1] - window[3] + h * window[5]
                ok = valid & (iy >= 0) & (iy < shape[0]) & (ix >= 0) & (ix < shape[1])
                arrived = _energy(sources, (r * shape[0] + iy) * shape[1] + ix, ok, frame)
                energy += arrived * tl.load(taps + v * KW + h)
        place = (r * site[0] + y) * site[1] + x
        if residuals is not None:
            energy += _energy(residuals, place, valid, frame)
        energy += tl.load(pending + place, mask=valid, other=0.0)
        limit = tl.zeros([BM], tl.float32) + test[0]
        if test[1] is not None:
            scale = tl.load(test[1] + r, mask=valid, other=0.0)
            limit = limit * (scale * scale)
        fresh = tl.load(test[2] + r, mask=valid, other=0) != 0
        wanted = valid & (fresh | ((energy <= limit) == 0))
        tl.store(pending + place, tl.where(wanted, 0.0, energy), mask=valid)
        counted = wanted.to(tl.int32)
        number = tl.sum(counted, 0)
        if number > 0:
            slot = tl.atomic_add(due[2], number, sem="relaxed") + tl.cumsum(counted, 0) - 1
            tl.store(due[0] + slot, place, mask=wanted)
            tl.store(due[1] + place, frame, mask=wanted)


def launch(b: Binding, found: Convolution, prediction: Prediction) -> Launch:
    """What runs before the kernel of a convolution whose changes are predicted."""
    call, memory, work = b.call, b.memory, b.before
    assert work is not None  # what is reached

    def terms(found: Sequence[tuple[str, float]]) -> tuple[tuple[Any, ...], ...] | None:
        held = [(b.masks[name].tensors, share) for name, share in found]
        return tuple((t["mask"], t["magnitude"], float(share)) for t, share in held) or None

    with torch.no_grad():
        weight = memory.constants[prediction.weight].detach().to(torch.float32)
        taps = memory.keep(weight.square().sum((0, 1)).flatten() / weight.shape[0])
    config = sizes(call)
    own, (kh, kw) = b.work.tensors, weight.shape[2:]
    pads = (prediction.padding[0][0], prediction.padding[1][0])
    given = {
        "site": site_of(work),
        "work": b.work_of(work),
        "due": (own["listed"], own["stamps"], memory.count(b.work)),
        "test": (
            energy_limit_of(prediction.factor, call.test.threshold),
            memory.state[call.scale] if call.scale else None,
            memory.fresh[b.streams],
        ),
        "pending": memory.state[prediction.pending],
        "taps": taps,
        "sources": terms(prediction.sources),
        "residuals": terms(prediction.residuals),
        "shape": found.input.extent[1:3],
        "window": (*prediction.stride, *pads, *prediction.dilation),
        "U": config.U,
        "BM": config.BM,
        "KH": kh,
        "KW": kw,
    }
    chunks = -(-work.units // (config.BM // config.U**2))
    programs = max(1, min(memory.processors * config.programs, chunks))
    options = {"num_warps": config.warps, "maxnreg": 128}
    return Launch(call.name, predicted, programs, given, options, ("full",))
