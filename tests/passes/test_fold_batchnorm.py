from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.nets import batch_norm
from tests.support.streams import captured, named, outputs_of, tensors_of
from videoeff.ir.program import Program
from videoeff.passes.fold_batchnorm import FoldBatchnorm
from videoeff.testing import relative_error

FRAME = torch.rand(2, 4, 9, 11, dtype=torch.float64)


class Net(nn.Module):
    """Layers a test puts together in a function."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.function = forward

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def fold(model: nn.Module, frame: Tensor = FRAME) -> tuple[Program, tuple[str, ...]]:
    """Run the pass; outputs must agree whatever it did."""
    program = captured(model.to(frame.dtype), frame)
    result = FoldBatchnorm().run(program)
    assert relative_error(outputs_of(result.program, frame), outputs_of(program, frame)) <= 1e-12
    return result.program, result.notes


def norms(program: Program) -> int:
    return len(named(program, "batch_norm"))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_into_the_convolution_before(groups: int, bias: bool) -> None:
    program, notes = fold(
        nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=groups, bias=bias), batch_norm(8))
    )
    assert norms(program) == 0
    assert not notes
    (conv,) = named(program, "conv2d")
    folded = {"0.weight_folded", "0.weight_folded_bias"}
    assert tensors_of(program).keys() == folded  # what the graph reads
    assert program.module.state_dict().keys() == folded  # what is kept: no original weight, no statistics
    assert not dict(program.module.named_parameters())
    assert conv.meta["module"] == "0"


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_into_a_transposed_convolution(groups: int, bias: bool) -> None:
    program, _ = fold(nn.Sequential(nn.ConvTranspose2d(4, 6, 3, 2, groups=groups, bias=bias), batch_norm(6)))
    assert norms(program) == 0


def test_into_three_dimensions() -> None:
    norm = nn.BatchNorm3d(5)
    norm.running_mean, norm.running_var = torch.rand(5), torch.rand(5) + 0.5
    program, _ = fold(nn.Sequential(nn.Conv3d(3, 5, 3), norm), torch.rand(1, 3, 4, 6, 6, dtype=torch.float64))
    assert norms(program) == 0


def test_a_norm_without_weights() -> None:
    norm = nn.BatchNorm2d(8, affine=False)
    norm.running_mean, norm.running_var = torch.rand(8), torch.rand(8) + 0.5
    program, _ = fold(nn.Sequential(nn.Conv2d(4, 8, 3), norm))
    assert norms(program) == 0


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_into_the_convolution_after(groups: int, bias: bool) -> None:
    program, notes = fold(nn.Sequential(batch_norm(4), nn.Conv2d(4, 8, 3, groups=groups, bias=bias)))
    assert norms(program) == 0
    assert not notes


def test_two_norms_in_a_row() -> None:
    program, _ = fold(nn.Sequential(nn.Conv2d(4, 4, 3), batch_norm(4), batch_norm(4)))
    assert norms(program) == 0


def test_not_forward_over_padding() -> None:
    program, notes = fold(nn.Sequential(batch_norm(4), nn.Conv2d(4, 8, 3, padding=1)))
    assert norms(program) == 1
    assert notes == (
        "0: batch norm not folded: no convolution before it; the convolution after it pads zeros",
    )


def test_not_where_the_convolution_is_read_elsewhere() -> None:
    model = Net(
        lambda m, x: m.norm(m.conv(x)).relu() + m.conv(x), conv=nn.Conv2d(4, 4, 3), norm=batch_norm(4)
    )
    once = Net(
        lambda m, x: (lambda y: m.norm(y).relu() + y)(m.conv(x)), conv=nn.Conv2d(4, 4, 3), norm=batch_norm(4)
    )
    program, notes = fold(once)
    assert norms(program) == 1
    assert "also read elsewhere" in notes[0]
    program, notes = fold(model)  # two calls with one set of weights
    assert norms(program) == 1
    assert "weights shared" in notes[0]


def test_not_where_the_norm_is_read_elsewhere_as_well() -> None:
    model = Net(
        lambda m, x: (lambda y: m.conv(y) + y[:, :, 1:-1, 1:-1])(m.norm(x)),
        norm=batch_norm(4),
        conv=nn.Conv2d(4, 4, 3),
    )
    program, notes = fold(model)
    assert norms(program) == 1
    assert "no single convolution after it" in notes[0]


def test_shared_weights_are_left_alone() -> None:
    """A head shared by two levels, each with a norm of its own."""
    model = Net(
        lambda m, x: (m.a(m.conv(x)), m.b(m.conv(F.avg_pool2d(x, 2)))),
        conv=nn.Conv2d(4, 4, 3), a=batch_norm(4), b=batch_norm(4),
    )  # fmt: skip
    program, notes = fold(model)
    assert norms(program) == 2
    assert len(notes) == 2
    assert all("weights shared" in n for n in notes)


def test_a_norm_called_twice_folds_twice() -> None:
    model = Net(
        lambda m, x: m.norm(m.b(m.norm(m.a(x)).relu())),
        a=nn.Conv2d(4, 4, 3),
        b=nn.Conv2d(4, 4, 3),
        norm=batch_norm(4),
    )
    program, _ = fold(model)
    assert norms(program) == 0


def test_weights_from_the_frame_are_left_alone() -> None:
    model = Net(
        lambda m, x: m.norm(F.conv2d(x, m.conv.weight * x.mean())),
        conv=nn.Conv2d(4, 4, 3),
        norm=batch_norm(4),
    )
    program, notes = fold(model)
    assert norms(program) == 1
    assert "computed from the frame" in notes[0]


def test_norm_parameters_from_the_frame_are_left_alone() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        code = x.mean((0, 2, 3))
        return F.batch_norm(m.conv(x), m.norm.running_mean, m.norm.running_var, code, code * 2)

    program, notes = fold(Net(forward, conv=nn.Conv2d(4, 4, 3), norm=batch_norm(4)))
    assert norms(program) == 1
    assert "computed from the frame" in notes[0]


def test_weights_that_are_an_output_too() -> None:
    model = Net(
        lambda m, x: (m.norm(m.conv(x)), m.conv.weight * 1.0), conv=nn.Conv2d(4, 4, 3), norm=batch_norm(4)
    )
    program, _ = fold(model)
    assert norms(program) == 0
    assert "conv.weight_folded" in tensors_of(program)


def test_half_precision_rounds_once() -> None:
    """Folding happens in float64, so a half-precision weight is rounded once."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), batch_norm(4)).eval()
    exact = captured(model.double(), FRAME)
    half = captured(model.half(), FRAME.half())
    folded = FoldBatchnorm().run(half).program
    (conv,) = named(folded, "conv2d")
    weight = folded.tensor(conv.args[1])  # type: ignore[arg-type]
    (truth_conv,) = named(FoldBatchnorm().run(exact).program, "conv2d")
    truth = FoldBatchnorm().run(exact).program.tensor(truth_conv.args[1])  # type: ignore[arg-type]
    assert weight.dtype == torch.float16
    assert relative_error(weight.double(), truth) <= 2 * torch.finfo(torch.float16).eps
