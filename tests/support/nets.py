"""Small networks for tests: a few known shapes of architecture, and random ones made of blocks."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 8  # channels between the blocks


def conv(
    ins: int, outs: int, kernel: int = 3, stride: int = 1, norm: bool = True, **options: Any
) -> nn.Module:
    """A convolution that keeps the size (over stride), with batch norm of random statistics if asked."""
    options.setdefault("padding", options.get("dilation", 1) * (kernel - 1) // 2)
    layers: list[nn.Module] = [nn.Conv2d(ins, outs, kernel, stride, bias=not norm, **options)]
    if norm:
        layers.append(batch_norm(outs))
    return nn.Sequential(*layers)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.uniform_(-0.5, 0.5)
    return norm


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, c, h, w)


class Convolution(nn.Module):
    """Random kernel, stride, dilation, groups, padding mode, norm and activation."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        kernel = rng.choice((1, 3, 3, 5))
        dilation = rng.choice((1, 1, 2)) if kernel == 3 else 1
        self.conv = conv(
            WIDTH, WIDTH, kernel, rng.choice((1, 1, 2)), norm=rng.random() < 0.6, dilation=dilation,
            groups=rng.choice((1, 1, 2, WIDTH)),
            padding_mode=rng.choice(("zeros", "zeros", "zeros", "reflect", "replicate")),
        )  # fmt: skip
        self.act = rng.choice((nn.ReLU, nn.ReLU, nn.GELU, nn.Hardswish, nn.SiLU, nn.Identity, nn.Sigmoid))()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.conv(x))
        return result


class Residual(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.stride = rng.choice((1, 1, 2))
        self.first, self.second = conv(WIDTH, WIDTH, 3, self.stride), conv(WIDTH, WIDTH)
        self.down = conv(WIDTH, WIDTH, 1, 2) if self.stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.down(x))


class Concat(nn.Module):
    """An inception block: parts of different kernels side by side, one of them pooled."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.parts = nn.ModuleList([conv(WIDTH, 3, 1), conv(WIDTH, 3, 3), conv(WIDTH, 2, rng.choice((3, 5)))])

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.parts
        return torch.cat([F.relu(a(x)), b(x), F.relu(c(F.max_pool2d(x, 3, 1, 1)))], 1)


class Dense(nn.Module):
    """A DenseNet block: every layer reads all before it."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(batch_norm(WIDTH + 2 * i), nn.ReLU(), conv(WIDTH + 2 * i, 2, norm=False))
            for i in range(3)
        )
        self.last = conv(WIDTH + 6, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        result: Tensor = self.last(torch.cat(found, 1))
        return result


class Shuffle(nn.Module):
    """A ShuffleNet unit: half goes straight, half through convolutions, then channels interleave."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        half = WIDTH // 2
        self.branch = nn.Sequential(
            conv(half, half, 1), nn.ReLU(), conv(half, half, 3, groups=half), conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return shuffle(torch.cat([left, F.relu(self.branch(right))], 1))


class SqueezeExcite(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.conv, self.down, self.up = conv(WIDTH, WIDTH), nn.Conv2d(WIDTH, 2, 1), nn.Conv2d(2, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Pool(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.pool = rng.choice(
            (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2, ceil_mode=True))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) if min(x.shape[2:]) > 3 else x


class Upsample(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.mode = rng.choice(("nearest", "bilinear"))
        self.conv = conv(WIDTH, WIDTH, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        if max(x.shape[2:]) <= 16:
            x = F.interpolate(x, scale_factor=2, mode=self.mode)
        result: Tensor = self.conv(x)
        return result


class Transposed(nn.Module):
    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2, groups=rng.choice((1, 2)))
        self.norm = batch_norm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.up(F.avg_pool2d(x, 2, ceil_mode=True))))


class LayerNorm(nn.Module):
    """A ConvNeXt block."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.depth = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        result: Tensor = x + y.permute(0, 3, 1, 2)
        return result


class SpatialAttention(nn.Module):
    """One channel that weighs every pixel."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = (
            x * self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()
        )
        return result


class Inverted(nn.Module):
    """Widens, filters each channel, narrows: two wide maps that may be recomputed."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        wide, kernel, stride = rng.choice((16, 20)), rng.choice((3, 5)), rng.choice((1, 1, 2))
        self.widen, self.narrow = conv(WIDTH, wide, 1), conv(wide, WIDTH, 1)
        self.filter = conv(wide, wide, kernel, stride, groups=wide)
        self.activation = rng.choice((F.relu6, F.silu, F.hardswish))

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.filter(self.activation(self.widen(x))))
        y = self.narrow(y)
        result: Tensor = y + x if y.shape == x.shape else y
        return result


class GroupNorm(nn.Module):
    """Dense in the middle of the network: a norm over all pixels."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, WIDTH), conv(WIDTH, WIDTH, norm=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.norm(x)))


BLOCKS: dict[str, Callable[[random.Random], nn.Module]] = {
    "conv": Convolution, "residual": Residual, "concat": Concat, "dense": Dense, "shuffle": Shuffle,
    "squeeze-excite": SqueezeExcite, "pool": Pool, "upsample": Upsample, "transposed": Transposed,
    "layer-norm": LayerNorm, "spatial-attention": SpatialAttention, "group-norm": GroupNorm,
    "inverted": Inverted,
}  # fmt: skip

#: Blocks through which a change stays local.
LOCAL = tuple(b for b in BLOCKS if b not in ("squeeze-excite", "group-norm"))


@dataclass(frozen=True)
class Spec:
    """A random network and its call.

    Attributes:
        blocks: names of its blocks, in order.
        seed: of all that is random in them.
        streams: batch size.
        inputs: one or two frames of 3 channels.
        outputs: one map, or a map and a vector.
    """

    blocks: tuple[str, ...]
    seed: int = 0
    streams: int = 1
    inputs: int = 1
    outputs: int = 1

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the frames."""
        return ((self.streams, 3, 14, 17),) * self.inputs


class Network(nn.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__()
        rng = random.Random(spec.seed)
        torch.manual_seed(spec.seed)
        self.stems = nn.ModuleList(conv(3, WIDTH, norm=rng.random() < 0.5) for _ in range(spec.inputs))
        self.blocks = nn.Sequential(*(BLOCKS[b](rng) for b in spec.blocks))
        self.head = nn.Conv2d(WIDTH, 4, 1)
        self.fc = nn.Linear(WIDTH, 5) if spec.outputs > 1 else None

    def forward(self, *frames: Tensor) -> Any:
        x = (
            torch.stack([stem(f) for stem, f in zip(self.stems, frames, strict=True)]).sum(0)
            if len(frames) > 1
            else self.stems[0](frames[0])
        )
        x = self.blocks(F.relu(x))
        if self.fc is None:
            return self.head(x)
        return {"map": self.head(x), "vector": self.fc(x.mean((2, 3)))}


@lru_cache(maxsize=64)
def network(spec: Spec, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The network of a spec in evaluation mode."""
    return Network(spec).to(dtype).eval()


#: One network for each thing a pass may meet, small enough to run all passes on all of them.
ZOO: dict[str, Spec] = {
    "plain": Spec(("conv", "pool", "conv")),
    "residual": Spec(("residual", "residual"), seed=3, streams=2),
    "concat": Spec(("concat", "concat"), seed=1),
    "dense": Spec(("dense", "dense"), seed=1),
    "shuffle": Spec(("shuffle", "shuffle", "conv"), seed=2),
    "gates": Spec(("squeeze-excite", "conv", "squeeze-excite"), streams=2),
    "convnext": Spec(("layer-norm", "layer-norm")),
    "decoder": Spec(("pool", "upsample", "transposed")),
    "inverted": Spec(("inverted", "inverted"), streams=2),
    "mixed": Spec(("group-norm", "spatial-attention", "residual"), inputs=2, outputs=2),
}
