from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.streams import captured, outputs_of, planned, read_back
from videoeff.errors import PassError
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.passes.base import PassResult
from videoeff.passes.recompute_expansions import RecomputeExpansions

BEFORE = "fold-batchnorm,drop-noops,insert-delta-caches,fuse-pointwise,plan-layout,hold-gates,mark-dense"
FRAME = torch.rand(2, 3, 40, 40)
MAP = 40 * 40 * 24 * 4  # bytes of a wide map of one stream


class Model(nn.Module):
    """An inverted residual, and one whose filtered map a gate scales."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.norm = nn.Conv2d(3, 24, 1, bias=False), nn.BatchNorm2d(24)
        self.depth, self.narrow = nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.Conv2d(24, 4, 1)
        self.grow, self.filter = nn.Conv2d(4, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.gate, self.end = nn.Conv2d(24, 24, 1), nn.Conv2d(24, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(torch.relu(self.depth(torch.relu(self.norm(self.widen(x))))))
        x = self.filter(torch.relu(self.grow(x)))
        result: torch.Tensor = self.end(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))
        return result


def run(item: RecomputeExpansions, model: nn.Module | None = None) -> PassResult:
    torch.manual_seed(0)
    return item.run(planned(captured((model or Model()).eval(), FRAME), BEFORE))


def marked_in(program: Program) -> set[str]:
    return {cache_name(n) for n in program.nodes if is_cache(n) and cache_option(n, "recompute")}


def marked(result: PassResult) -> set[str]:
    return marked_in(result.program)


def test_wide_maps_on_both_sides_of_a_depthwise_convolution() -> None:
    assert marked(run(RecomputeExpansions(least=0))) == {"widen", "depth", "grow"}


def test_small_maps_stay_and_a_lone_one_has_to_be_twice_as_large() -> None:
    assert marked(run(RecomputeExpansions(least=MAP))) == {"widen", "depth"}
    assert marked(run(RecomputeExpansions(least=MAP // 2))) == {"widen", "depth", "grow"}
    assert marked(run(RecomputeExpansions(least=MAP + 1))) == set()
    assert marked(run(RecomputeExpansions())) == set()


def test_maps_of_many_channels_stay() -> None:
    assert marked(run(RecomputeExpansions(least=0, widest=23))) == set()
    assert marked(run(RecomputeExpansions(least=0, widest=24))) == {"widen", "depth", "grow"}


def test_values_that_leave_the_network_stay() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widen, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.widen(x)
            return self.depth(y), y

    assert marked(run(RecomputeExpansions(least=0), Seen())) == set()


def test_convolutions_of_many_products_or_groups_stay() -> None:
    for first, expected in (
        (nn.Conv2d(3, 8, 3), {"0"}),
        (nn.Conv2d(3, 8, 9, 2), {"0"}),
        (nn.Conv2d(3, 8, 10), set()),
        (nn.Conv2d(3, 9, 1, groups=3), set()),
    ):
        channels = first.out_channels
        then: nn.Module
        for then in (nn.Conv2d(channels, channels, 3, groups=channels), nn.MaxPool2d(3, 2)):
            assert marked(run(RecomputeExpansions(least=0), nn.Sequential(first, then))) == expected
        for then in (nn.Conv2d(channels, channels, 3), nn.AvgPool2d(3, 2)):
            assert marked(run(RecomputeExpansions(least=0), nn.Sequential(first, then))) == set()


def test_idempotent_exact_and_in_the_text() -> None:
    once = run(RecomputeExpansions(least=0))
    assert once.changed
    again = RecomputeExpansions(least=0).run(once.program)
    assert not again.changed
    text = str(once.program)
    assert text.count("recompute=True") == 3
    assert marked_in(read_back(once.program)) == {"widen", "depth", "grow"}
    before = planned(captured(Model().eval(), FRAME), BEFORE)
    for found, expected in zip(
        outputs_of(RecomputeExpansions(least=0).run(before).program, FRAME),
        outputs_of(before, FRAME),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("option", ["least", "widest"])
def test_numbers_below_zero(option: str) -> None:
    with pytest.raises(PassError, match=f"recompute-expansions: {option} must be 0 or larger; it is -1"):
        run(RecomputeExpansions(**{option: -1}))
