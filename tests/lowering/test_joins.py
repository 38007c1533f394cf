"""Outputs that join buffers are views of them, and the same values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from videoeff import StreamingModule, convert
from videoeff.lowering.joins import join
from videoeff.testing import changing_frames


class Heads(nn.Module):
    """Maps of three sizes as one list of boxes, as detectors return them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.heads = nn.ModuleList(nn.Conv2d(8, 5, 1) for _ in range(3))
        self.scores = nn.ModuleList(nn.Conv2d(8, 2, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, boxes, 7) of (B, 3, H, W)."""
        x = self.stem(x).relu()
        found = []
        for head, score in zip(self.heads, self.scores, strict=True):
            both = torch.cat([head(x), score(x).sigmoid()], 1)
            found.append(both.flatten(2).permute(0, 2, 1))
            x = nn.functional.max_pool2d(x, 2)
        return torch.cat(found, 1)


def _frames(batch: int) -> list[Tensor]:
    return [frame for (frame,) in changing_frames(((batch, 3, 12, 20),), 4, dtype=torch.float32, seed=1)]


def _stream(batch: int, alias: bool) -> tuple[nn.Module, StreamingModule]:
    torch.manual_seed(0)
    model = Heads().eval()
    return model, convert(model, _frames(batch)[0], alias_outputs=alias)


def _lies_in_state(stream: StreamingModule, value: Tensor) -> bool:
    (engine,) = stream.engines.values()
    return value.untyped_storage().data_ptr() in engine.storages


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("alias", [False, True])
def test_the_outputs_are_those_of_the_model(batch: int, alias: bool) -> None:
    model, stream = _stream(batch, alias)
    with torch.no_grad():
        for frame in _frames(batch):
            found = stream(frame)
            torch.testing.assert_close(found, model(frame))
            assert _lies_in_state(stream, found) == (alias and batch == 1)


def test_an_output_that_was_handed_out_stays() -> None:
    _, stream = _stream(1, alias=False)
    first, second = _frames(1)[:2]
    with torch.no_grad():
        found = stream(first)
        before = found.clone()
        assert not torch.equal(stream(second), before)
    assert torch.equal(found, before)


def test_what_happens_to_the_state_keeps_the_outputs() -> None:
    """Restored, copied, cast and planned anew."""
    model, stream = _stream(1, alias=True)
    frames = _frames(1)
    with torch.no_grad():
        stream(frames[0])
        state, twin = stream.snapshot(), copy.deepcopy(stream)
        stream(frames[1])
        stream.restore(state)
        for other in (stream, twin):
            torch.testing.assert_close(other(frames[2]), model(frames[2]))
            assert _lies_in_state(other, other(frames[2]))
        stream.set_thresholds({"stem": 0.01})
        stream.set_thresholds({"stem": 0.0})
        torch.testing.assert_close(stream(frames[3]), model(frames[3]))
        stream.double()
        stream.reset()
        torch.testing.assert_close(stream(frames[1].double()), model.double()(frames[1].double()))
        assert _lies_in_state(stream, stream(frames[1].double()))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_join_is_a_view_where_the_parts_lie_so(dim: int) -> None:
    whole = torch.randn(4, 6)
    parts = [whole.narrow(dim, 0, 1), whole.narrow(dim, 1, 2)]
    found = join(parts, dim)
    assert torch.equal(found, torch.cat(parts, dim))
    assert found.data_ptr() == whole.data_ptr()


def test_join_copies_what_lies_otherwise() -> None:
    a, b = torch.randn(2, 2, 3).unbind()
    apart = torch.randn(3, 2, 3)
    columns = torch.randn(6, 2).t()
    for parts, dim in (
        ([b, a], 0),
        ([a, b], 1),
        ([apart[0], apart[2]], 0),
        ([columns[:, :3], columns[:, 3:].clone()], 1),
        ([a, b.double()], 0),
        ([a, torch.empty(0, 3)], 0),
        ([a, b.reshape(3, 2).t()], 0),
    ):
        found = join(parts, dim)
        expected = torch.cat(parts, dim)
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
        assert found.data_ptr() != parts[0].data_ptr()
