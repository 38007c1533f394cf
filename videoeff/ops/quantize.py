"""The operators of quantised graphs: to 8-bit numbers, and back to what they stand for."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.ir.layout import PixelLayout
from videoeff.ir.markers import quantized
from videoeff.ops.base import Case, Lambda, Op, Reach, register
from videoeff.ops.pixel import any_mask, broadcast_layout

#: What registers the operators that exported quantised graphs are made of.
REGISTERED_BY = "torch.ao.quantization.fx._decomposed"

with contextlib.suppress(ImportError):
    importlib.import_module(REGISTERED_BY)

TO_CODES = ("quantize_per_tensor", "quantize_per_channel")
FROM_CODES = ("dequantize_per_tensor", "dequantize_per_channel")


def full_names(operators: tuple[str, ...]) -> tuple[str, ...]:
    """Those operators as ``op_name`` gives them."""
    return tuple(f"quantized_decomposed.{name}" for name in operators)


def _overloads() -> list[Any]:
    found = []
    for name in (*TO_CODES, *FROM_CODES):
        packet = getattr(torch.ops.quantized_decomposed, name, None)
        op = getattr(packet, "default", None)
        if op is not None:
            found.append(op)
    return found


@register
class Quantize(Op):
    """``quantize`` and ``dequantize``, with one scale for the whole value or one for each channel.

    ``fuse-quantized`` turns a pair of them into a cache that keeps the numbers, or where nothing is kept into
    ``quantized``; one that is left over is computed pixel by pixel.
    """

    name = "quantize"
    role = "pixel"

    def targets(self) -> Sequence[Any]:
        """Those of ``torch.ops.quantized_decomposed`` whose scales are constants, and both in one."""
        return [*_overloads(), quantized]

    def layout(self, node: fx.Node) -> PixelLayout:
        """That of the value."""
        return broadcast_layout(node)

    def reach(self, node: fx.Node) -> Reach:
        """The value's own pixel."""
        return any_mask(node)

    def cases(self) -> Sequence[Case]:
        """A signed and an unsigned grid, and one for each channel."""
        shapes = ((2, 4, 11, 13),)
        made: dict[str, Callable[[Tensor], Tensor]] = {
            "unsigned": partial(_per_tensor, dtype=torch.uint8),
            "signed": partial(_per_tensor, dtype=torch.int8),
            "by-channel": _per_channel,
        }
        return [Case(name, partial(Lambda, function), shapes) for name, function in made.items()]


def _per_tensor(x: Tensor, dtype: torch.dtype) -> Tensor:
    ops, found = torch.ops.quantized_decomposed, torch.iinfo(dtype)
    given = (0.0371, found.min + 130, found.min, found.max, dtype)
    rounded = ops.dequantize_per_tensor(ops.quantize_per_tensor(x.float(), *given), *given)
    return torch.relu(rounded.to(x.dtype))


def _per_channel(x: Tensor) -> Tensor:
    ops = torch.ops.quantized_decomposed
    given = (torch.linspace(0.01, 0.04, 4), torch.arange(100, 104), 1, 0, 255, torch.uint8)
    rounded: Tensor = ops.dequantize_per_channel(ops.quantize_per_channel(x.float(), *given), *given)
    return rounded.to(x.dtype)
