"""trace-channels: chains of reshapes that only move channels become slices or index_selects."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.streams import stream_of
from videoeff.capture.export import capture
from videoeff.ir.layout import info
from videoeff.ir.program import Program
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.drop_noops import DropNoops
from videoeff.passes.trace_channels import TraceChannels
from videoeff.testing import changing_frames, poison, relative_error


class Halves(nn.Module):
    """A shuffle that merges the batch with channels and rows with columns before it splits (FastestDet's)."""

    def __init__(self, which: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.which = which

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        b, c, h, w = y.shape
        y = y.reshape(b * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        result: Tensor = y[self.which].relu()
        return result


class Merged(nn.Module):
    """A channel shuffle spelled over merged pixels, or a transposition that really moves pixels."""

    def __init__(self, moves_pixels: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.moves_pixels = moves_pixels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        b, c, h, w = y.shape
        if self.moves_pixels:
            return y.reshape(b, c, h * w).reshape(b, c, w, h).transpose(2, 3).reshape(b, c, h, w).relu()
        return y.reshape(b, 3, 2, h * w).permute(0, 2, 1, 3).reshape(b, c, h, w).relu()


def run(model: nn.Module, example: Tensor) -> tuple[Program, PassResult]:
    program = DropNoops().run(capture(model.eval(), (example,))).program
    return program, TraceChannels().run(program)


def targets(program: Program) -> list[str]:
    return [str(n.target) for n in program.nodes if n.op == "call_function"]


def test_a_strided_choice_becomes_a_slice() -> None:
    for which in (0, 1):
        for batch in (1, 2):
            example = torch.randn(batch, 3, 6, 5)
            before, result = run(Halves(which), example)
            assert result.changed
            (node,) = [n for n in result.program.nodes if str(n.target) == "aten.slice.Tensor"]
            assert node.args[1:] == (1, which, 6 + which + 1, 2)
            assert not any("reshape" in t for t in targets(result.program))
            assert not any(info(n).dense for n in result.program.nodes if n.op == "call_function")
            with torch.no_grad():
                assert torch.equal(result.program.run(example)[0], before.run(example)[0])


def test_a_permutation_becomes_an_index_select() -> None:
    example = torch.randn(2, 3, 4, 5)
    before, result = run(Merged(moves_pixels=False), example)
    (node,) = [n for n in result.program.nodes if str(n.target) == "aten.index_select.default"]
    index = node.args[2]
    assert isinstance(index, torch.fx.Node)
    assert result.program.tensor(index).tolist() == [0, 2, 4, 1, 3, 5]
    with torch.no_grad():
        assert torch.equal(result.program.run(example)[0], before.run(example)[0])


def test_moved_pixels_are_declined_with_a_note() -> None:
    example = torch.randn(1, 3, 4, 5)
    _, result = run(Merged(moves_pixels=True), example)
    assert not result.changed
    assert any("moves pixels" in note for note in result.notes)


def test_it_is_idempotent() -> None:
    _, result = run(Halves(0), torch.randn(1, 3, 6, 5))
    again = TraceChannels().run(result.program)
    assert not again.changed
    assert str(again.program) == str(result.program)


def swapped_streams(x: Tensor) -> Tensor:
    """Rows of the batch change places on the way: channels of one stream come from another."""
    y = x.reshape(2, 8, 30).flatten(0, 1).reshape(8, 2, 30).transpose(0, 1)
    return y.reshape(2, 8, 6, 5)


def test_a_chain_that_mixes_streams_is_declined_and_streams_exactly() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Lambda(swapped_streams), nn.Conv2d(8, 4, 3)).double().eval()
    shapes = ((2, 3, 6, 5),)
    (example,) = next(changing_frames(shapes, 1))
    _, result = run(model, example)
    assert not result.changed
    stream = stream_of(model, example)
    poison(stream)
    with torch.no_grad():
        for (frame,) in changing_frames(shapes, 4, seed=4):
            assert relative_error(stream(frame), model(frame)) <= 1e-12
