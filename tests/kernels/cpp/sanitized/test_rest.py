"""Output channels after the last whole vector: computed along the reduction where that is cheaper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import videoeff
from videoeff.kernels.cpp import library
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")


def layers(outputs: int) -> list[nn.Module]:
    """Kinds of layers whose reduction is long."""
    return [
        nn.Conv2d(18, outputs, 3, padding=1),
        nn.Conv2d(18, outputs, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(18, outputs, 3, padding=2, dilation=2),
        nn.Sequential(nn.Conv2d(18, 300, 1), nn.ReLU(), nn.Conv2d(300, outputs, 1), nn.Hardswish()),
        nn.Sequential(nn.Conv2d(18, 200, 1), nn.ReLU(), nn.Conv2d(200, outputs, 3, padding=1)),  # split
    ]


@pytest.mark.parametrize("outputs", [17, 18, 19, 20, 21, 22, 23, 24, 25, 36, 72, 85])
@pytest.mark.parametrize("which", range(5))
def test_parts_are_as_the_whole(outputs: int, which: int) -> None:
    torch.manual_seed(outputs)
    model = layers(outputs)[which].eval()
    frame = torch.rand(2, 18, 23, 37)
    stream = videoeff.convert(model, frame)
    with torch.no_grad():
        stream(frame)
        for x, y, n in ((0, 0, 1), (5, 3, 9), (20, 36, 3), (11, 0, 37)):
            frame = frame.clone()
            frame[0, :, x : x + n, y : y + n] = torch.rand_like(frame[0, :, x : x + n, y : y + n])
            found = stream(frame)
            assert relative_error(found, model(frame)) < 1e-5
        fresh = videoeff.convert(model, frame)
        assert torch.equal(found, fresh(frame))  # in whatever company a pixel is computed
