"""Quantised networks as exporters leave them: every value that a layer reads goes through 8-bit numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videoeff.ops import quantize  # registers the operators

OPS = torch.ops.quantized_decomposed
assert quantize.TO_CODES


class Rounded(nn.Module):
    """Quantise and dequantise: one scale, or ``channels`` of them."""

    def __init__(
        self, scale: float, zero: int = 0, dtype: torch.dtype = torch.int8, channels: int = 0
    ) -> None:
        super().__init__()
        limits = torch.iinfo(dtype)
        self.given = (scale, zero, limits.min, limits.max, dtype)
        self.channels = channels
        scales = scale * torch.linspace(0.5, 1.5, max(1, channels))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.arange(max(1, channels)) % 5 + zero)

    def forward(self, x: Tensor) -> Tensor:
        if not self.channels:
            found: Tensor = OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *self.given), *self.given)
            return found
        by_channel = (self.scales, self.zeros, 1, *self.given[2:])
        spread: Tensor = OPS.dequantize_per_channel(OPS.quantize_per_channel(x, *by_channel), *by_channel)
        return spread


class Conv(nn.Module):
    """A convolution whose weights are 8-bit integers times a scale for each output channel."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight = conv.weight.detach()
        scales = weight.abs().flatten(1).amax(1) / 127
        self.register_buffer("codes", (weight / scales.view(-1, 1, 1, 1)).round().to(torch.int8))
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros(len(scales), dtype=torch.int64))
        self.bias = conv.bias
        self.how = (conv.stride, conv.padding, conv.dilation, conv.groups)

    def forward(self, x: Tensor) -> Tensor:
        weight = OPS.dequantize_per_channel(self.codes, self.scales, self.zeros, 0, -127, 127, torch.int8)
        return F.conv2d(x, weight, self.bias, *self.how)  # type: ignore[arg-type]


def conv(inputs: int, outputs: int, kernel: int, **options: int) -> Conv:
    """A quantised convolution of random weights."""
    return Conv(nn.Conv2d(inputs, outputs, kernel, **options))  # type: ignore[arg-type]


def quantised(model: nn.Module, plain: Callable[[str], bool] = lambda path: False) -> nn.Module:
    """A copy whose convolutions have weights of 8 bits and whose values are rounded to 8 bits behind each.

    Args:
        model: in which activations are modules of their own, each behind a convolution in a Sequential.
        plain: by the path of a convolution, whether its weights stay as they are.
    """
    made = copy.deepcopy(model)
    for path, part in list(made.named_modules()):
        if isinstance(part, nn.Conv2d):
            parent = made.get_submodule(path.rpartition(".")[0])
            behind = isinstance(parent, nn.Sequential) and len(parent) == 2 and parent[0] is part
            conv: nn.Module = part if plain(path) else Conv(part)
            rounded = Rounded(0.02, 3, torch.uint8 if part.groups > 1 else torch.int8)
            if behind:
                made.set_submodule(path, conv)
                after = made.get_submodule(path[:-1] + "1")
                made.set_submodule(path[:-1] + "1", nn.Sequential(after, rounded))
            else:
                made.set_submodule(path, nn.Sequential(conv, rounded))
    return nn.Sequential(Rounded(0.01, -20), made).eval()


class Net(nn.Module):
    """What quantised detectors are made of; every kind of convolution and of value that is served once."""

    def __init__(self, channels: int = 12) -> None:
        super().__init__()
        c = channels
        self.frame = Rounded(0.01, -20)
        self.stem, self.stem_out = conv(3, c, 3, stride=2, padding=1), Rounded(0.02, 3, channels=c)
        self.deep, self.deep_out = conv(c, c, 3, padding=1, groups=c), Rounded(0.01, 5, torch.uint8)
        self.narrow, self.narrow_out = conv(c, c, 1), Rounded(0.015, -3)
        self.added = Rounded(0.02, 2)
        self.grouped, self.grouped_out = conv(c, 2 * c, 3, padding=1, groups=2), Rounded(0.02, 2)
        self.dilated, self.dilated_out = conv(2 * c, c, 3, padding=2, dilation=2), Rounded(0.02, 2)
        self.plain = nn.Conv2d(c, c, 3, padding=1)  # its weights are no integers
        self.joined, self.wide = Rounded(0.02, 2), conv(3 * c, 70, 1)
        self.mean_in, self.end = Rounded(0.03, 0), conv(70, 5, 5, padding=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem_out(F.silu(self.stem(self.frame(x))))
        deep = self.deep_out(F.relu(self.deep(x)))
        x = self.added(F.relu(self.narrow_out(self.narrow(deep)) + deep))
        grouped = self.grouped_out(F.hardswish(self.grouped(x)))
        left = self.dilated_out(self.dilated(grouped))
        right = self.joined(self.plain(F.max_pool2d(x, 3, 1, 1)))
        small = F.interpolate(self.joined(F.avg_pool2d(x, 2)), scale_factor=2, mode="nearest")
        x = self.mean_in(F.silu(self.wide(torch.cat([left, right, small], 1))))
        return self.end(x), x.mean((2, 3))


class Chain(nn.Module):
    """Modules one after the other, each result rounded."""

    def __init__(self, parts: Sequence[nn.Module], first: nn.Module, rounded: Sequence[nn.Module]) -> None:
        super().__init__()
        self.first, self.parts, self.rounded = first, nn.ModuleList(parts), nn.ModuleList(rounded)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for part, after in zip(self.parts, self.rounded, strict=True):
            x = after(part(x))
        return x
