from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import ZOO, conv, network, shuffle
from tests.support.streams import captured, named, outputs_of, planned
from videoeff.ir.markers import is_concat
from videoeff.ir.program import Program
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.plan_layout import PlanLayout
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import changing_frames, poison, relative_error

SHAPES = ((2, 4, 9, 11),)
BEFORE = "drop-noops,trace-channels,insert-delta-caches,fuse-pointwise"


def plan(model: nn.Module) -> PassResult:
    """Run the pass; the stream must equal the model whatever it did."""
    model = model.double().eval()
    frames = list(changing_frames(SHAPES, 4, seed=3))
    program = planned(captured(model, *frames[0]), BEFORE)
    result = PlanLayout().run(program)
    stream = StreamingModule(Engine(result.program))
    poison(stream)
    with torch.no_grad():
        for frame in frames:
            assert relative_error(stream(*frame), model(*frame)) <= 1e-12
    assert relative_error(outputs_of(result.program, *frames[0]), outputs_of(program, *frames[0])) <= 1e-12
    return result


class Net(nn.Module):
    def __init__(self, forward: Any, *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.function = nn.ModuleList(layers), forward

    def forward(self, x: Tensor) -> Any:
        return self.function(*self.layers, x)


def planned_concats(program: Program) -> int:
    return sum(is_concat(n) for n in program.nodes)


def buffers(program: Program) -> dict[str, Tensor]:
    return Engine(program).state


def inside(part: Tensor, whole: Tensor) -> bool:
    first, last = whole.data_ptr(), whole.data_ptr() + whole.numel() * whole.element_size()
    return (
        part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
        and first <= part.data_ptr() < last
    )


def test_parts_share_the_memory_of_the_concatenation() -> None:
    model = Net(
        lambda a, b, c, x: c(torch.cat([a(x), F.relu(b(x))], 1)), conv(4, 3, 3), conv(4, 5, 1), conv(8, 2, 3)
    )
    result = plan(model)
    assert not result.notes
    assert planned_concats(result.program) == 1
    assert not named(result.program, "aten.cat")
    state = buffers(result.program)
    (whole,) = [t for n, t in state.items() if n.endswith(".buffer")]
    parts = [t for n, t in state.items() if n.startswith(("layers.0", "layers.1")) and n.endswith(".value")]
    assert whole.shape[1] == 8
    assert sorted(p.shape[1] for p in parts) == [3, 5]
    for part, first in zip(sorted(parts, key=lambda t: t.data_ptr()), (0, 3), strict=True):
        assert inside(part, whole)
        assert part.data_ptr() == whole[:, first].data_ptr()
    plan_state = Engine(result.program).plan.state
    assert sum(s.nbytes for s in plan_state if s.parent is not None) == 0


def test_densenet_s_prefixes_are_slices_of_the_longest() -> None:
    spec = ZOO["dense"]
    program = planned(captured(network(spec), *next(changing_frames(spec.shapes, 1))), BEFORE)
    result = PlanLayout().run(program)
    assert not named(result.program, "aten.cat")
    whole = [t for n, t in buffers(result.program).items() if n.endswith(".buffer")]
    assert len(whole) == 2  # one a block, though each holds three concatenations
    assert (
        sum(n.endswith(".buffer") for n in {s.parent or "" for s in Engine(result.program).plan.state}) == 2
    )


def test_shufflenet_interleaves() -> None:
    """A shuffle right behind a concatenation of its groups is a matter of strides."""
    model = Net(
        lambda a, b, c, x: c(shuffle(torch.cat([a(x), b(x)], 1)).relu()),
        conv(4, 4, 1),
        conv(4, 4, 3),
        conv(8, 4, 1),
    )
    result = plan(model)
    assert not named(result.program, "aten.transpose")
    assert not named(result.program, "aten.cat")
    (concat,) = [n for n in result.program.nodes if is_concat(n)]
    assert concat.kwargs["step"] == 2
    state = buffers(result.program)
    (whole,) = [t for n, t in state.items() if n.endswith(".buffer")]
    assert state["layers.0.1.value" if "layers.0.1.value" in state else "layers.0.0.value"].stride(
        1
    ) == 2 * whole.stride(1)


@pytest.mark.parametrize("groups", [2, 4])
def test_a_shuffle_folds_into_the_weights_after_it(groups: int) -> None:
    model = Net(lambda a, b, x: b(shuffle(a(x), groups)), conv(4, 8, 1), nn.Conv2d(8, 3, 3))
    result = plan(model)
    assert result.changed
    assert not named(result.program, "aten.transpose")
    assert [str(n.target) for n in result.program.nodes if n.op == "get_attr" and "shuffled" in str(n.target)]


def test_a_shuffle_before_a_grouped_convolution_is_copied() -> None:
    model = Net(lambda a, b, x: b(shuffle(a(x))), conv(4, 8, 1), nn.Conv2d(8, 4, 3, groups=2))
    assert any("grouped or shares its weights" in n for n in plan(model).notes)


def test_a_shuffle_with_two_readers_is_copied() -> None:
    model = Net(
        lambda a, b, x: (lambda y: (b(y), y.relu()))(shuffle(a(x))), conv(4, 8, 1), nn.Conv2d(8, 4, 3)
    )
    assert any("not read by one convolution alone" in n for n in plan(model).notes)


def test_a_shuffle_before_shared_weights_is_copied() -> None:
    model = Net(lambda a, b, x: b(shuffle(a(x))) + b(a(x)), conv(4, 8, 1), nn.Conv2d(8, 4, 3))
    result = plan(model)
    assert any("shares its weights" in n for n in result.notes)


def test_a_part_used_twice_is_copied_once() -> None:
    model = Net(
        lambda a, b, x: (lambda y: b(torch.cat([y, y, y], 1)))(a(x)), conv(4, 2, 3), nn.Conv2d(6, 4, 1)
    )
    result = plan(model)
    assert planned_concats(result.program) == 1
    assert sum("copied where it changes" in n for n in result.notes) == 2


def two(p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([p, q], 1).relu(), torch.cat([r, p], 1).relu()


def test_a_part_of_two_concatenations_is_copied_into_the_second() -> None:
    model = Net(
        lambda a, b, c, x: two(a(x), b(x), c(x)),
        conv(4, 2, 3), conv(4, 3, 1), conv(4, 2, 1),
    )  # fmt: skip
    result = plan(model)
    assert planned_concats(result.program) == 2
    assert any("it already lies in another concatenation" in n for n in result.notes)


def test_a_frame_is_copied() -> None:
    model = Net(lambda a, b, x: b(torch.cat([x, a(x)], 1)), conv(4, 2, 3), nn.Conv2d(6, 2, 1))
    assert any("a value of kind input" in n for n in plan(model).notes)


def test_a_constant_part_is_declined() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grid = nn.Buffer(torch.rand(1, 2, 9, 11))
            self.a, self.b = conv(4, 2, 3), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(torch.cat([self.a(x), self.grid.expand(2, -1, -1, -1)], 1))
            return result

    result = plan(Positions())
    assert named(result.program, "aten.cat")
    assert any("a part of it is a constant or computed densely" in n for n in result.notes)


def test_a_dense_part_still_works() -> None:
    model = Net(
        lambda a, g, b, x: b(torch.cat([a(x), g(a(x))], 1)),
        conv(4, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Conv2d(8, 2, 1),
    )
    assert planned_concats(plan(model).program) == 1


@pytest.mark.parametrize("dim", [0, 2, 3])
def test_pixels_and_streams_are_not_planned(dim: int) -> None:
    model = Net(lambda a, b, x: torch.cat([a(x), b(x)], dim).relu(), conv(4, 2, 3), conv(4, 2, 1))
    result = plan(model)
    assert planned_concats(result.program) == 0
    assert not result.changed


def test_nested_concatenations() -> None:
    model = Net(
        lambda a, b, c, x: torch.cat([torch.cat([a(x), b(x)], 1), c(x)], 1).relu(),
        conv(4, 2, 3),
        conv(4, 2, 1),
        conv(4, 3, 1),
    )
    result = plan(model)
    assert planned_concats(result.program) == 2
    assert result.notes == (
        "cat_default_1: part 0 is copied where it changes: it is a view of another buffer",
    )


def test_channels_last_concatenation() -> None:
    model = nn.Sequential(
        conv(4, 4, 3),
        Lambda(
            lambda x: torch.cat([x.permute(0, 2, 3, 1).relu(), x.permute(0, 2, 3, 1).sigmoid()], -1).tanh()
        ),
    )
    assert planned_concats(plan(model).program) == 1


def heads(behind: Any) -> Net:
    """Two heads of different sizes, joined as a detector joins them, and what follows."""
    return Net(
        lambda a, b, x: behind(torch.cat([a(x).flatten(2), b(F.max_pool2d(x, 2)).flatten(2)], -1)),
        conv(4, 6, 3),
        conv(4, 6, 1),
    )


def test_what_is_handed_out_is_permuted_part_by_part() -> None:
    """The parts lie so in memory, and the result lies as its shape says."""
    result = plan(heads(lambda y: y.permute(0, -1, 1)))
    (cat,) = named(result.program, "cat.default")
    assert cat.args[1] == 1
    assert len(named(result.program, "permute")) == 2
    (out,) = outputs_of(result.program, torch.rand(SHAPES[0], dtype=torch.float64))
    assert out.is_contiguous()
    assert not PlanLayout().run(result.program).changed


@pytest.mark.parametrize(
    "behind",
    [lambda y: (y, y.permute(0, 2, 1)), lambda y: y.permute(0, 2, 1).softmax(1)],
    ids=["another reader", "a kept value behind it"],
)
def test_other_permutations_stay(behind: Any) -> None:
    result = plan(heads(behind))
    (cat,) = named(result.program, "cat.default")
    assert cat.args[1] == -1
