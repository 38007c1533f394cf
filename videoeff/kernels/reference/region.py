"""The reference: any region, in plain PyTorch, computed whole and kept where it changed.

It is definition, fallback and oracle of all other kernels. The one thing it saves is a region that
nothing reached (on the CPU, where asking costs no synchronisation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from videoeff.kernels.backend import Accepted, Backend, Declined
from videoeff.kernels.bounded import bounded
from videoeff.kernels.call import Context, Input, Prediction, RegionCall
from videoeff.kernels.change_test import energy_limit_of, mask_like, moved, scale_of, square_mean
from videoeff.kernels.reference.seen import Watcher


class ReferenceBackend(Backend[None]):
    """Serves every call on every device."""

    name = "reference"

    def unavailable(self) -> str:
        """Always there."""
        return ""

    def accept(self, call: RegionCall) -> Accepted[None] | Declined:
        """Every call; there is nothing to describe."""
        return Accepted(call, None)

    def build(self, accepted: Accepted[None]) -> Callable[[Context], None]:
        """The call as a function of a context."""
        call = accepted.call
        if not isinstance(call.source, Input) or call.test.threshold == 0:
            return lambda context: run(call, context)
        watcher = Watcher()

        def watched(context: Context) -> None:
            assert isinstance(call.source, Input)  # asked above
            watcher.look(call, context, context.frames[call.source.index], context.state[call.value.name])
            run(call, context)

        return watched


def run(call: RegionCall, context: Context) -> None:
    """One call of one frame: active pixels, new values, change test, store, mask."""
    state = context.state
    old = state[call.value.name]
    if isinstance(call.source, Input):
        new, active = context.frames[call.source.index], None
    else:
        active = None if context.all_fresh else active_pixels(call, context)
        if active is not None and not old.is_cuda and not bool(active.any()):
            nothing(call, context, active)
            return
        new = call.source.run(state, context.constants)
        rows, height, width = call.extent
        context.scheduled[call.name] = rows * height * width
    commit(call, context, new, old, active)


def active_pixels(call: RegionCall, context: Context) -> Tensor:
    """Pixels (R, H, W) to compute: those a change reaches, less those predicted to stay."""
    reached = _whole_streams(call, context) if call.reach is None else call.reach(context.masks)
    if call.prediction is not None:
        reached = predicted(call, call.prediction, context, reached)
    if call.bound is not None:
        reached = bounded(call, call.bound, context, reached)
    if context.any_fresh:
        reached = reached | context.fresh_rows(call.layout.streams)
    return reached


def _whole_streams(call: RegionCall, context: Context) -> Tensor:
    """(R, 1, 1): the streams in which anything the call reads has changed."""
    count = context.fresh.numel()
    flags = torch.zeros(count, dtype=torch.bool, device=context.fresh.device)
    for name, streams in call.mask_reads:
        rows = context.masks[name].flatten(1).any(1)
        if streams == tuple(range(count)) and rows.numel() == count:
            flags |= rows
        elif streams is None or rows.numel() != len(streams):
            flags |= rows.any()
        else:
            index = torch.tensor(streams, device=flags.device)
            flags |= torch.zeros(count, device=flags.device).index_add_(0, index, rows.float()) > 0
    if call.layout.streams is None:
        return flags.any().view(1, 1, 1)
    index = torch.tensor(call.layout.streams, device=flags.device)
    return flags[index].view(-1, 1, 1)


def predicted(call: RegionCall, prediction: Prediction, context: Context, reached: Tensor) -> Tensor:
    """Reached pixels whose pending energy exceeds (π τ scale)²; theirs is cleared, others' is kept."""
    weight = context.constants[prediction.weight].to(torch.float32)
    taps = weight.square().sum((0, 1), keepdim=True) / weight.shape[0]
    source = _energy(prediction.sources, context)
    (top, bottom), (left, right) = prediction.padding
    padded = F.pad(source.unsqueeze(1), (left, right, top, bottom))
    energy = F.conv2d(padded, taps, None, prediction.stride, 0, prediction.dilation).squeeze(1)
    if prediction.residuals:
        energy = energy + _energy(prediction.residuals, context)
    pending = context.state[prediction.pending]
    pending.add_(energy)
    limit: Tensor | float = energy_limit_of(prediction.factor, call.test.threshold)
    if call.scale:
        limit = limit * context.state[call.scale].square().view(-1, 1, 1)
    due = ~(pending <= limit)
    pending.masked_fill_(due, 0.0)
    return reached & due


def _energy(terms: tuple[tuple[str, float], ...], context: Context) -> Tensor:
    total = context.magnitudes[terms[0][0]] * terms[0][1]
    for name, share in terms[1:]:
        total = total + context.magnitudes[name] * share
    return total


def nothing(call: RegionCall, context: Context, active: Tensor) -> None:
    """Record that the call had nothing to do."""
    mask = torch.zeros(1, 1, 1, dtype=torch.bool, device=active.device).expand(call.extent)
    context.masks[call.name] = mask
    context.active[call.name] = context.scheduled[call.name] = 0
    if context.keep_active:
        context.active_masks[call.name] = mask
    if call.wants_magnitude:
        context.magnitudes[call.name] = torch.zeros(call.extent, device=active.device)


def _pair(call: RegionCall, new: Tensor, old: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """What the change test compares: at threshold 0 the numbers kept, else how far the value moved."""
    return (new, old) if call.test.threshold == 0 else _apart(call, old, value)


def _apart(call: RegionCall, old: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Two values as far apart as the new one is from the one kept."""
    grid = call.value.grid
    if grid is None:
        return value, old
    kept = grid.decode(old)
    return kept + grid.beyond(value, old), kept


def _as_it_is(value: Tensor) -> Tensor:
    return value


def commit(call: RegionCall, context: Context, new: Tensor, old: Tensor, active: Tensor | None) -> None:
    """Store the new value where it is active and moved; leave the mask and the counts."""
    state, extent, grid = context.state, call.extent, call.value.grid
    value = new
    if grid is not None:
        new = grid.encode(value)
    real = _as_it_is if grid is None else grid.decode
    scale = state[call.scale] if call.scale else None
    pixels = extent[0] * extent[1] * extent[2]
    everything = torch.ones(1, 1, 1, dtype=torch.bool, device=old.device)
    if context.all_fresh:
        old.copy_(new)
        if scale is not None:
            scale.copy_(scale_of(real(old), call.layout))
        changed = active = everything
        context.active[call.name] = pixels
        if call.prediction is not None:
            state[call.prediction.pending].zero_()
        if call.bound is not None:
            state[call.bound.deferred].zero_()
    else:
        fresh = context.fresh_rows(call.layout.streams) if context.any_fresh else None
        if fresh is not None:
            if scale is not None:
                rows = fresh.flatten()
                scale.copy_(torch.where(rows, scale_of(real(new), call.layout), scale))
            if call.prediction is not None:
                state[call.prediction.pending].masked_fill_(fresh, 0.0)
            changed = moved(call, *_pair(call, new, old, value), scale) | fresh
        else:
            changed = moved(call, *_pair(call, new, old, value), scale)
        if active is not None:
            changed = changed & active
            count = active.expand(extent).sum()
            context.active[call.name] = count if old.is_cuda else int(count)
        else:
            context.active[call.name] = pixels
            active = everything
        if call.wants_magnitude:
            energy = square_mean(*_apart(call, old, value), call.layout).to(torch.float32)
            told = changed & ~fresh if fresh is not None else changed  # a first frame is no change of size
            context.magnitudes[call.name] = torch.where(told, energy, torch.zeros_like(energy))
        torch.where(mask_like(changed, old, call.layout), new, old, out=old)
    if call.wants_magnitude and context.all_fresh:
        context.magnitudes[call.name] = torch.zeros(extent, device=old.device)
    context.masks[call.name] = changed.expand(extent)
    if context.keep_active:
        context.active_masks[call.name] = active.expand(extent)
