"""Multiply-accumulates and parameters of single calls, beside the textbook's count."""

from __future__ import annotations

import pytest
import torch
from torch import fx, nn

from tests.support.streams import captured, named, planned
from videoeff.analysis.cost import is_convolution, macs, parameters
from videoeff.analysis.regions import regions


class Products(nn.Module):
    """Matrix products of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1).reshape(2, 3, 4)
        return torch.bmm(rows, rows.transpose(1, 2)).sum() + (rows[0] @ self.weight).sum()


def call(model: nn.Module, shape: tuple[int, ...], word: str) -> fx.Node:
    """The one call of a model whose operator's name holds ``word``."""
    (node,) = named(captured(model, torch.rand(shape)), word)
    return node


@pytest.mark.parametrize(
    ("model", "shape", "word", "wanted", "weights"),
    [
        # results x kernel x input channels
        (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 8, 6), "conv", 2 * 5 * 48 * 9 * 3, 5 * 27 + 5),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False), (1, 8, 9, 9), "conv", 8 * 16 * 9, 72),
        (nn.Conv2d(8, 4, 3, groups=2, bias=False), (1, 8, 5, 5), "conv", 4 * 9 * 9 * 4, 4 * 4 * 9),
        # every input pixel meets every weight once
        (nn.ConvTranspose2d(4, 6, 4, 2, 1, bias=False), (1, 4, 5, 5), "conv", 25 * 4 * 6 * 16, 4 * 6 * 16),
        (nn.Conv1d(3, 5, 3, bias=False), (1, 3, 10), "conv", 8 * 5 * 9, 45),
        (nn.Conv3d(2, 3, 2, bias=False), (1, 2, 4, 4, 4), "conv", 27 * 3 * 2 * 8, 48),
        (nn.Linear(7, 5), (2, 7), "linear", 2 * 5 * 7, 5 * 7 + 5),
        (Products(), (2, 12), "bmm", 2 * 3 * 3 * 4, 0),
        (nn.ReLU(), (1, 3, 8, 8), "relu", 0, 0),
    ],
)
def test_of_one_call(model: nn.Module, shape: tuple[int, ...], word: str, wanted: int, weights: int) -> None:
    node = call(model, shape, word)
    assert macs(node) == wanted
    assert parameters(node) == weights
    assert is_convolution(node) == (word == "conv")


def test_of_a_region() -> None:
    """A region costs what its calls cost, however they are fused."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    program = planned(captured(model, torch.rand(1, 3, 8, 8)))
    assert sum(r.macs for r in regions(program)) == 36 * (4 * 27 + 2 * 4)
