"""lift-casts: casts come before what only moves values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.streams import captured
from videoeff.ir.program import Program
from videoeff.ops.base import op_name
from videoeff.passes.lift_casts import LiftCasts


class Head(nn.Module):
    """Two maps, flattened and joined as a detector's; what is cast last, and how."""

    def __init__(self, form: str = "joined") -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1, dtype=torch.bfloat16)
        self.second = nn.Conv2d(6, 6, 2, 2, dtype=torch.bfloat16)
        self.form = form

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        a: Tensor = self.first(x)
        b = self.second(a)
        joined = torch.cat([a.flatten(2), b.flatten(2)], 2).permute(0, 2, 1)
        if self.form == "read":
            return joined.float(), joined
        if self.form == "part":
            return a[:, :2].float()
        if self.form == "computed":
            return torch.relu(joined).float()
        result: Tensor = joined.float()
        return result


FRAME = torch.rand(2, 3, 8, 12).bfloat16()


def ops(program: Program) -> list[str]:
    return [op_name(n) for n in program.nodes if n.op == "call_function"]


def test_each_map_is_cast() -> None:
    before = captured(Head(), FRAME)
    result = LiftCasts().run(before)
    assert result.changed
    assert ops(result.program)[-2:] == ["cat", "permute"]
    assert ops(result.program).count("to") + ops(result.program).count("_to_copy") == 2
    assert torch.equal(result.program.run_from([FRAME], ())[0][0], before.run_from([FRAME], ())[0][0])
    assert not LiftCasts().run(result.program).changed


@pytest.mark.parametrize("form", ["read", "part", "computed"])
def test_others_stay(form: str) -> None:
    assert not LiftCasts().run(captured(Head(form), FRAME)).changed
