"""A simulation of post-training quantisation to int8, for where no runtime that quantises is installed.

What it rounds: the weights of convolutions and matrix products, symmetric, a scale for each output channel;
and what flows into them, one scale and zero point a tensor, for depthwise convolutions one a channel, from
the mean smallest and largest values over the calibration frames. All else stays as it is. A real runtime
rounds more (sums, pooling) and corrects biases, so its error is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.analysis import is_convolution
from videoeff.ir.program import Program, is_const
from videoeff.ops.base import op_name
from videoeff.runtime.dense import Step

#: Where a product's activations and its weight stand, and the dimension of the weight's output channels.
_PRODUCTS = {
    "linear": (0, 1, 0),
    "mm": (0, 1, 1),
    "matmul": (0, 1, -1),
    "bmm": (0, 1, -1),
    "addmm": (1, 2, 1),
}


@dataclass
class Range:
    """The smallest and largest values that flow into a layer, summed over frames.

    Attributes:
        channels: whether each channel (dimension 1) has a range of its own.
        low: sum of the smallest values, () or (C,).
        high: sum of the largest values, () or (C,).
        frames: how many frames were seen.
    """

    channels: bool = False
    low: Tensor = field(default_factory=lambda: torch.zeros(()))
    high: Tensor = field(default_factory=lambda: torch.zeros(()))
    frames: int = 0

    def add(self, value: Tensor) -> None:
        """One more frame."""
        rows = value.float().transpose(0, 1).flatten(1) if self.channels else value.float().reshape(1, -1)
        low, high = rows.aminmax(dim=1)
        self.low, self.high = self.low.to(low.device) + low, self.high.to(high.device) + high
        self.frames += 1

    def quantised(self, value: Tensor) -> Tensor:
        """A tensor rounded to 256 levels between the mean smallest and largest value; 0 is one of them."""
        low, high = (self.low / self.frames).clamp(max=0), (self.high / self.frames).clamp(min=0)
        scales = (high - low) / 255
        if not bool(scales.isfinite().all()):
            return value
        scales = scales.clamp(min=1e-30)
        zeros = (-low / scales).round().to(torch.int32)
        if self.channels:
            rounded = torch.fake_quantize_per_channel_affine(value.float(), scales, zeros, 1, 0, 255)
        else:
            rounded = torch.fake_quantize_per_tensor_affine(value.float(), scales[0], zeros[0], 0, 255)
        return rounded.to(value.dtype)


@dataclass
class Simulated:
    """Computes Programs as if they were quantised to int8; has to see calibration frames first.

    Attributes:
        calibrating: whether frames are computed exactly, to learn the ranges.
        ranges: of what flows into a layer, by engine, node and position.
    """

    calibrating: bool = True
    ranges: dict[tuple[str, str, int], Range] = field(default_factory=dict)
    _weights: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def __call__(
        self, name: str, program: Program, flat: Sequence[Tensor], carried: Sequence[Tensor]
    ) -> Step:
        """One frame of a Program."""
        return program.parted(tuple(_Interpreter(self, name, program).run(*flat, *carried)))

    def activation(self, engine: str, node: fx.Node, position: int, value: Tensor, channels: bool) -> Tensor:
        """What flows into a layer: its range is learnt while calibrating, it is rounded afterwards."""
        key = (engine, node.name, position)
        if self.calibrating:
            self.ranges.setdefault(key, Range(channels)).add(value)
            return value
        return self.ranges[key].quantised(value) if key in self.ranges else value

    def weight(self, engine: str, node: fx.Node, value: Tensor, dim: int) -> Tensor:
        """A layer's weight, rounded to 255 levels in each output channel."""
        if self.calibrating:
            return value
        key = (engine, node.name)
        if key not in self._weights:
            self._weights[key] = quantised_weight(value, dim)
        return self._weights[key]


def quantised_weight(weight: Tensor, dim: int) -> Tensor:
    """A weight rounded to 255 levels around 0 in each slice along a dimension."""
    dim %= weight.ndim
    others = [d for d in range(weight.ndim) if d != dim]
    scales = weight.float().abs().amax(others).clamp(min=1e-30) / 127
    zeros = torch.zeros(len(scales), dtype=torch.int32, device=weight.device)
    rounded = torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, dim, -127, 127)
    return rounded.to(weight.dtype)


class _Interpreter(fx.Interpreter):
    """Runs a graph node by node and rounds what flows into its convolutions and matrix products."""

    def __init__(self, quantised: Simulated, engine: str, program: Program) -> None:
        super().__init__(program.module)
        self._quantised, self._engine = quantised, engine

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        place = _places(n)
        if place is None:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        values = list(args)
        depthwise = is_convolution(n) and _depthwise(values[0], values[1], bool(place[2]))
        for position in place[:2]:
            source, value = n.args[position], values[position]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            if isinstance(source, fx.Node) and is_const(source):
                values[position] = self._quantised.weight(self._engine, n, value, place[2])
            else:
                channels = depthwise and position == 0
                values[position] = self._quantised.activation(self._engine, n, position, value, channels)
        return self.call_function(n.target, tuple(values), kwargs)


def _depthwise(source: Tensor, weight: Tensor, transposed: bool) -> bool:
    """Whether a convolution keeps its channels apart; runtimes then round each channel by itself."""
    apart = weight.shape[1] == 1 and weight.ndim == source.ndim
    return apart and not transposed and source.shape[1] > 1


def _places(node: fx.Node) -> tuple[int, int, int] | None:
    """The positions of both factors, and the weight's dimension of output channels; None for other nodes."""
    if node.op != "call_function":
        return None
    name = op_name(node)
    if is_convolution(node):
        flipped = name.startswith("conv_transpose") or (name == "convolution" and bool(node.args[6]))
        return 0, 1, int(flipped)
    return _PRODUCTS.get(name)
