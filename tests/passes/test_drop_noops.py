from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import captured, outputs_of
from videoeff.ir.program import Program
from videoeff.ops.base import Lambda
from videoeff.passes.drop_noops import DropNoops

FRAME = torch.rand(1, 4, 6, 5)

NOTHING: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "dropout2d": lambda x: F.dropout2d(x, 0.5, training=False),
    "dropout-of-none": lambda x: F.dropout(x, 0.0, training=True),
    "clone": lambda x: x.clone(),
    "contiguous": lambda x: x.contiguous(),
    "detach": lambda x: x.detach(),
    "same-type": lambda x: x.to(torch.float32),
    "same-shape": lambda x: x.reshape(1, 4, 6, 5),
    "same-expand": lambda x: x.expand(1, 4, 6, 5),
    "whole-slice": lambda x: x[:, 0:4, :],
    "identity-permute": lambda x: x.permute(0, 1, 2, -1),
    "plus-0": lambda x: x + 0,
    "times-1": lambda x: x * 1.0,
    "over-1": lambda x: x / 1,
    "pool-1": lambda x: F.avg_pool2d(x, 1),
    "max-pool-1": lambda x: F.max_pool2d(x, 1),
    "adaptive-same": lambda x: F.adaptive_avg_pool2d(x, (6, 5)),
    "pad-0": lambda x: F.pad(x, (0, 0, 0, 0)),
}

SOMETHING: dict[str, Callable[[Tensor], Any]] = {
    "other-type": lambda x: x.to(torch.float64),
    "channels-permuted": lambda x: x.permute(0, 1, 3, 2)[..., :5].reshape(1, 4, 5, 5),
    "part-slice": lambda x: x[:, 1:],
    "plus-1": lambda x: x + 1,
    "times-0": lambda x: x * 0,
    "minus-from-0": lambda x: 0 - x,
    "one-over": lambda x: 1 / (x + 2),
    "floor-over-1": lambda x: torch.div(x, 1, rounding_mode="floor"),
    "plus-0-changes-type": lambda x: (x > 0.5) + 0,
    "pool-stride-2": lambda x: F.avg_pool2d(x, 1, 2),
    "pool-divisor": lambda x: F.avg_pool2d(x, 1, divisor_override=2),
    "crop-and-pad": lambda x: F.pad(x, (-1, 1)),
    "square-transposed": lambda x: x[:, :, :5].transpose(2, 3),
}


def dropped(function: Callable[[Tensor], Any]) -> Program:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Lambda(function), nn.ReLU())
    program = captured(model, FRAME)
    result = DropNoops().run(program)
    with torch.no_grad():
        for a, b in zip(outputs_of(result.program, FRAME), outputs_of(program, FRAME), strict=True):
            assert torch.equal(a, b)
    assert result.changed == (str(result.program) != str(program))
    return result.program


def count(program: Program) -> int:
    return sum(n.op == "call_function" for n in program.nodes)


@pytest.mark.parametrize("name", NOTHING)
def test_dropped(name: str) -> None:
    assert count(dropped(NOTHING[name])) == 2  # the convolution and the ReLU


@pytest.mark.parametrize("name", SOMETHING)
def test_kept(name: str) -> None:
    assert count(dropped(SOMETHING[name])) > 2


def test_active_dropout_is_kept_with_a_note() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), Lambda(lambda x: F.dropout(x, 0.5, training=True)))
    result = DropNoops().run(captured(model, FRAME))
    assert not result.changed
    assert result.notes == ("1: dropout kept: it is active at inference",)


def test_chains_and_outputs() -> None:
    """A chain that leaves the network, and an output that is the input itself."""
    model = Lambda(lambda x: (x.clone().contiguous() + 0, F.dropout(x * 1, training=False)))
    program = DropNoops().run(captured(model, FRAME)).program
    assert count(program) == 0
    assert all(torch.equal(o, FRAME) for o in outputs_of(program, FRAME))


def test_what_nobody_reads_goes_with_its_constants() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.b(x)
            result: Tensor = self.a(x)
            return result

    program = DropNoops().run(captured(Net(), FRAME)).program
    assert {str(n.target) for n in program.nodes if n.op == "get_attr"} == {"a.weight", "a.bias"}
    assert not [n for n, _ in program.module.named_buffers() if n.startswith("b.")]
