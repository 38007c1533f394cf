"""Small models with the call forms and oddities that streams have to keep, and frames that change in part."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIZE = (1, 3, 20, 24)


class Plain(nn.Module):
    """Two convolutions with batch norm between; ``scale`` is a plain number."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, 4, 3, padding=1, stride=2)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        result: Tensor = self.second(torch.relu(self.norm(self.first(x)))) * scale
        return result


class Pair(NamedTuple):
    """An output of two parts."""

    coarse: Tensor
    fine: Tensor


class Structured(nn.Module):
    """Returns a chosen structure of a coarse map, a fine map and the input itself."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1, stride=2)

    def forward(self, x: Tensor) -> Any:
        fine = torch.relu(self.a(x))
        coarse = self.b(fine)
        if self.form == "tensor":
            return coarse
        if self.form == "tuple":
            return coarse, fine
        if self.form == "list":
            return [coarse, fine]
        if self.form == "dict":
            return {"coarse": coarse, "fine": fine}
        if self.form == "ordered":
            return OrderedDict([("fine", fine), ("coarse", coarse)])
        if self.form == "namedtuple":
            return Pair(coarse, fine)
        if self.form == "nested":
            return {"maps": [coarse, (fine,)], "levels": 2, "none": None, 3: Pair(coarse, fine)}
        if self.form == "views":
            return fine, fine[:, 1:3], fine.permute(0, 2, 3, 1), fine.flatten(1), x, x[:, :, ::2]
        raise ValueError(self.form)


FORMS = ("tensor", "tuple", "list", "dict", "ordered", "namedtuple", "nested", "views")


class TwoInputs(nn.Module):
    """Two pictures, a keyword-only third and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(1, 4, 3, padding=1)
        self.c = nn.Conv2d(4, 2, 3, padding=1)

    def forward(
        self, image: Tensor, depth: Tensor, flip: bool = False, *, bias: Tensor | None = None
    ) -> Tensor:
        total = self.a(image) + self.b(depth)
        if bias is not None:
            total = total + bias
        out: Tensor = self.c(torch.relu(total))
        return out.flip(3) if flip else out


class CalledTwice(nn.Module):
    """One convolution called twice, and another whose weight is the same tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.twin = nn.Conv2d(3, 3, 3, padding=1)
        self.twin.weight = self.shared.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.twin(torch.relu(self.shared(torch.relu(self.shared(x)))))
        return result


class InPlace(nn.Module):
    """Writes into what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.a(x))
        z: Tensor = self.b(y)
        z += y
        z.mul_(0.5).clamp_(min=-1.0)
        return z


class ModuleForm(nn.Module):
    """Modules only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.Hardswish()
        self.up = nn.Upsample(scale_factor=2.0)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.up(self.act(self.pool(self.conv(x)))))
        return result


class FunctionalForm(nn.Module):
    """The same as functions, with the other's weights."""

    def __init__(self, other: ModuleForm) -> None:
        super().__init__()
        self.w, self.b = other.conv.weight, other.conv.bias
        self.hw, self.hb = other.head.weight, other.head.bias

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.conv2d(x, self.w, self.b, padding=1), 2)
        y = F.interpolate(F.hardswish(y), scale_factor=2.0)
        return F.conv2d(y, self.hw, self.hb)


class Gated(nn.Module):
    """Squeeze-and-excitation, a branch joined by concatenation, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 2, 1)
        self.excite = nn.Conv2d(2, 8, 1)
        self.left = nn.Conv2d(8, 4, 3, padding=1)
        self.right = nn.Conv2d(8, 4, 1)
        self.last = nn.Conv2d(8, 4, 3, padding=1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.a(x))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = y * gate
        z = self.last(torch.cat([self.left(y), self.right(y)], 1))
        return z, self.fc(z.mean((2, 3)))


def lively(model: nn.Module) -> nn.Module:
    """The model in evaluation mode, with batch norms that do something."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model.eval()


def clip(
    count: int, size: tuple[int, ...] = SIZE, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Iterator[Tensor]:
    """Frames in which a small square changes; the third is like the second, the last one is all new."""
    generator = torch.Generator().manual_seed(seed)
    frame = torch.rand(size, generator=generator).to(dtype)
    for index in range(count):
        if index and index != 2:
            frame = frame.clone()
            top, left = 2 + index % 5, 3 + index % 7
            patch = frame[..., top : top + 4, left : left + 5]
            patch.copy_(torch.rand(patch.shape, generator=generator).to(dtype))
        if index and index == count - 1:
            frame = torch.rand(size, generator=generator).to(dtype)
        yield frame
