"""A small network that the tests convert, by reference as a user would: ``tiny.py:build``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE = (32, 48)


class Tiny(nn.Module):
    """Two stages, batch norm and a residual: (B, 3, H, W) in, (B, 5, H/2, W/2) out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        y = self.stem(x)
        found: Tensor = self.head(y + functional.relu(self.body(y)))
        return found


class Flat(nn.Module):
    """Most of its work reads the pixels as one long row: (B, 3, H, W) in, (B, 64) out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.wide = nn.Conv1d(4, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Means of a one-dimensional convolution."""
        found: Tensor = self.wide(self.first(x).flatten(2)).mean(2)
        return found


class Detector(nn.Module):
    """Cannot be exported as a whole: its boxes are as many as pixels are bright. Takes a list of images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Tiny()

    def forward(self, x: Tensor) -> list[Tensor]:
        """One tensor (boxes, 2) for each image."""
        maps = self.backbone(x)
        found = []
        for image in maps:
            best = image.amax(0)
            if float(best.max()) > 1e9:  # a decision that depends on the frame
                best = best * 0
            found.append((best > best.mean()).nonzero())
        return found


def build() -> nn.Module:
    """The network with its weights drawn from seed 0; batch norm as if it had been trained."""
    torch.manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        model.stem[1].running_mean.normal_(0, 0.1)  # type: ignore[operator]
        model.stem[1].running_var.uniform_(0.5, 1.5)  # type: ignore[operator]
    return model.eval()


def build_flat() -> nn.Module:
    """The network that cannot stream."""
    torch.manual_seed(0)
    return Flat().eval()


def build_detector() -> nn.Module:
    """The network that is captured in parts."""
    torch.manual_seed(0)
    return Detector().eval()


def broken() -> nn.Module:
    """A reference that fails."""
    raise RuntimeError("no weights today")


def not_a_model() -> int:
    """A reference to something else."""
    return 3
