"""Pointwise steps with constants over few channels, several pixels a vector."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.kernels.cpp import library
from videoeff.testing import poison, relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "normalise": lambda x, m, s: (x - m) / s,
    "scale": lambda x, m, s: x * s,
    "number": lambda x, m, s: (x - 0.5) / 0.25,
    "four": lambda x, m, s: ((x + m) * s - m) / s,
    "five": lambda x, m, s: (((x + m) * s - m) / s) * 2.0,  # more steps than the kernel has
    "turned": lambda x, m, s: m - x,  # the constant first
}


class Net(nn.Module):
    """A form before a layer, as a detector's normalisation."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.form = form
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.rand(1, channels, 1, 1))
        self.register_buffer("spread", 0.5 + torch.rand(1, channels, 1, 1))
        self.layer = nn.Conv2d(channels, 5, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.form(x, self.mean, self.spread)
        return x, self.layer(x)


@pytest.mark.parametrize("channels", [1, 3, 5, 24])
@pytest.mark.parametrize("form", FORMS)
def test_parts_are_as_the_whole(form: str, channels: int) -> None:
    torch.manual_seed(channels)
    model = Net(FORMS[form], channels).eval()
    frame = torch.rand(2, channels, 11, 67)
    stream = videoeff.convert(model, frame)
    poison(stream)
    with torch.no_grad():
        stream(frame)
        for y, x, n in ((0, 0, 1), (3, 15, 3), (10, 60, 7), (5, 0, 67), (7, 5, 40)):
            frame = frame.clone()
            frame[0, channels // 2, y, x : x + n] = torch.rand(n)  # one channel alone
            stream.clear_report()
            found = stream(frame)
            for mine, wanted in zip(found, model(frame), strict=True):
                assert relative_error(mine, wanted) <= 1e-5
            layer = next(x for x in stream.report().layers if x.name == "layer")
            height, width = min(11, y + 2) - max(0, y - 1), min(67, x + n + 1) - max(0, x - 1)
            assert layer.active_share == pytest.approx(
                height * width / (2 * 11 * 67)
            )  # what changed, and no more
        for mine, wanted in zip(found, videoeff.convert(model, frame)(frame), strict=True):
            assert torch.equal(mine, wanted)
