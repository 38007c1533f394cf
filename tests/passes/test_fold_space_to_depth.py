"""The pass fold-space-to-depth: slices of a picture, joined, in front of a convolution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.support.quantised import Rounded
from tests.support.streams import captured, outputs_of, read_back
from videoeff.ops.base import op_name
from videoeff.passes.base import PassResult
from videoeff.passes.fold_space_to_depth import FoldSpaceToDepth

FRAME = torch.rand(2, 3, 12, 16, dtype=torch.float64)
ORDER = ((0, 0), (1, 0), (0, 1), (1, 1))


class Focus(nn.Module):
    """Every n-th row and column from each place on, side by side, and a convolution."""

    def __init__(
        self, kernel: int = 3, stride: int = 1, padding: int = 1, step: int = 2, groups: int = 1
    ) -> None:
        super().__init__()
        self.step, self.places = (
            step,
            ORDER if step == 2 else tuple((i, j) for i in range(3) for j in range(3)),
        )
        channels = 3 * len(self.places)
        self.conv = nn.Conv2d(channels, 8 * groups, kernel, stride, padding, groups=groups)
        self.before: nn.Module = nn.Identity()

    def joined(self, x: Tensor) -> Tensor:
        parts = [self.before(x)[:, :, i :: self.step, j :: self.step] for i, j in self.places]
        return torch.cat(parts, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(self.joined(x))
        return found


def run(model: nn.Module, frame: Tensor = FRAME) -> PassResult:
    torch.manual_seed(0)
    return FoldSpaceToDepth().run(captured(model.to(frame.dtype).eval(), frame))


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [(3, 1, 1, 2), (1, 1, 0, 2), (3, 2, 1, 2), (5, 1, 2, 2), (2, 1, 0, 3)],
)
def test_one_convolution_gives_the_same(kernel: int, stride: int, padding: int, size: int) -> None:
    frame = torch.rand(2, 3, 12, 18, dtype=torch.float64)
    model = Focus(kernel, stride, padding, size).double().eval()
    result = run(model, frame)
    assert result.changed
    assert not result.notes
    assert [op_name(n) for n in result.program.nodes if n.op == "call_function"] == ["conv2d"]
    torch.testing.assert_close(outputs_of(result.program, frame)[0], model(frame), rtol=1e-12, atol=1e-12)


def test_it_is_idempotent_and_its_text_parses_back() -> None:
    result = run(Focus())
    again = FoldSpaceToDepth().run(result.program)
    assert not again.changed
    assert torch.equal(outputs_of(read_back(result.program), FRAME)[0], outputs_of(result.program, FRAME)[0])


def test_slices_of_what_is_quantised_several_times_over_are_of_one_picture() -> None:
    """Exporters quantise what each slice reads anew."""
    model, frame = Focus(), FRAME.float()
    model.before = Rounded(0.01, 3)
    result = run(model, frame)
    names = [op_name(n) for n in result.program.nodes if n.op == "call_function"]
    assert names.count("conv2d") == 1
    assert "cat" not in names
    torch.testing.assert_close(outputs_of(result.program, frame)[0], model(frame))


def test_an_odd_picture_stays() -> None:
    class Odd(Focus):
        def joined(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, :, 0:11:2, ::2], x[:, :, 1::2, ::2]], 1)

    model = Odd()
    model.conv = nn.Conv2d(6, 8, 3, padding=1)
    frame = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    result = run(model, frame)
    torch.testing.assert_close(outputs_of(result.program, frame)[0], model(frame))


def test_what_two_read_stays_and_is_noted() -> None:
    class Two(Focus):
        def forward(self, x: Tensor) -> Tensor:
            joined = self.joined(x)
            found: Tensor = self.conv(joined) + joined.mean()
            return found

    result = run(Two())
    assert not result.changed
    assert any("not read by one convolution alone" in note for note in result.notes)


def test_a_grouped_convolution_stays_and_is_noted() -> None:
    result = run(Focus(groups=2))
    assert not result.changed
    assert any("grouped" in note for note in result.notes)
