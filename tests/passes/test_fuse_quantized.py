"""The pass fuse-quantized: what is kept as numbers, what is not and why."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.quantised import OPS, Net, Rounded, conv
from tests.support.streams import captured, outputs_of, planned, read_back
from videoeff.analysis import annotate
from videoeff.analysis.verify import verify
from videoeff.errors import VerifyError
from videoeff.ir import edit
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.passes.base import PassResult
from videoeff.passes.fuse_quantized import FuseQuantized

BEFORE = "drop-noops,trace-channels,insert-delta-caches"
FRAME = torch.rand(1, 3, 20, 24)


def run(model: nn.Module, frame: Tensor = FRAME) -> PassResult:
    torch.manual_seed(0)
    return FuseQuantized().run(planned(captured(model.eval(), frame), BEFORE))


def grids(program: Program) -> dict[str, tuple[object, ...]]:
    return {
        cache_name(n): cache_option(n, "grid")
        for n in program.nodes
        if is_cache(n) and cache_option(n, "grid")
    }


class Small(nn.Module):
    def __init__(self, back: Rounded | None = None) -> None:
        super().__init__()
        self.conv, self.after, self.last = conv(3, 4, 3), Rounded(0.5, -3), conv(4, 2, 1)
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        codes = OPS.quantize_per_tensor(F.relu(self.conv(x)), *self.after.given)
        result: Tensor = self.last(OPS.dequantize_per_tensor(codes, *(self.back or self.after).given))
        return result


def test_a_signed_pair_becomes_an_unsigned_grid() -> None:
    result = run(Small())
    assert list(grids(result.program).values()) == [((0.5,), (125,), 0, 255, -1)]
    assert not any("quantize" in str(n.target) for n in result.program.nodes if n.op == "call_function")
    assert result.changed
    assert not result.notes


def test_it_is_idempotent_and_keeps_the_outputs() -> None:
    model = Net().eval()
    before = planned(captured(model, FRAME), BEFORE)
    result = FuseQuantized().run(before)
    again = FuseQuantized().run(result.program)
    assert not again.changed
    assert str(again.program) == str(result.program)
    for ours, expected in zip(outputs_of(result.program, FRAME), outputs_of(before, FRAME), strict=True):
        assert torch.equal(ours, expected)


def test_its_text_parses_back() -> None:
    program = run(Net()).program
    again = read_back(program)
    assert str(annotate(again)) == str(program)
    for ours, expected in zip(outputs_of(again, FRAME), outputs_of(program, FRAME), strict=True):
        assert torch.equal(ours, expected)


def test_a_pair_on_two_grids_stays() -> None:
    result = run(Small(Rounded(0.25, -3)))
    assert not grids(result.program)
    assert any("another grid" in note for note in result.notes)


def test_a_scale_that_is_computed_from_the_frame_stays() -> None:
    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            scale, zero = x.abs().max() / 127, torch.zeros((), dtype=torch.int64)
            given = (scale, zero, -128, 127, torch.int8)
            codes = OPS.quantize_per_tensor.tensor(x, *given)
            result: Tensor = self.conv(OPS.dequantize_per_tensor.tensor(codes, *given))
            return result

    result = run(Dynamic())
    assert not grids(result.program)


def test_a_zero_outside_the_grid_stays() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            given = (0.1, 0, 3, 200, torch.uint8)
            codes = OPS.quantize_per_tensor(x, *given)
            result: Tensor = self.conv(OPS.dequantize_per_tensor(codes, *given))
            return result

    result = run(Odd())
    assert not grids(result.program)
    assert any("0 lies outside its grid" in note for note in result.notes)


def test_the_same_pair_of_a_value_is_kept_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given, self.a, self.b = Rounded(0.1), conv(3, 4, 1), conv(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.a(self.given(x)) + self.b(self.given(x))
            return result

    assert len(grids(run(Twice()).program)) == 1


def test_what_picks_values_of_a_grid_lies_on_it() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.given, self.end = Rounded(0.1), conv(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.end(F.max_pool2d(self.given(x), 2)) + self.end(
                F.avg_pool2d(self.given(x), 2)
            )
            return result

    assert sorted("max_pool" in name for name in grids(run(Pool()).program)) == [False, True]


def test_parts_of_a_concatenation_on_several_grids_are_copied_as_values() -> None:
    class Join(nn.Module):
        def __init__(self, second: float) -> None:
            super().__init__()
            self.a, self.b = conv(3, 4, 1), conv(3, 4, 1)
            self.first, self.second, self.end = Rounded(0.1), Rounded(second), conv(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.end(torch.cat([self.first(self.a(x)), self.second(self.b(x))], 1))
            return result

    for second, kept in ((0.1, True), (0.2, False)):
        torch.manual_seed(0)
        model = Join(second).eval()
        program = planned(captured(model, FRAME))
        parts = [n for n in program.nodes if is_cache(n) and cache_option(n, "into")]
        assert [bool(cache_option(n, "grid")) for n in parts] == [kept, kept]
        torch.testing.assert_close(outputs_of(program, FRAME)[0], model(FRAME))


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        (((0.0,), (0,), 0, 255, -1), "scales above 0"),
        (((0.1,), (300,), 0, 255, -1), "zeros between"),
        (((0.1, 0.2), (0, 0), 0, 255, -1), "dim -1 for one scale"),
        (((0.1, 0.2), (0, 0), 0, 255, 1), "2 scale"),
        ("x", "give"),
    ],
)
def test_a_grid_that_is_none_is_refused(grid: object, why: str) -> None:
    program = run(Small()).program
    cache = next(n for n in program.nodes if is_cache(n) and cache_option(n, "grid"))
    edit.set_option(cache, grid=grid)
    with pytest.raises(VerifyError, match=why):
        verify(program)
