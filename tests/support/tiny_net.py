"""A network small enough to start processes for, and workers that misbehave."""

from __future__ import annotations

import sys

from torch import nn


def net() -> nn.Module:
    """Three convolutions, two outputs in a dictionary."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.SiLU())
            self.head = nn.Conv2d(16, 4, 1)

        def forward(self, x: object) -> dict[str, object]:
            deep = self.deep(self.stem(x))
            return {"map": self.head(deep), "mean": deep.mean((2, 3))}

    return Net()


def wrong_worker() -> None:
    """A worker whose outputs are off by a hundredth."""
    from videoeff.bench import runners, worker

    class Wrong(runners.Eager):
        def outputs(self, returned: object) -> list[runners.Array]:
            return [1.01 * v for v in super().outputs(returned)]

    runners.RUNNERS["openvino"] = Wrong
    worker.main()


def without_packages() -> None:
    """A worker on a machine that has neither ONNX Runtime nor OpenVINO."""
    from videoeff.bench import worker

    for name in ("onnxruntime", "openvino"):
        sys.modules[name] = None  # type: ignore[assignment]
    worker.main()
