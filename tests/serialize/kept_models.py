"""The models whose artifacts lie in data/, and their clips. Changing them makes those files useless."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Whole(nn.Module):
    """Captured whole: batch norm, a depthwise convolution, a sum, a gate, a concatenation, an upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Conv2d(8, 8, 1)
        self.low = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor, gain: float = 1.0) -> dict[str, Tensor]:
        a = torch.relu(self.norm(self.first(image)))
        b = a + torch.nn.functional.silu(self.deep(a))
        c = b * torch.sigmoid(self.gate(b.mean((2, 3), keepdim=True)))
        up = nn.functional.interpolate(torch.relu(self.low(c)), scale_factor=2.0, mode="nearest")
        return {"map": gain * self.last(torch.cat([c, up], 1)), "pooled": c.amax((2, 3))}


class Body(nn.Module):
    """Two maps of one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.relu(self.norm(self.one(x)))
        return a, torch.relu(self.two(a))


class Parts(nn.Module):
    """Captured in parts, as the picture decides how its results are scaled; the head is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, images: list[Tensor], gain: float = 1.0) -> dict[str, Tensor]:
        batch = torch.stack(images)
        fine, coarse = (self.head(level) for level in self.body(batch))
        scale = 2.0 if float(batch.mean()) > 0.4 else 1.0
        return {"fine": gain * scale * fine, "coarse": scale * coarse}


def seeded(model: nn.Module) -> nn.Module:
    """The model in evaluation mode with weights and batch-norm statistics of a fixed seed."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            drawn = torch.rand(tensor.shape, generator=generator)
            fan = max(1, tensor[0].numel()) if tensor.ndim == 4 else 1
            tensor.copy_(0.5 + drawn if "norm" in name else (drawn - 0.4) * 3.0 / fan**0.5)
    return model.eval()


def clip(count: int = 6) -> Tensor:
    """Frames (count, 3, 16, 20) uint8: noise in which two squares move, and one frame that stays."""
    generator = torch.Generator().manual_seed(6)
    frames = torch.randint(0, 100, (1, 3, 16, 20), generator=generator).repeat(count, 1, 1, 1)
    for index in range(count):
        at = min(index, count - 2)
        frames[index, :, 2 + at : 6 + at, 3 + 2 * at : 7 + 2 * at] += 120
        frames[index, 1, 9:12, 12 - at : 15 - at] += 60
    return frames.to(torch.uint8)
