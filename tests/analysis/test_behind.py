"""How much of a network lies behind each map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.streams import captured, planned
from videoeff.analysis.behind import work_behind
from videoeff.analysis.regions import regions


class Branches(nn.Module):
    """A stem, and two heads of which one is deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.short = nn.Conv2d(4, 2, 1)
        self.long = nn.Conv2d(4, 4, 1)
        self.end = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        return self.short(y), self.end(self.long(y))


def test_work_behind() -> None:
    """A branch counts only what follows in it, and what several ways lead to counts once."""
    found = work_behind(regions(planned(captured(Branches(), torch.rand(1, 3, 4, 4)))))
    macs = {"stem": 12, "short": 8, "long": 16, "end": 4}
    assert sum(macs.values()) == 40
    expected = {"x": 1.0, "stem": 28 / 40, "short": 0.0, "long": 4 / 40, "end": 0.0}
    assert found == pytest.approx(expected)


class Joined(nn.Module):
    """Two ways to one map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        out: Tensor = self.end(self.side(y) + y)
        return out


def test_what_two_ways_lead_to_counts_once() -> None:
    """The end's 16 of 44 once, with the 16 between."""
    found = work_behind(regions(planned(captured(Joined(), torch.rand(1, 3, 4, 4)))))
    assert found["stem"] == pytest.approx(32 / 44)
