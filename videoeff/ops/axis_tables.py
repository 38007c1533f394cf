"""What linear operators along one axis read: tables of indices and weights.

Resampling, average pooling and padding make each result pixel a weighted sum of input pixels, each weight a
product of one of the row and one of the column. What the weights are, PyTorch itself is asked: the operator
is run along one axis on the unit vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Table:
    """One axis.

    Attributes:
        index: (N, taps) int32, the input pixels that each result pixel reads.
        weight: (N, taps) float64, their weights; 0 where a pixel has fewer taps than others.
    """

    index: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Axis:
    """What an operator does along one axis; hashable, so that a table is made once.

    Attributes:
        what: the rule's name, a key of ``RULES``.
        size: pixels of the input.
        out: pixels of the result.
        options: the rule's own.
        dtype: what the operator computes its weights in.
    """

    what: str
    size: int
    out: int
    options: tuple[Any, ...]
    dtype: torch.dtype


@lru_cache(maxsize=512)
def table(axis: Axis) -> Table:
    """The table of an axis."""
    dtype = torch.float64 if axis.dtype == torch.float64 else torch.float32
    with torch.no_grad(), torch.inference_mode(False):
        units = torch.eye(axis.size, dtype=dtype, device="cpu").view(axis.size, 1, axis.size, 1)
        answers: Tensor = RULES[axis.what](units, axis.out, *axis.options)
    return of_matrix(answers.reshape(axis.size, -1).t())


@lru_cache(maxsize=512)
def reads(axis: Axis) -> Tensor:
    """Input pixels (N, taps) that each result pixel reads with a weight other than 0; some stand there twice.

    In float64 PyTorch computes where the nearest pixel is in float64 for contiguous maps and in float32 for
    channels-last ones, which for some sizes are different pixels. Both are given.
    """
    index = table(axis).index.long()
    if axis.dtype != torch.float64 or axis.what not in ("nearest", "nearest-exact"):
        return index
    with torch.no_grad(), torch.inference_mode(False):
        numbers = torch.arange(axis.size, dtype=torch.float64, device="cpu").view(1, 1, -1, 1)
        numbers = numbers.expand(1, 4, -1, 2).contiguous(memory_format=torch.channels_last)
        answers: Tensor = RULES[axis.what](numbers, axis.out, *axis.options)
    return torch.cat([index, answers[0, 0, :, :1].long()], 1)


def of_matrix(matrix: Tensor) -> Table:
    """The table of a matrix (N, inputs), zeros left out."""
    held = matrix != 0
    taps = max(1, int(held.sum(1).max()))
    place = torch.arange(matrix.shape[1]).expand(matrix.shape)
    order = torch.where(held, place, matrix.shape[1]).sort(1).values[:, :taps]
    first = order[:, :1]
    none = (first == matrix.shape[1]).flatten()
    if bool(none.any()):  # all padding: weight 0 of the nearest pixel that is read at all
        known = torch.nonzero(~none).flatten()
        rows = torch.nonzero(none).flatten()
        if not len(known):
            first = torch.zeros_like(first)
        else:
            near = known[(rows[:, None] - known[None, :]).abs().argmin(1)]
            first = first.clone()
            first[rows] = order[near, :1]
    spare = order == matrix.shape[1]
    index = torch.where(spare, first.expand_as(order), order)
    weight = torch.where(spare, 0.0, matrix.to(torch.float64).gather(1, index))
    return Table(index.to(torch.int32).contiguous(), weight.contiguous())


def _nearest(units: Tensor, out: int, scale: float | None) -> Any:
    return aten.upsample_nearest2d.default(units, [out, 1], scale, None)


def _nearest_exact(units: Tensor, out: int, scale: float | None) -> Any:
    return aten._upsample_nearest_exact2d.default(units, [out, 1], scale, None)


def _bilinear(units: Tensor, out: int, align: bool, scale: float | None) -> Any:
    return aten.upsample_bilinear2d.default(units, [out, 1], align, scale, None)


def _average(
    units: Tensor,
    out: int,
    kernel: int,
    stride: int,
    padding: int,
    ceil: bool,
    include: bool,
    divisor: int | None,
) -> Any:
    return aten.avg_pool2d.default(units, [kernel, 1], [stride, 1], [padding, 0], ceil, include, divisor)


def _adaptive(units: Tensor, out: int) -> Any:
    return aten._adaptive_avg_pool2d.default(units, [out, 1])


def _pad(units: Tensor, out: int, before: int, after: int, mode: str) -> Any:
    return F.pad(units, (0, 0, before, after), mode=mode)


RULES: dict[str, Callable[..., Any]] = {
    "nearest": _nearest,
    "nearest-exact": _nearest_exact,
    "bilinear": _bilinear,
    "average": _average,
    "adaptive": _adaptive,
    "pad": _pad,
}
