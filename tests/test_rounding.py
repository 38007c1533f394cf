"""Float64 tells whether rounding explains a difference: what it allows, and where it cannot be asked."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.sensitive_net import build, rough
from videoeff.rounding import CEILING, FACTOR, LAW, Doubled, NoFloat64, Rounding, channels_last, run_double
from videoeff.testing import TOLERANCES, moving_clip, relative_error

FRAMES = list(moving_clip(3, (1, 3, 32, 48)))


def judged(found: nn.Module, model: nn.Module) -> Rounding:
    """What float64 says of one network that stands for another."""
    rounding, doubled = Rounding(), Doubled(model)
    with torch.no_grad():
        for frame in FRAMES:
            ours, theirs = [found(frame)], [model(frame)]
            if rounding.exceeds(ours, theirs):
                eager, exact = doubled((frame,))
                rounding.add(ours, theirs, eager, exact)
    return rounding


def test_the_law_is_that_of_the_tolerances() -> None:
    assert LAW == TOLERANCES[torch.float32].relative == 1e-4


def test_rounding_is_told_from_a_fault() -> None:
    model = build()
    fine = judged(rough(build(), 6e-8), model)
    assert fine.holds
    theirs, ours = fine.worst
    assert LAW < theirs < ours < FACTOR * theirs
    assert str(fine) == (
        "the network itself is that sensitive to float32's rounding: eager PyTorch is off by "
        f"{theirs:.1e} of float64, the stream by {ours:.1e}"
    )
    fault = judged(rough(build(), 3e-7), model)
    assert fault.errors
    assert not fault.holds
    assert "it is not rounding: eager PyTorch is off by" in str(fault)


def test_a_pixel_that_is_stale_is_no_rounding() -> None:
    class Stale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = model(x).clone()
            found[..., 5, 7] = model(FRAMES[0])[..., 9, 30]
            return found

    model = build()
    stale = judged(Stale(), model)
    assert stale.fault
    assert not stale.holds
    assert "too far apart for rounding" in str(stale)


def test_within_the_law_nothing_is_asked() -> None:
    assert judged(build(), build()).to_json() is None


@pytest.mark.parametrize(
    ("eager", "found", "holds"),
    [
        (5e-5, 1.9e-4, True),
        (5e-5, 2.1e-4, False),
        (2e-4, 7.9e-4, True),
        (3e-4, 1.1 * CEILING, False),
        (1e-7, 2e-4, False),
        (0.0, 2e-4, False),
    ],
)
def test_what_is_allowed(eager: float, found: float, holds: bool) -> None:
    exact = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    rounding = Rounding()
    rounding.add_one("0", (exact + found).float(), [(exact + eager).float()], exact)
    assert rounding.holds is holds


def test_one_fault_among_sensitive_outputs_is_enough() -> None:
    exact = [torch.ones(4, dtype=torch.float64)] * 2
    eager = [(exact[0] + 3e-4).float(), exact[1].float()]
    rounding = Rounding()
    rounding.add([(e + 5e-4).float() for e in exact], eager, [eager], exact)
    assert set(rounding.errors) == {"0", "1"}
    assert not rounding.holds


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_outputs_is_a_fault(count: int) -> None:
    rounding = Rounding()
    assert not rounding.exceeds([torch.ones(2)] * count, [torch.ones(2)] * 2)
    assert not rounding.holds
    assert rounding.fault


def test_whole_numbers_do_not_round() -> None:
    rounding = Rounding()
    labels = torch.tensor([5000, 1])
    assert not rounding.exceeds([labels + 1], [labels])
    assert not rounding.holds
    assert "whole numbers differ" in str(rounding)


def test_nothing_compared_holds_nothing() -> None:
    assert not Rounding().holds


class Code(nn.Module):
    """A convolution before some code."""

    def __init__(self, then: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.then = nn.Conv2d(3, 4, 3), then
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        return self.then(self.conv(x))


@pytest.mark.parametrize(
    "then",
    [
        lambda y: y.float() * 2,
        lambda y: y + torch.linspace(0, 1, y.shape[-1]),
        lambda y: y * torch.arange(y.shape[-1], dtype=torch.float32),
        lambda y: y + torch.arange(y.shape[-1]) / 7,
        lambda y: y.to(torch.float32).softmax(1, dtype=torch.float32),
        lambda y: torch.zeros_like(y, dtype=torch.float32) + y,
    ],
)
def test_where_code_names_float32_float64_is_computed(then: Callable[[Tensor], Any]) -> None:
    model = Code(then).eval()
    eager, exact = Doubled(model)((FRAMES[0],))
    assert [v.dtype for v in exact] == [torch.float64]
    with torch.no_grad():
        wanted = then(copy.deepcopy(model).double().conv(FRAMES[0].double()))
    assert relative_error(exact[0], wanted.double()) < 1e-6
    for ways in eager:
        assert 0 < relative_error(ways[0].double(), exact[0]) < 1e-5
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("then", "reason"),
    [
        (lambda y: y.half().double(), "computes in float16"),
        (lambda y: y.to(torch.bfloat16), "computes in bfloat16"),
    ],
)
def test_what_falls_below_float64_is_not_judged(then: Callable[[Tensor], Any], reason: str) -> None:
    model = Code(then).double()
    with pytest.raises(NoFloat64, match=reason):
        run_double(lambda a, k: model(*a, **k), (FRAMES[0],), {})


def test_what_fails_in_float64_is_not_judged() -> None:
    weight = torch.ones(2, 4, 1, 1)  # no parameter, so that it stays float32
    with pytest.raises(NoFloat64, match="type"):
        Doubled(Code(lambda y: nn.functional.conv2d(y, weight)))((FRAMES[0],))


def test_what_follows_from_grey_levels_is_float64_too() -> None:
    class Levels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.conv(x / 255)

    _, exact = Doubled(Levels())((torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8),))
    assert exact[0].dtype == torch.float64


def test_a_model_that_remembers_is_not_judged() -> None:
    class Counts(Code):
        def forward(self, x: Tensor) -> Any:
            self.get_buffer("count").add_(1)
            return super().forward(x)

    with pytest.raises(NoFloat64, match="changes buffers of its own"):
        Doubled(Counts(lambda y: y))((FRAMES[0],))


def test_the_model_is_left_alone() -> None:
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    Doubled(model)((FRAMES[0],))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_channels_last() -> None:
    values = channels_last({"a": FRAMES[0], "b": (torch.ones(3), 4)})
    assert values["a"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(values["a"], FRAMES[0])
    assert values["b"][1] == 4
