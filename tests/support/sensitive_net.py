"""Networks that magnify float32's rounding, by reference as a user would: ``sensitive_net.py:build``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sensitive(nn.Module):
    """A large offset is added before many products are summed, and taken away after.

    (B, 3, H, W) in, (B, 4, H, W) out. The sums are ``offset`` times as large as what is left of them, so that
    their rounding is magnified as much; exactly computed, the offset has no effect.

    Args:
        offset: 0 for a network as insensitive as most.
    """

    def __init__(self, offset: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.spread = nn.Conv2d(3, 16, 3, padding=1)
        self.sum = nn.Conv2d(16, 16, 1)
        self.head = nn.Conv2d(16, 4, 3, padding=1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.2, generator=generator)
        # Rows of the sum cancel the offset: pairs of weights of opposite sign.
        half = torch.randn(16, 8, 1, 1, generator=generator)
        assert self.spread.bias is not None  # as a convolution has, unless told
        with torch.no_grad():
            self.spread.bias.fill_(offset)
            self.sum.weight.copy_(torch.cat((half, -half), 1))
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """What is left of the sums."""
        found: Tensor = self.head(torch.tanh(self.sum(self.spread(x))))
        return found


def build() -> nn.Module:
    """The network whose rounding exceeds the law."""
    return Sensitive(1000.0).eval()


def rough(model: nn.Module, by: float) -> nn.Module:
    """The same network, whose first layer's values are off by a random share of them.

    Args:
        model: changed.
        by: 6e-8 is half of float32's last place, what any correct computation may be off by.
    """
    generator = torch.Generator().manual_seed(1)

    def disturb(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        return output * (1 + by * torch.randn(output.shape, generator=generator))

    model.get_submodule("spread").register_forward_hook(disturb)
    return model


def _worker(by: float) -> None:
    from videoeff.bench import runners, worker
    from videoeff.bench.spec import Job

    class Rough(runners.Eager):
        def __init__(self, job: Job) -> None:
            super().__init__(job)
            rough(self.model.get_submodule("model"), by)  # type: ignore[attr-defined]  # of the flat network

    runners.RUNNERS["openvino"] = Rough
    worker.main()


def rounding_worker() -> None:
    """A worker that rounds otherwise than eager PyTorch."""
    _worker(6e-8)


def faulty_worker() -> None:
    """A worker that is wrong by eight roundings, in a layer whose errors the network magnifies."""
    _worker(4.5e-7)


class Boxes(nn.Module):
    """Captured in parts: as many boxes as pixels are bright."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Sensitive(60.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        """One tensor (boxes, 2) for each image."""
        found = []
        for image in self.backbone(x):
            best = image.amax(0)
            if float(best.max()) > 1e9:  # a decision that depends on the frame
                best = best * 0
            found.append((best > best.mean()).nonzero())
        return found


def detector() -> nn.Module:
    """The sensitive network, captured in parts."""
    return Boxes().eval()
