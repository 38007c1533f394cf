"""A thousand frames: no drift, no growth. Half precision: the documented tolerance."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
import torch
from torch import Tensor

from tests.support.nets import ZOO, Spec, network
from tests.support.streams import assert_nodes_close, stream_of
from videoeff.passes import recipe
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.testing import TOLERANCES, moving_clip, poison, relative_error

LONG = Spec(("residual", "squeeze-excite", "shuffle"), seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_frame_1000_is_no_worse_than_frame_2(dtype: torch.dtype) -> None:
    """Errors do not add up: what is computed never starts from what was computed before.

    Two frames are compared by the same clip position, since the rounding of a frame depends on its
    content: the clip is played forwards and returns to its second frame at the end.
    """
    model = network(LONG, dtype)
    frames = list(moving_clip(100, LONG.shapes[0], dtype=dtype))
    stream = stream_of(model, frames[0])
    poison(stream)

    def error(frame: Tensor) -> float:
        with torch.no_grad():
            return relative_error(stream(frame), model(frame))

    stream(frames[0])
    second = error(frames[1])
    for number in range(2, 999):
        stream(frames[number % 100])
    last = error(frames[1])
    bound = TOLERANCES[dtype].relative
    assert second <= bound / 10
    assert last <= max(second, 2 * torch.finfo(dtype).eps)


@pytest.mark.slow
@pytest.mark.parametrize("thresholds", [InsertThresholds(), InsertThresholds(0.2, predict=1.0)], ids=str)
def test_a_thousand_frames_keep_no_memory(thresholds: InsertThresholds) -> None:
    model = network(ZOO["residual"], torch.float32)
    frames = list(moving_clip(50, ZOO["residual"].shapes[0]))
    stream = stream_of(model, frames[0], passes=[*recipe("delta")[:-1], thresholds])
    state, storages = stream.report().state_bytes, {t.data_ptr() for t in stream.values().values()}
    for frame in frames:
        stream(frame)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tensors = sum(issubclass(type(o), Tensor) for o in gc.get_objects())
        for number in range(950):
            stream(frames[number % 50])
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        more = sum(issubclass(type(o), Tensor) for o in gc.get_objects()) - tensors
    finally:
        tracemalloc.stop()
    assert grown < 64 * 1024  # bytes; a float kept per layer and frame would be ten times that
    assert more <= 0
    assert stream.report().state_bytes == state
    assert {t.data_ptr() for t in stream.values().values()} == storages
    assert stream.report().frames == 999


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    """The same model in half precision, dense, is the measure; it is itself further off from float64."""
    spec = ZOO[name]
    model = network(spec, dtype)
    clips = [list(moving_clip(5, s, dtype=dtype, seed=i)) for i, s in enumerate(spec.shapes)]
    stream = stream_of(model, *(c[0] for c in clips))
    exact = stream_of(model, *(c[0] for c in clips), passes="exact")
    poison(stream)
    poison(exact)
    for frame in zip(*clips, strict=True):
        with torch.no_grad():
            expected = model(*frame)
        with stream.observe() as seen:
            assert relative_error(stream(*frame), expected) <= TOLERANCES[dtype].relative
        assert_nodes_close(stream, seen)
        assert relative_error(exact(*frame), expected) <= 4 * torch.finfo(dtype).eps
