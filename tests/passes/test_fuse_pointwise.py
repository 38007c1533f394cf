from __future__ import annotations

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import ZOO, network
from tests.support.streams import captured, planned
from videoeff.analysis.regions import region_of
from videoeff.ir.markers import cache_name, is_cache
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.fuse_pointwise import FusePointwise
from videoeff.testing import changing_frames

FRAME = torch.rand(1, 4, 9, 11)


def fuse(model: nn.Module, *frames: Tensor) -> PassResult:
    return FusePointwise().run(planned(captured(model, *(frames or (FRAME,))), "insert-delta-caches"))


def regions(result: PassResult) -> dict[str, list[str]]:
    """What each cache computes, by layer name."""
    return {
        cache_name(c): [str(n.target).split(".")[1] for n in region_of(c).nodes]
        for c in result.program.nodes
        if is_cache(c) and region_of(c).nodes
    }


class Residual(nn.Module):
    def __init__(self, both: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.a(x) + (self.b(x) if self.both else x))


def test_a_chain_becomes_one_region_under_the_convolution_s_name() -> None:
    result = fuse(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4).eval(), nn.ReLU(), Lambda(lambda x: x * 2 + 1))
    )
    # batch norm is a pixel op as well
    assert regions(result) == {"0": ["conv2d", "batch_norm", "relu", "mul", "add"]}
    assert result.changed


def test_a_residual_add_is_fused() -> None:
    assert regions(fuse(Residual(both=False))) == {"a": ["conv2d", "add", "relu"]}


def test_one_anchor_a_region() -> None:
    """Where both operands are convolutions the add goes with the first, and a note says so."""
    result = fuse(Residual(both=True))
    assert regions(result) == {"b": ["conv2d"], "a": ["conv2d", "add", "relu"]}
    assert result.notes == ("b: not fused with the add after it, which is fused with the other operand",)


def test_every_region_of_every_network_has_one_anchor() -> None:
    for spec in ZOO.values():
        result = fuse(network(spec), *next(changing_frames(spec.shapes, 1)))
        caches = [n for n in result.program.nodes if is_cache(n)]
        assert len(caches) > len(spec.shapes)  # more than the frames
        for region in map(region_of, caches):
            assert len(region.anchors) <= 1 or region.dense, region.name


def test_not_with_a_gate() -> None:
    """The map in front of a gate is kept: a gate that moves must not recompute the convolution."""
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3), Lambda(lambda x: x.relu() * x.relu().mean((2, 3), keepdim=True).sigmoid())
    )
    result = fuse(model)
    conv = regions(result)["0"]
    assert "mul" not in conv
    spec = ZOO["gates"]
    result = fuse(network(spec), *next(changing_frames(spec.shapes, 1)))
    for names in regions(result).values():
        behind = names[names.index("conv2d") :] if "conv2d" in names else []
        assert "mul" not in behind
    assert regions(result)["blocks.0/mul"] == ["mul"]
    gate = nn.Sequential(nn.Conv2d(4, 4, 1), Gate())
    assert any("a gate that moves would recompute" in n for n in fuse(gate).notes)


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Conv2d(4, 4, 1)
        self.pre = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.pre(x) * self.fc(x.mean((2, 3), keepdim=True))
        return result


def test_not_where_two_read_the_value() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Lambda(lambda x: (x.relu(), x.sigmoid())))
    assert regions(fuse(model)) == {"0": ["conv2d"], "1/relu": ["relu"], "1/sigmoid": ["sigmoid"]}


def test_not_where_the_value_is_an_output() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Lambda(lambda x: (x, x.relu())))
    assert regions(fuse(model)) == {"0": ["conv2d"], "1/relu": ["relu"]}


def test_not_into_an_enlarging_broadcast() -> None:
    """A column that a pointwise op spreads over a map has fewer pixels than its result."""
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3), Lambda(lambda x: x.mean(3, keepdim=True).relu() + x.mean(2, keepdim=True))
    )
    result = fuse(model)
    assert any("another number of pixels" in n for n in result.notes)


def test_what_is_computed_densely_stays_apart_from_what_is_not() -> None:
    result = fuse(nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    assert regions(result) == {
        "0": ["conv2d"],
        "1/group_norm": ["group_norm"],
        "2/relu": ["relu"],
        "3": ["conv2d"],
    }
    assert "1/group_norm: not fused with what follows, computed densely" in result.notes[0]


def test_inputs_are_never_fused() -> None:
    result = fuse(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)))
    assert [cache_name(n) for n in result.program.nodes if is_cache(n)] == ["input_1", "0/relu", "1"]


class SqueezeExcite(nn.Module):
    """A gate on a map that ``readers`` convolutions read."""

    def __init__(self, kernel: int = 1, readers: int = 1) -> None:
        super().__init__()
        self.a, self.gate = nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.readers = nn.ModuleList(nn.Conv2d(6, 4, kernel) for _ in range(readers))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return reduce(torch.add, (F.relu(conv(x)) for conv in self.readers))


def test_a_gated_map_is_scaled_where_its_1x1_convolution_reads_it() -> None:
    model = SqueezeExcite()
    result = fuse(model)
    assert regions(result)["readers.0"][:3] == ["mul", "conv2d", "relu"]
    assert not any("mul" in name for name in regions(result))
    assert torch.equal(result.program.run(FRAME)[0], model(FRAME))


def test_a_gated_map_with_other_readers_is_kept() -> None:
    assert ["mul"] in regions(fuse(SqueezeExcite(readers=2))).values()
    assert ["mul"] in regions(fuse(SqueezeExcite(kernel=3))).values()
