"""Small networks that between them use every kind of kernel, with batch norms that do something."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import conv


class Residual(nn.Module):
    """A stem with max pooling, a plain residual block and a strided one, a classifier."""

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        self.stem = conv(3, width, 5, 2)
        self.a, self.b = conv(width, width), conv(width, width)
        self.c, self.down = conv(width, 2 * width, 3, 2), conv(width, 2 * width, 1, 2)
        self.fc = nn.Linear(2 * width, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 1, 1)
        x = F.relu(self.b(F.relu(self.a(x))) + x)
        x = F.relu(self.c(x) + self.down(x))
        return x, self.fc(x.mean((2, 3)))


class Gates(nn.Module):
    """Inverted bottlenecks: depthwise, squeeze-and-excitation, a projection that reads gated maps."""

    def __init__(self, width: int = 8, wide: int = 20) -> None:
        super().__init__()
        self.stem = conv(3, width, 3, 2)
        self.expand, self.depth = conv(width, wide, 1), conv(wide, wide, groups=wide)
        self.squeeze, self.excite = nn.Conv2d(wide, 6, 1), nn.Conv2d(6, wide, 1)
        self.project = conv(wide, width, 1)
        self.stride = conv(width, width, 3, 2, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.silu(self.depth(F.hardswish(self.expand(x))))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        result: Tensor = self.stride(self.project(y * gate) + x)
        return result


class Pyramid(nn.Module):
    """Two levels with lateral and top-down connections, a head, and a mask branch behind a concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.level = conv(3, width, 3, 2), conv(width, width, 3, 2)
        self.fine, self.coarse = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, 3, 3, padding=1)
        self.grow = nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.far = nn.Conv2d(width, 4, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = F.relu(self.stem(x))
        coarse = self.coarse(F.relu(self.level(fine)))
        joined = self.fine(fine) + F.interpolate(coarse, fine.shape[2:], mode="bilinear")
        both = torch.cat([joined, F.avg_pool2d(fine, 3, 1, 1)], 1)
        return self.head(joined), self.far(F.gelu(self.grow(both)))


class Branches(nn.Module):
    """Two resolutions that go on side by side, exchange what they found, and end in one concatenation."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = conv(3, width, 3, 2)
        self.fine, self.coarse = conv(width, width), conv(width, 2 * width, 3, 2)
        self.far, self.up = conv(2 * width, 2 * width), nn.Conv2d(2 * width, width, 1)
        self.down, self.last = conv(width, 2 * width, 3, 2), nn.Conv2d(3 * width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        fine, coarse = F.relu(self.fine(x)), F.relu(self.coarse(x))
        coarse = F.relu(self.far(coarse))
        up = F.interpolate(self.up(coarse), fine.shape[2:], mode="nearest")
        fine, coarse = F.relu(fine + up), F.relu(coarse + self.down(fine))
        result: Tensor = self.last(
            torch.cat([fine, F.interpolate(coarse, fine.shape[2:], mode="nearest")], 1)
        )
        return result


NETS: dict[str, Callable[[], nn.Module]] = {"residual": Residual, "gates": Gates, "pyramid": Pyramid}


def build(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network by name, the same one each time."""
    torch.manual_seed(5)
    return {**NETS, "branches": Branches}[name]().to(device, dtype).eval()
