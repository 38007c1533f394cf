"""Where the pixels of a map lie over those of another: what a bounded reach is measured by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Of every pixel of a result, along one axis, the first and the last input pixel that it stands for: two
#: int64 tensors (N,), neither of which ever falls. See ``Op.home``.
Home = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Near:
    """Something that changes come from, and which of its pixels are near each pixel of a map.

    Attributes:
        layer: its layer name.
        extent: (R, H, W) of its mask.
        rows: first and last row (N,) of it that are near each row of the map; None: all of it is near.
        columns: the same of columns.
    """

    layer: str
    extent: tuple[int, int, int]
    rows: Home | None = None
    columns: Home | None = None


def same_home(size: int, out: int) -> Home:
    """Each pixel stands for the same pixel of the input, or for its only one."""
    at = torch.arange(out) if size == out else torch.zeros(out, dtype=torch.long)
    return at, at


def window_home(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Home:
    """Each pixel stands for the pixels up to half a stride from the centre of its window."""
    centre = 2 * (torch.arange(out) * stride - padding) + (kernel - 1) * dilation  # twice
    low, high = -((stride - centre) // 2), (centre + stride) // 2
    return low.clamp(0, size - 1), high.clamp(0, size - 1)


def table_home(index: Tensor, weight: Tensor) -> Home | None:
    """Each pixel stands for the pixels it reads with the largest weight; None where their order is lost."""
    heaviest = weight >= weight.max(1, keepdim=True).values - 1e-6
    low = torch.where(heaviest, index.long(), 2**31).min(1).values
    high = torch.where(heaviest, index.long(), -1).max(1).values
    return (low, high) if rising(low, high) else None


def rising(low: Tensor, high: Tensor) -> bool:
    """Whether neither of two tensors (N,) ever falls."""
    return bool((low.diff() >= 0).all() and (high.diff() >= 0).all())
