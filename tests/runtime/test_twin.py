"""A twin: weights in the same memory, state, settings and counts of its own."""

from __future__ import annotations

import copy
import gc
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import videoeff
from tests.support.calls import assert_same, make
from tests.support.remembering import SHAPE, Last, Net, counts, in_parts
from tests.support.small_nets import Gated, Plain, clip, lively
from videoeff.kernels.cpp import library
from videoeff.runtime.streaming_module import StreamingModule


def _frames(stream: StreamingModule, frames: list[torch.Tensor]) -> list[torch.Tensor]:
    return [stream(frame) for frame in frames]


def test_a_twin_begins_with_its_first_frame_and_disturbs_nobody() -> None:
    _, stream = make(Gated(), threshold=0.1)
    frames = list(clip(6))
    fresh = stream.twin()
    straight = _frames(fresh, frames)
    stream(frames[0])
    twin = stream.twin()
    assert twin.report().frames == 0
    assert_same(_frames(twin, frames), straight, 0.0)
    assert_same(_frames(stream, frames[1:]), straight[1:], 0.0)


def test_twins_share_weights_and_their_packed_form() -> None:
    _, stream = make(Plain())
    frame = next(iter(clip(1)))
    stream(frame)
    constants = [t.data_ptr() for e in stream.engines.values() for t in e.network.buffers()]
    before = library.load().vf_common_bytes()
    twins = [stream.twin() for _ in range(3)]
    for twin in twins:
        assert_same(twin(frame), stream(frame), 0.0)
        assert [t.data_ptr() for e in twin.engines.values() for t in e.network.buffers()] == constants
    assert library.load().vf_common_bytes() == before > 0
    del stream, twin, twins
    gc.collect()
    assert library.load().vf_common_bytes() < before


def test_settings_of_a_twin_are_its_own() -> None:
    _, stream = make(Plain(), threshold=0.2)
    frames = list(clip(5))
    straight = _frames(stream.twin(), frames)
    twin = stream.twin()
    assert twin.thresholds() == stream.thresholds()
    twin.set_threshold(0.0)
    assert twin.exact
    assert not stream.exact
    twin.set_reach(0)
    assert set(stream.reaches().values()) == {None}
    exact = stream.twin()
    layer = next(n for n, v in exact.thresholds().items() if v > 0)
    exact.set_thresholds({layer: 0.0})
    assert stream.thresholds()[layer] == 0.2
    assert_same(_frames(stream, frames), straight, 0.0)


def test_casting_a_twin_leaves_the_others() -> None:
    model, stream = make(Plain())
    frames = list(clip(3))
    twin = stream.twin().double()
    assert_same(_frames(stream, frames), [model(f) for f in frames], 1e-5)
    assert twin(frames[0].double()).dtype == torch.float64
    assert next(stream.engines[""].network.buffers()).dtype == torch.float32


def test_what_the_model_writes_is_the_twins_own() -> None:
    for model in (Net(in_parts(counts)), Last()):
        frames = [torch.rand(SHAPE) for _ in range(4)]
        stream = videoeff.convert(lively(model), frames[0])
        straight = _frames(copy.deepcopy(stream), frames)
        stream(frames[3])
        twin = stream.twin()
        assert_same(_frames(twin, frames), straight, 0.0)


def test_twins_run_at_once_in_threads() -> None:
    _, stream = make(Gated(), threshold=0.05)
    frames = list(clip(8))
    straight = _frames(stream.twin(), frames)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda twin: _frames(twin, frames), [stream.twin() for _ in range(8)]))
    for outputs in found:
        assert_same(outputs, straight, 0.0)


def test_plans_of_other_weights_share_nothing_wrong() -> None:
    """Weights of equal size and other values are packed apart."""
    nets = [nn.Conv2d(3, 16, 3, padding=1).eval() for _ in range(3)]
    frame = torch.rand(1, 3, 12, 14)
    for net in nets:
        assert_same(videoeff.convert(net, frame)(frame), net(frame), 1e-5)
