"""Where maps lie over the frame: against a computation by hand, and against what each pixel sees."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import captured, planned
from videoeff.analysis.regions import regions
from videoeff.analysis.vicinity import Placed, placed
from videoeff.ops.base import Lambda


def places(model: nn.Module, *shape: int) -> Placed:
    return placed(regions(planned(captured(model, torch.rand(1, 3, *shape)))))


def rows(found: Placed, layer: str, pixels: float = 0) -> list[tuple[int, int]]:
    """First and last row of the frame near each row of a layer."""
    (near,) = found.near(layer, pixels)
    assert near.rows is not None
    return list(zip(near.rows[0].tolist(), near.rows[1].tolist(), strict=True))


def test_strides_divide_the_frame() -> None:
    """A pixel of a map of a quarter's size stands for four rows, whatever its windows look at."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 2, 2), nn.Conv2d(4, 4, 7, 1, 3)
    )
    found = places(net, 16, 20)
    assert rows(found, "0") == [(2 * i, 2 * i + 1) for i in range(8)]
    assert rows(found, "2") == rows(found, "3") == [(4 * i, 4 * i + 3) for i in range(4)]
    assert rows(found, "3", 3) == [(0, 6), (1, 10), (5, 14), (9, 15)]


def test_an_enlarged_map_is_as_fine_as_its_pixels() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.join = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(7, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.join(torch.cat([x, F.interpolate(self.down(x), scale_factor=4.0)], 1))
            return out

    assert rows(places(Pyramid(), 16, 16), "join") == [(i, i) for i in range(16)]


def test_a_crop_lies_where_it_was_cut() -> None:
    class Crop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x[:, :, 12:])
            return out

    assert rows(places(Crop(), 20, 16), "conv") == [(i, i) for i in range(12, 20)]


def test_gates_and_whole_values_are_sources() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            out: Tensor = self.last(y * self.fc(y.mean((2, 3))).sigmoid()[:, :, None, None])
            return out

    found = places(Gate(), 8, 8)
    near = found.near("last", 2)
    whole = [n.layer for n in near if n.rows is None]
    assert len(near) == 2
    assert len(whole) == 1
    assert whole[0] not in found.homes


@pytest.mark.parametrize(
    "net",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.Conv2d(3, 4, 5, 3, 0, 2),
        nn.ConvTranspose2d(3, 4, 4, 2, 1),
        nn.MaxPool2d(3, 2, 1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((5, 7)),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=1.7, mode="bilinear"),
        nn.Upsample(size=(5, 6), mode="bilinear", align_corners=True),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ReflectionPad2d((2, 1, 3, 0)),
        Lambda(lambda x: x[:, :, 3:-1, ::2].relu()),
    ],
    ids=lambda n: type(n).__name__,
)
def test_a_pixel_stands_for_the_middle_of_what_it_sees(net: nn.Module) -> None:
    """Away from the edges, where homes are cut off."""
    channels, size = (4, (24, 28)) if isinstance(net, nn.PixelShuffle) else (3, (24, 28))
    program = planned(
        captured(nn.Sequential(nn.Conv2d(channels, channels, 1), net), torch.rand(1, channels, *size))
    )
    found = regions(program)
    (home,) = placed(found).homes[found[-1].name].values()
    assert home is not None
    for axis, (low, high) in enumerate(home):
        seen = torch.zeros(len(low), size[axis], dtype=torch.bool)
        for source in range(size[axis]):
            frame = torch.zeros(1, channels, *size)
            frame.select(2 + axis, source).fill_(1e6)
            with torch.no_grad():
                moved = net(frame) != net(torch.zeros_like(frame))
            seen[:, source] = moved.any(1).any(2 - axis)[0]
        for pixel in range(len(low) // 4, len(low) - len(low) // 4):
            places = seen[pixel].nonzero().flatten()
            if len(places):  # a table leaves pixels out where it shrinks
                middle = (int(low[pixel]) + int(high[pixel])) / 2
                assert int(places[0]) <= middle <= int(places[-1]), f"axis {axis}, pixel {pixel}"
                assert abs(middle - float(places.float().mean())) <= 1, f"axis {axis}, pixel {pixel}"
