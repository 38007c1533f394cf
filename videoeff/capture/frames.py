"""Calls like the example with other pictures in them, to see what a model does from frame to frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Call = tuple[tuple[Any, ...], dict[str, Any]]

#: Small pictures have fewer rows and columns than twice this, and not fewer than this.
_SMALL = 32


def calls(args: Sequence[Any], kwargs: Mapping[str, Any], *, gentle: bool = False) -> Iterator[Call]:
    """Calls with other pictures, each other than the ones before.

    Args:
        args: positional arguments of the example.
        kwargs: its keyword arguments.
        gentle: pictures that are the example's, only darker.
    """
    number = 0
    while True:
        number += 1
        generator = torch.Generator().manual_seed(number)

        def other(value: Any, number: int = number, generator: torch.Generator = generator) -> Any:
            if not isinstance(value, Tensor):
                return value
            if gentle:
                return value * (1 - 0.01 * number) if value.is_floating_point() else value.clone()
            return _other(value, generator)

        yield pytree.tree_map(other, (tuple(args), dict(kwargs)))


def _other(value: Tensor, generator: torch.Generator) -> Tensor:
    """Random values in the range of a picture's; what is no picture and has no range stays as it is."""
    bytes_of_pictures = value.dtype == torch.uint8 and value.ndim >= 3
    if not value.numel() or not (value.is_floating_point() or bytes_of_pictures):
        return value.clone()
    low, high = float(value.nan_to_num().min()), float(value.nan_to_num().max())
    if low == high:
        if value.ndim < 3:
            return value.clone()
        high = low + (255 if bytes_of_pictures else 1)
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float32).to(value.device)
    mixed = low + (high - low) * noise
    return mixed.to(value.dtype)


def copied(call: Call) -> Call:
    """The same call with tensors of its own, which the model may write."""
    made = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, call)
    return made  # type: ignore[no-any-return]


def smaller(call: Call) -> Call | None:
    """The same call with small pictures, which divide by 32 if its own do; None where there are none."""
    pictures = [v for v in pytree.tree_leaves(call) if isinstance(v, Tensor) and v.ndim >= 3]
    sizes = {tuple(v.shape[-2:]) for v in pictures}
    if len(sizes) != 1:
        return None
    ((height, width),) = sizes
    rows, columns = _small(height), _small(width)
    if (rows, columns) == (height, width):
        return None

    def cut(value: Any) -> Any:
        picture = isinstance(value, Tensor) and value.ndim >= 3
        return value[..., :rows, :columns].contiguous() if picture else value

    return pytree.tree_map(cut, call)  # type: ignore[no-any-return]


def _small(size: int) -> int:
    return min(size, _SMALL + size % _SMALL)
