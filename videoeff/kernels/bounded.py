"""Bounded reach in plain PyTorch: what lies near what changed, and what is put off."""

from __future__ import annotations

import torch
from torch import Tensor

from videoeff.kernels.call import Bound, Context, RegionCall, Vicinity
from videoeff.ops.home import Home

#: Pixels whose marks share a word.
WORD = 64


def words(width: int) -> int:
    """Words of the marks of a line of ``width`` pixels."""
    return -(-width // WORD)


def packed(mask: Tensor) -> Tensor:
    """Marks (R, H, W) bool as words (R, H, ceil(W / 64)) int64."""
    rows, height, width = mask.shape
    bits = mask.new_zeros(rows, height, words(width) * WORD)
    bits[..., :width] = mask
    shifts = torch.arange(WORD, device=mask.device)
    return (bits.view(rows, height, -1, WORD).to(torch.int64) << shifts).sum(-1)


def unpacked(marks: Tensor, width: int) -> Tensor:
    """Words (R, H, ceil(W / 64)) int64 as marks (R, H, W) bool."""
    shifts = torch.arange(WORD, device=marks.device)
    bits = (marks.unsqueeze(-1) >> shifts) & 1
    return bits.flatten(2)[..., :width] != 0


def vicinity_of(vicinity: Vicinity, context: Context) -> Tensor:
    """The pixels (R, H, W) that lie near what has changed in this frame."""
    found = context.vicinities.get(vicinity.name)
    if found is None:
        found = torch.zeros(vicinity.extent, dtype=torch.bool, device=context.fresh.device)
        for near in vicinity.near:
            mask = context.masks[near.layer]
            if near.rows is None or near.columns is None:
                found |= mask.flatten(1).any(1).view(-1, 1, 1)
            else:
                found |= _any_in(_any_in(mask, near.rows, 1), near.columns, 2)
        context.vicinities[vicinity.name] = found
    return found


def _any_in(mask: Tensor, home: Home, axis: int) -> Tensor:
    """Whether anything is set between the first and the last place of each pixel, along an axis."""
    if mask.shape[axis] == 1:
        return mask
    first, last = (place.to(mask.device) for place in home)
    sums = torch.nn.functional.pad(mask.to(torch.int32).cumsum(axis), (0, 0, 1, 0) if axis == 1 else (1, 0))
    return sums.index_select(axis, last + 1) > sums.index_select(axis, first)


def bounded(call: RegionCall, bound: Bound, context: Context, reached: Tensor) -> Tensor:
    """The pixels to compute of those reached and those put off before; what is left is put off.

    Args:
        call: the call.
        bound: its bound.
        context: the frame.
        reached: (R, H, W) or what broadcasts to it.

    Returns:
        (R, H, W).
    """
    marks = context.state[bound.deferred]
    width = call.extent[2]
    wanted = reached | unpacked(marks, width)
    allowed = vicinity_of(bound.vicinity, context)
    if bound.sweep:
        allowed = allowed | _swept(call, bound, context)
    if context.any_fresh:
        allowed = allowed | context.fresh_rows(call.layout.streams)
        wanted = wanted & ~(context.fresh_rows(call.layout.streams))
    marks.copy_(packed(wanted & ~allowed))
    return wanted & allowed


def _swept(call: RegionCall, bound: Bound, context: Context) -> Tensor:
    """The pixel rows (R, H, 1) whose turn it is."""
    assert call.layout.streams is not None  # rows of mixed streams are not bounded
    device = context.fresh.device
    frames = len(bound.sweep) - 1
    seen = context.state[bound.phase][torch.tensor(call.layout.streams, device=device)].long()
    phase, sweep = seen % frames, torch.tensor(bound.sweep, device=device)
    row = torch.arange(call.extent[1], device=device)
    due = (row >= sweep[phase].view(-1, 1)) & (row < sweep[phase + 1].view(-1, 1)) & (seen >= 0).view(-1, 1)
    return due.unsqueeze(-1)
