"""Separable sums over stretches of a row: enlarging, and windows without weights of stride 1."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videoeff
from tests.support.streams import assert_nodes_close
from videoeff.kernels.cpp import library
from videoeff.testing import TOLERANCES, relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "double": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "eightfold": lambda x: F.interpolate(x, size=(72, 176), mode="bilinear", align_corners=False),
    "corners": lambda x: F.interpolate(x, size=(29, 83), mode="bilinear", align_corners=True),
    "average": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "padded-average": lambda x: F.avg_pool2d(x, (3, 5), 1, (1, 2), count_include_pad=False),
    "smaller": lambda x: F.interpolate(
        x, size=(5, 9), mode="bilinear"
    ),  # more columns than pixels: pixel by pixel
}


class Net(nn.Module):
    """One form behind a layer."""

    def __init__(self, form: Callable[[Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.first, self.form = nn.Conv2d(3, channels, 1), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.first(x))


@pytest.mark.parametrize(
    ("channels", "dtype"),
    [(1, torch.float32), (16, torch.float32), (21, torch.float32), (21, torch.float64), (21, torch.bfloat16)],
    ids=str,
)
@pytest.mark.parametrize("form", FORMS)
def test_parts_are_as_the_whole(form: str, channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(channels)
    model = Net(FORMS[form], channels).eval().to(dtype)
    frame = torch.rand(2, 3, 9, 22, dtype=dtype)
    stream = videoeff.convert(model, frame)
    with torch.no_grad():
        stream(frame)
        for y, x, n in ((0, 0, 1), (4, 7, 3), (8, 21, 1), (5, 0, 22)):
            frame = frame.clone()
            frame[0, :, y : y + 2, x : x + n] = torch.rand_like(frame[0, :, y : y + 2, x : x + n])
            with stream.observe() as seen:
                found = stream(frame)
            assert relative_error(found, model(frame)) <= TOLERANCES[dtype].relative
            assert_nodes_close(stream, seen)
        assert torch.equal(found, videoeff.convert(model, frame)(frame))  # whatever else is computed with it
