"""What the native kernels need of quantised values: grids as tables, weights as integers."""

from __future__ import annotations

import torch
from torch import Tensor

from videoeff.ir.grids import Grid
from videoeff.kernels.cpp.abi import GridRow
from videoeff.kernels.cpp.numbers import GRID_ROWS

#: How far, in steps, a weight may lie from a whole number of them. The rounding of float32 is a tenth of it.
_TOLERANCE = 1e-4
#: Steps that the largest weight of a channel may have, the usual ones first.
_PEAKS = (127, 128, *range(126, 0, -1))


def grid_table(grid: Grid, channels: int) -> Tensor:
    """A grid as a view has it, (GRID_ROWS, channels rounded up to 16 and 16 more) float32."""
    row = (channels + 15) // 16 * 16 + 16
    count = row if grid.dim < 0 else channels
    scale = torch.tensor(grid.scales, dtype=torch.float64).expand(count)
    zero = torch.tensor(grid.zeros, dtype=torch.float64).expand(count)
    table = torch.zeros(GRID_ROWS, row, dtype=torch.float32)
    table[GridRow.SCALE, :count] = scale
    table[GridRow.ZERO, :count] = zero
    table[GridRow.INVERSE, :count] = 1 / scale
    table[GridRow.LOW, :count] = grid.low - zero
    table[GridRow.HIGH, :count] = grid.high - zero
    return table


def as_integers(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weights as 8-bit integers times a step for each output channel, None where they are no such multiples.

    Whatever tool quantised a network, and whatever was folded into its weights since: if they are whole
    numbers of steps up to float32's rounding, products of integers are what they stand for.

    Args:
        weight: (O, ...) float32.

    Returns:
        Codes (O, ...) int8 and steps (O,) float32.
    """
    flat = weight.detach().flatten(1).to(torch.float64)
    peak = flat.abs().amax(1)
    if not bool(torch.isfinite(peak).all()):
        return None
    steps = torch.ones_like(peak)
    codes = torch.zeros_like(flat)
    left = (peak > 0).nonzero().flatten()
    for most in _PEAKS:
        if left.numel() == 0:
            break
        rows = flat[left]
        step = peak[left] / most
        scaled = rows / step.unsqueeze(1)
        whole = scaled.round()
        fits = ((scaled - whole).abs().amax(1) <= _TOLERANCE) & (whole.amax(1) <= 127)
        taken = left[fits]
        codes[taken], steps[taken] = whole[fits], step[fits]
        left = left[~fits]
    if left.numel():
        return None
    return codes.view(weight.shape).to(torch.int8).contiguous(), steps.to(torch.float32)
