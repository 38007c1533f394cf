"""The laws of docs/design.md for the CUDA backend in float32, over small networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.recompute import gap, recomputed
from tests.support.streams import stream_of
from tests.support.triton.compare import (
    THRESHOLDS,
    Twins,
    calls,
    dense,
    entry,
    kernels,
    passes,
    same,
    squares,
    twins,
)
from tests.support.triton.nets import NETS, build
from videoeff.errors import StateError
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, moving_clip, poison, relative_error

SHAPE = (2, 3, 13, 18)
BOUND = TOLERANCES[torch.float32].relative

#: A network for each way to hold changes back, so that all meet and no more is computed than needed.
MATCHED = {
    "exact": "pyramid", "max": "gates", "l2": "residual", "rms": "pyramid", "relative": "residual",
    "blocks": "gates", "blocks-max": "pyramid", "predicted": "residual",
}  # fmt: skip


def make(name: str, device: torch.device, how: str = "exact", **options: Any) -> StreamingModule:
    """A poisoned stream of one of the networks."""
    example = torch.rand(SHAPE, device=device)
    stream = stream_of(build(name, device), example, passes=passes(how), backend="triton", **options)
    poison(stream)
    return stream


def clip(count: int, device: torch.device, seed: int = 0) -> list[Tensor]:
    """Frames with an object that moves in each stream."""
    return [f.to(device) for f in moving_clip(count, SHAPE, seed=seed)]


# ---------------------------------------------------------------- laws 1, 2, 8: equal to the dense model


@pytest.mark.parametrize("name", NETS)
def test_laws_1_and_8(name: str, device: torch.device) -> None:
    """At threshold 0 a stream equals the dense model, also on a frame that changes everywhere."""
    module, stream = build(name, device), make(name, device)
    assert set(kernels(stream).values()) == {"triton"}
    for number, frame in enumerate([*clip(2, device), torch.rand(SHAPE, device=device)]):
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND, number


@pytest.mark.parametrize("how", ["relative", "blocks"])
def test_law_2_frame_1_equals_dense(how: str, device: torch.device) -> None:
    name = MATCHED[how]
    module, stream = build(name, device), make(name, device, how)
    for frame in (clip(1, device)[0], torch.rand(SHAPE, device=device)):
        stream.reset()
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND


# ---------------------------------------------------------------- laws 3 to 6: memory


@pytest.mark.parametrize("how", ["relative", "blocks", "predicted"])
def test_law_3_a_still_clip_activates_nothing(how: str, device: torch.device) -> None:
    stream = make(MATCHED[how], device, how)
    first, second = clip(2, device)
    outputs = stream(first)
    with stream.observe() as seen:
        assert same(stream(first), outputs)
    assert not any(bool(m.any()) for m in seen.changed.values())
    assert not any(bool(m.any()) for n, m in seen.active.items() if calls(stream)[n].kind != "input")
    stream(second)
    settled = stream(second)
    assert same(stream(second), settled) or how == "predicted"


@pytest.mark.parametrize("how", ["blocks", "predicted"])
def test_law_4_reset_forgets(how: str, device: torch.device) -> None:
    stream, fresh = make(MATCHED[how], device, how), make(MATCHED[how], device, how)
    for frame in clip(2, device, seed=7):
        stream(frame)
    stream.reset()
    for frame in clip(2, device):
        assert same(stream(frame), fresh(frame))


@pytest.mark.parametrize("how", ["exact", "blocks", "predicted"])
def test_law_5_streams_do_not_influence_each_other(how: str, device: torch.device) -> None:
    """Another clip in one stream, and its reset half-way, change nothing in the other.

    Also not what it had put off: a first frame in one stream makes no other compute it.
    """
    stream, disturbed = make(MATCHED[how], device, how), make(MATCHED[how], device, how)
    for number, (frame, strange) in enumerate(zip(clip(3, device), clip(3, device, seed=9), strict=True)):
        mixed = frame.clone()
        mixed[1] = strange[1]
        if number == 2:
            disturbed.reset(stream=1)
        with stream.observe() as seen, disturbed.observe() as seen_too:
            found, expected = disturbed(mixed), stream(frame)
        assert same(entry(found, 0), entry(expected, 0)), number
        for layer, mask in seen.changed.items():
            assert torch.equal(mask[0], seen_too.changed[layer][0]), (number, layer)
        if number == 2:  # the stream that was reset is at frame 1
            truth = dense(build(MATCHED[how], device), mixed)
            assert relative_error(entry(found, 1), entry(truth, 1)) <= BOUND


@pytest.mark.parametrize("how", ["exact", "relative", "predicted"])
def test_a_stream_that_begins_is_computed_alone(how: str, device: torch.device) -> None:
    """All of its rows, and nothing of a stream whose picture rests; such a frame is not counted."""
    name = MATCHED[how]
    module, stream = build(name, device), make(name, device, how)
    (frame,) = clip(1, device)
    for _ in range(2):
        before = stream(frame)
    shown = {x.name: x.active_share for x in stream.report().layers}
    other = frame.clone()
    other[1] = torch.rand_like(other[1])
    stream.reset(stream=1)
    with stream.observe() as seen:
        found = stream(other)
    assert same(entry(found, 0), entry(before, 0))
    assert relative_error(entry(found, 1), entry(dense(module, other), 1)) <= BOUND
    for layer, call in calls(stream).items():
        if call.kind != "input":
            assert not bool(seen.active[layer][0].any()), layer
            assert bool(seen.active[layer][1].all()), layer
    assert stream.report().frames == 1
    assert {x.name: x.active_share for x in stream.report().layers} == shown
    assert same(stream(other), found)


def test_law_6_snapshot_restore_continue(device: torch.device) -> None:
    """With what was put off, which is state, too; a copy goes on by itself."""
    stream, frames = make("residual", device, "predicted"), clip(4, device)
    for frame in frames[:2]:
        stream(frame)
    saved, twin = stream.snapshot(), copy.deepcopy(stream)
    expected = [stream(f) for f in frames[2:]]
    stream.restore(saved)
    assert same(stream(frames[2]), expected[0])
    assert same(twin(frames[2]), expected[0])
    assert same(twin(frames[3]), expected[1])


# ---------------------------------------------------------------- law 7: nothing is lost


@pytest.mark.parametrize("how", ["max", "relative"])
def test_law_7_no_buffer_is_further_off_than_its_threshold(how: str, device: torch.device) -> None:
    """Right after a frame every input of every region is settled, so this holds for all pixels."""
    stream = make(MATCHED[how], device, how)
    (engine,) = stream.engines.values()
    for frame in clip(3, device):
        stream(frame)
        for call in calls(stream).values():
            new = recomputed(engine, call, (frame,))
            amount, limit = gap(call, engine, new)
            room = 1e-5 * float(new.abs().max()) * (new.shape[1] ** 0.5)
            assert bool((amount <= limit + room).all()), call.name


def test_law_7_is_statistical_with_predicted_changes(device: torch.device) -> None:
    """What was put off is estimated, not known: the error stays near (1 + π) τ in the mean square."""
    stream = make("residual", device, "predicted")
    (engine,) = stream.engines.values()
    assert any(c.prediction is not None for c in calls(stream).values())
    for frame in clip(3, device):
        stream(frame)
        for call in calls(stream).values():
            amount, limit = gap(call, engine, recomputed(engine, call, (frame,)))
            rms = (amount / torch.as_tensor(limit).clamp(min=1e-4)).square().mean().sqrt()
            assert call.prediction is None or float(rms) <= 2, call.name


# ---------------------------------------------------------------- law 9: as the reference decides


@pytest.mark.parametrize("how", THRESHOLDS)
def test_law_9_the_same_decisions_as_the_reference(how: str, device: torch.device) -> None:
    """Same buffers and masks, frame by frame, from the reference's state of the frame before."""
    pair = twins(build(MATCHED[how], device), torch.rand(SHAPE, device=device), how=how)
    for number, frame in enumerate(clip(4 if how == "predicted" else 3, device)):
        if number == 2 and how != "predicted":
            pair.stream.reset(stream=1)
            pair.reference.reset(stream=1)
        pair.frame(frame, follow=number > 0)
    assert_few_flips(pair)


class Broken(nn.Module):
    """A region that no kernel serves, between others that read it and that it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last, self.beside = nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(8, 6, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        result: Tensor = torch.relu(self.last(F.hardshrink(self.middle(y), 0.1))) + self.beside(y)
        return result


@pytest.mark.parametrize("how", ["exact", "relative", "predicted"])
def test_masks_go_to_another_backend_and_back(how: str, device: torch.device) -> None:
    pair = twins(Broken().to(device).eval(), torch.rand(SHAPE, device=device), how=how, backend="auto")
    served = kernels(pair.stream)
    assert {why.split()[0] for why in served.values()} == {"triton", "reference"}
    assert served["first"] == served["last"] == "triton"
    for number, frame in enumerate(squares(4, SHAPE, device)):
        pair.frame(frame, follow=how != "exact")
        if number == 2:  # the next frame is one stream's first
            pair.stream.reset(stream=1)
            pair.reference.reset(stream=1)
    assert_few_flips(pair)


def assert_few_flips(pair: Twins) -> None:
    """A change may be as large as the threshold, to rounding; hardly ever is it."""
    assert len(pair.flips) <= 1, pair.flips


# ---------------------------------------------------------------- the stream's own options


def test_thresholds_set_in_the_middle(device: torch.device) -> None:
    module, stream = build("gates", device), make("gates", device, "relative")
    frames = clip(5, device)
    stream(frames[0])
    stream.set_threshold(1e9)
    held = stream(frames[1])
    assert same(stream(frames[2]), held)
    stream.set_threshold(0.0)
    for frame in frames[3:]:
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND


def test_outputs_are_copies_or_the_buffers_themselves(device: torch.device) -> None:
    own, aliased = make("residual", device), make("residual", device, alias_outputs=True)
    buffers = {t.untyped_storage().data_ptr() for t in aliased.values().values()}
    first, second = clip(2, device)
    kept, held = own(first), aliased(first)
    before = [t.clone() for t in kept]
    assert all(t.untyped_storage().data_ptr() in buffers for t in held)
    expected = own(second)
    again = aliased(second)
    assert same(kept, before)
    assert same(again, expected)
    assert same(held, again)  # the same memory


def test_values_that_are_not_finite(device: torch.device) -> None:
    """Where they are let in they spread as in the dense model, and go when the frame is clean again."""
    module = (
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, 2, 1)).to(device).eval()
    )
    stream = stream_of(module, torch.rand(SHAPE, device=device), backend="triton", nan_policy="recompute")
    strict = stream_of(module, torch.rand(SHAPE, device=device), backend="triton")
    clean, bad, last = (
        torch.rand(SHAPE, device=device),
        torch.rand(SHAPE, device=device),
        torch.rand(SHAPE, device=device),
    )
    bad[0, 1, 4, 5], bad[1, 0, 9, 2] = float("nan"), float("inf")
    for frame in (clean, bad, last):
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND
    strict(clean)
    with pytest.raises(StateError, match="NaN or infinity"):  # at once, or when the flag has arrived
        _ = [strict(frame) for frame in (bad, last, last)]
    strict.reset()
    assert relative_error(strict(last), dense(module, last)) <= BOUND
