"""A network with all that the native kernels serve, streams of it, and frames for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import stream_of
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Products
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.passes import Pass, recipe
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import moving_clip, poison

SHAPE = (2, 3, 24, 40)

#: What this processor has; without a library all is skipped.
ISAS = library.isa_names() or ("none",)

#: Each instruction set with the kinds of products of 8-bit numbers and bfloat16 that it has of its own.
WAYS = [(isa, kind) for number, isa in enumerate(ISAS) for kind in Products if kind <= number]


class Net(nn.Module):
    """Convolutions of each kind, a gate, a concatenation, resampling, pooling and a head."""

    def __init__(self, middle: Any = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depth = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.join = nn.Conv2d(16, 8, 3, padding=1)
        self.grow = nn.ConvTranspose2d(8, 6, 4, 2, 1)
        self.fc = nn.Linear(6, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.stem(x))
        y = F.hardswish(self.depth(x))
        y = y * torch.sigmoid(self.up(F.relu(self.down(y.mean((2, 3), keepdim=True)))))
        if self.middle is not None:
            y = self.middle(y)
        small = F.max_pool2d(y, 3, 2, 1)
        y = torch.cat([x, F.interpolate(small, y.shape[2:], mode="bilinear")], 1)
        y = F.relu(self.join(y) + x)
        out = self.grow(y)
        return out, self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1)).softmax(-1)


#: A step without a native form, so that a plan has two native groups with the reference between them.
BREAKS = {"whole": None, "sorted": lambda x: x.sort(1)[0], "group-norm": lambda x: F.group_norm(x, 2)}

#: Of each channel gain, floor and black: σ is 0.01 to 0.04 for the values of the clips.
NOISE = ((1e-3, 1e-4, 0.0), (0.0, 2e-4, 0.1), (5e-4, 3e-4, -0.2))

THRESHOLDS = {
    "exact": InsertThresholds(),
    "max": InsertThresholds(0.05, "max", input_test="max"),
    "l2": InsertThresholds(0.2, "l2", block=4, dilation=1),
    "grown": InsertThresholds(0.2, block=2, weak=0.3, grow=2),
    "noise": InsertThresholds(0.1, noise=NOISE, input_threshold=6.0, block=4, weak=0.5, grow=1, dilation=1),
    "noisy pixels": InsertThresholds(0.1, noise=((0.0, 4e-4, 0.0),) * 3),
    "relative": InsertThresholds(0.1),
    "predicted": InsertThresholds(0.2, predict=1.0),
}


def passes(name: str) -> list[Pass]:
    return [*recipe("delta")[:-1], THRESHOLDS[name]]


def streams(
    module: nn.Module | None = None, dtype: torch.dtype = torch.float64, how: str = "exact"
) -> tuple[StreamingModule, StreamingModule, nn.Module]:
    """A native stream, a reference stream and the module, all in ``dtype``."""
    torch.manual_seed(1)
    module = (Net() if module is None else module).to(dtype).eval()
    example = torch.rand(SHAPE, dtype=dtype)
    native = stream_of(module, example, passes=passes(how))
    reference = stream_of(module, example, passes=passes(how), backend="reference")
    poison(native)
    poison(reference)
    return native, reference, module


def clip(count: int = 4, dtype: torch.dtype = torch.float64, seed: int = 0) -> Iterator[Tensor]:
    return moving_clip(count, SHAPE, dtype=dtype, seed=seed)


def engine_of(stream: StreamingModule) -> Engine:
    (engine,) = stream.engines.values()
    return engine


def plans_of(stream: StreamingModule) -> list[NativePlan]:
    """The native plans of all its engines."""
    return [g for e in stream.engines.values() for g in e.plan.groups if isinstance(g, NativePlan)]


def dense(module: nn.Module, frame: Tensor) -> Any:
    with torch.no_grad():
        return module(frame)


class InvertedResidual(nn.Module):
    """Widen, filter every channel, narrow; each part of it as asked for.

    Args:
        widen, narrow: whether there is a convolution before and behind the depthwise one.
        gate: whether a gate follows the depthwise convolution, so that its result has to be kept.
    """

    def __init__(
        self,
        channels: int = 8,
        wide: int = 40,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        padding: int | None = None,
        act: type[nn.Module] = nn.ReLU6,
        bias: bool = True,
        widen: bool = True,
        narrow: bool = True,
        gate: bool = False,
    ) -> None:
        super().__init__()
        inner = wide if widen else channels
        pad = kernel // 2 * dilation if padding is None else padding
        self.widen = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=bias), act()) if widen else nn.Identity()
        depth = nn.Conv2d(inner, inner, kernel, stride, pad, dilation, groups=inner, bias=bias)
        self.depth = nn.Sequential(depth, act())
        self.squeeze = nn.Conv2d(inner, inner, 1) if gate else None
        self.narrow = nn.Conv2d(inner, channels, 1, bias=bias) if narrow else nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.widen(x))
        if self.squeeze is not None:
            y = y * torch.sigmoid(self.squeeze(y.mean((2, 3), keepdim=True)))
        y = self.narrow(y)
        result: Tensor = y + x if y.shape == x.shape else y
        return result
