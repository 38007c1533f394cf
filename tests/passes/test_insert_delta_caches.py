from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import ZOO, network
from tests.support.streams import captured
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.insert_delta_caches import InsertDeltaCaches
from videoeff.testing import changing_frames


def insert(model: nn.Module, *frames: Tensor) -> PassResult:
    return InsertDeltaCaches().run(captured(model, *frames))


def names(program: Program) -> list[str]:
    return [cache_name(n) for n in program.nodes if is_cache(n)]


def kinds(program: Program) -> dict[str, str]:
    return {cache_name(n): cache_option(n, "kind") for n in program.nodes if is_cache(n)}


FRAME = torch.rand(2, 3, 10, 12)


def test_every_local_result_is_kept_and_named_by_its_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    program = insert(model, FRAME).program
    assert names(program) == ["input_1", "0", "1/relu", "2/max_pool2d", "3"]
    assert program.stage == "planned"


def test_streams_and_layout_are_written_down() -> None:
    program = insert(nn.Sequential(nn.Conv2d(3, 4, 3)), FRAME).program
    assert names(program) == ["input_1", "0"]
    for cache in (n for n in program.nodes if is_cache(n)):
        assert cache_option(cache, "layout") == (0, 2, 3)
        assert cache_option(cache, "streams") == (0, 1)
        assert cache_option(cache, "threshold") == 0.0


def test_a_layer_called_twice_has_two_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.conv(self.conv(x)) + self.conv(F.avg_pool2d(x, 1, 1))
            return result

    found = names(insert(Twice(), FRAME).program)
    assert [n for n in found if n.startswith("conv")] == ["conv", "conv#2", "conv#3"]
    assert len(set(found)) == len(found)


def test_layout_ops_keep_nothing() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        Lambda(lambda x: torch.cat([x[:, 2:], x[:, :2]], 1).permute(0, 2, 3, 1)),
        nn.LayerNorm(4),
    )
    program = insert(model, FRAME).program
    assert [n.split("/")[-1] for n in names(program)] == ["input_1", "0", "layer_norm"]


def test_heads_are_kept_where_they_leave_and_nowhere_between() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    program = insert(model, FRAME).program
    assert names(program) == ["input_1", "0", "5"]
    assert kinds(program)["5"] == "global"


def test_a_gate_is_kept_before_its_map() -> None:
    program = insert(network(ZOO["gates"]), *next(changing_frames(ZOO["gates"].shapes, 1))).program
    assert sum(k == "global" for k in kinds(program).values()) == 2


def test_dense_maps_are_kept_where_they_re_enter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 3))
    result = insert(model, FRAME)
    assert names(result.program)[2] == "1/group_norm"
    assert result.notes == (
        "1/group_norm: computed densely, re-enters by its change test: group_norm looks at the whole map",
    )


def test_attention_keeps_what_is_read_twice() -> None:
    """Between the map and the tokens that leave, only values with two separate readers are kept."""

    def attend(x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return F.scaled_dot_product_attention(mixed, mixed, mixed).softmax(-1)

    program = insert(nn.Sequential(nn.Conv2d(3, 4, 3), Lambda(attend)), FRAME).program
    assert len(names(program)) == 3  # the frame, the convolution, what leaves


def test_inputs_read_by_nobody_and_outputs_that_are_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor, unused: Tensor) -> Any:
            return self.conv(x), x

    program = insert(Net(), FRAME, torch.rand(2, 5)).program
    assert kinds(program) == {"x": "input", "unused": "input", "conv": "map"}


def test_a_planned_program_is_left_alone() -> None:
    program = insert(nn.Sequential(nn.Conv2d(3, 4, 3)), FRAME).program
    again = InsertDeltaCaches().run(program)
    assert not again.changed
    assert str(again.program) == str(program)
    assert [info(n).shape for n in again.program.nodes if is_cache(n)] == [(2, 3, 10, 12), (2, 4, 8, 10)]
