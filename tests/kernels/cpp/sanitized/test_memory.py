"""Memory of large outputs is used again, and only when nobody holds it any more."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.kernels import output_memory as memory
from videoeff.kernels.cpp import library
from videoeff.kernels.output_memory import OutputMemory
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

SHAPE = (1, 9, 130, 131)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 9, 3, padding=1).eval()


def stream() -> videoeff.StreamingModule:
    return videoeff.convert(model(), torch.rand(1, 3, 130, 131))


def frame(seed: int) -> Tensor:
    return torch.rand(1, 3, 130, 131, generator=torch.Generator().manual_seed(seed))


def test_a_loop_uses_two_pieces() -> None:
    streaming, seen = stream(), set()
    for seed in range(8):
        output = streaming(frame(seed))
        seen.add(output.data_ptr())
        with torch.no_grad():
            assert relative_error(output, model()(frame(seed))) < 1e-5
    assert len(seen) == 2


HOLDERS: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda t: t,
    "a view": lambda t: t[:, 2:3, ::2],
    "an array": lambda t: t.numpy(),
    "a part of an array": lambda t: memoryview(t.numpy()[0, 0, 3]),
    "dlpack": lambda t: t.__dlpack__(),
    "a graph": lambda t: (t * torch.ones(1, requires_grad=True)).sum(),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_held_is_not_written(holder: str) -> None:
    streaming = stream()
    output = streaming(frame(0))
    kept, address = output.clone(), output.data_ptr()
    held = HOLDERS[holder](output)
    del output
    gc.collect()
    for seed in range(1, 6):
        assert streaming(frame(seed)).data_ptr() != address
    if holder == "a graph":
        held.backward()
    elif holder == "dlpack":
        assert torch.equal(torch.utils.dlpack.from_dlpack(held), kept)
    elif holder == "a part of an array":
        assert torch.equal(torch.frombuffer(held, dtype=torch.float32), kept[0, 0, 3])
    else:
        assert torch.equal(torch.as_tensor(held), HOLDERS[holder](kept) if holder == "a view" else kept)


def test_what_other_processes_may_see_is_left_alone() -> None:
    streaming = stream()
    output = streaming(frame(0)).share_memory_()
    address = output.data_ptr()
    del output
    assert all(streaming(frame(seed)).data_ptr() != address for seed in range(1, 6))


def test_inference_mode_is_that_of_the_call() -> None:
    streaming = stream()
    with torch.inference_mode():
        first = streaming(frame(0))
        assert first.is_inference()
        address = first.data_ptr()
        del first
    again = streaming(frame(1))
    assert again.data_ptr() == address
    assert not again.is_inference()
    again.add_(1)


def test_a_copy_has_memory_of_its_own() -> None:
    streaming = stream()
    streaming(frame(0))
    twin = copy.deepcopy(streaming)
    assert twin(frame(1)).data_ptr() != streaming(frame(1)).data_ptr()


def test_pieces_are_few() -> None:
    pieces = OutputMemory(3)
    held = [pieces.empty(SHAPE, torch.float32) for _ in range(9)]
    assert len({t.data_ptr() for t in held}) == 9
    assert len(pieces._kept) == 3
    del held
    assert pieces.empty(SHAPE, torch.float32).shape == SHAPE
    assert pieces.empty((1, 2), torch.float16).dtype == torch.float16


def test_without_the_count_of_owners_all_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_owners", None)
    pieces = OutputMemory(2)
    pieces.empty(SHAPE, torch.float32)
    assert pieces._kept == []
