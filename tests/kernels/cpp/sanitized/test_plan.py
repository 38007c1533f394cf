"""Native plans: the same decisions as the reference, whatever is done to a stream from outside."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.native_streams import (
    BREAKS,
    ISAS,
    SHAPE,
    THRESHOLDS,
    Net,
    clip,
    dense,
    engine_of,
    plans_of,
    streams,
)
from tests.support.streams import assert_nodes_close, captured, planned, stream_of
from videoeff import kernels
from videoeff.errors import BackendError, LoweringError, StateError
from videoeff.ir import markers
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.finite import native_all_finite
from videoeff.lowering.lower import lower
from videoeff.ops.base import Lambda
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "it is there")

# ---------------------------------------------------------------- one plan


def test_a_network_is_one_step() -> None:
    native, _, _ = streams()
    plan = engine_of(native).plan
    assert {i.kernel for i in plan.instructions} == {"cpp"}
    assert len(plan.runners) == len(plan.groups) == 1


@pytest.mark.parametrize("isa", range(len(ISAS)), ids=ISAS)
@pytest.mark.parametrize("how", THRESHOLDS)
@pytest.mark.parametrize("middle", BREAKS)
def test_every_instruction_set_decides_like_the_reference(middle: str, how: str, isa: int) -> None:
    native, reference, _ = streams(Net(BREAKS[middle]), how=how)
    assert len(plans_of(native)) == (1 if middle == "whole" else 2)
    for plan in plans_of(native):
        plan.isa = isa
    for number, frame in enumerate(clip(5)):
        if number == 3:
            native.reset(stream=1)
            reference.reset(stream=1)
        with native.observe() as seen, reference.observe() as expected:
            assert relative_error(native(frame), reference(frame)) <= 1e-9
        assert seen.changed.keys() == expected.changed.keys()
        assert seen.active.keys() == expected.active.keys()
        for name, mask in expected.changed.items():
            assert float((mask != seen.changed[name]).double().mean()) <= 2e-3, f"{name}, frame {number}"
            reached, computed = expected.active[name], seen.active[name]
            assert float((reached != computed).double().mean()) <= 2e-3, f"{name}, frame {number}"
    a, b = native.report(), reference.report()
    for left, right in zip(a.layers, b.layers, strict=True):
        assert (left.name, left.state_bytes) == (right.name, right.state_bytes)
        assert left.active_share == pytest.approx(right.active_share, abs=2e-3)
    assert a.frames == b.frames == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("middle", BREAKS)
def test_other_dtypes(middle: str, dtype: torch.dtype) -> None:
    native, _, module = streams(Net(BREAKS[middle]), dtype)
    for frame in clip(4, dtype):
        with native.observe() as seen:
            assert relative_error(native(frame), dense(module, frame)) <= TOLERANCES[dtype].relative
        assert_nodes_close(native, seen)


def test_threads_change_nothing_but_rounding() -> None:
    native, _, _ = streams()
    twin = copy.deepcopy(native)
    before = torch.get_num_threads()
    try:
        for frame in clip(3):
            torch.set_num_threads(1)
            one = native(frame)
            torch.set_num_threads(3)
            assert relative_error(twin(frame), one) <= 1e-12
    finally:
        torch.set_num_threads(before)


# ---------------------------------------------------------------- frames


@pytest.mark.parametrize(
    "form",
    [
        lambda f: f.contiguous(memory_format=torch.channels_last),
        lambda f: F.pad(f, (3, 2, 1, 1))[:, :, 1:-1, 3:-2],
        lambda f: f.transpose(2, 3).contiguous().transpose(2, 3),
        lambda f: f.flip(1).flip(1),
    ],
    ids=["channels-last", "cut-out", "columns-first", "copied"],
)
def test_frames_of_any_strides(form: Any) -> None:
    native, _, module = streams()
    for frame in clip(3):
        given = form(frame)
        assert torch.equal(given, frame)
        assert relative_error(native(given), dense(module, frame)) <= 1e-9


def test_an_expanded_frame() -> None:
    native, _, module = streams()
    native(torch.rand(SHAPE, dtype=torch.float64))
    frame = torch.rand(1, 1, 1, 40, dtype=torch.float64).expand(SHAPE)
    assert relative_error(native(frame), dense(module, frame)) <= 1e-9


def test_frames_with_depth_lie_in_any_order() -> None:
    """Channels and depth are walked as one; where their strides do not fit, a copy is."""
    module = Lambda(lambda x: x.relu() * 2)
    shape = (1, 3, 4, 9, 8)
    frame = torch.randn(shape, dtype=torch.float64)
    stream = stream_of(module, frame)
    for seed in range(2):
        torch.manual_seed(seed)
        frame = torch.randn(shape, dtype=torch.float64)
        swapped = frame.transpose(1, 2).contiguous().transpose(1, 2)
        assert relative_error(stream(swapped), module(frame)) <= 1e-12


def test_a_frame_in_the_streams_own_memory() -> None:
    """An output handed back as the next frame lies in the buffers that the frame overwrites."""
    module = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1)).double().eval()
    frame = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    stream = stream_of(module, frame, alias_outputs=True)
    expected = frame
    for _ in range(3):
        frame, expected = stream(frame), dense(module, expected)
        assert relative_error(frame, expected) <= 1e-9


def test_a_frame_that_does_not_fit_never_reaches_the_native_side() -> None:
    native, _, _ = streams()
    for wrong in (torch.rand(SHAPE), torch.rand(2, 3, 24, 39, dtype=torch.float64)):
        with pytest.raises(StateError, match="pass a frame like the example"):
            engine_of(native).step([wrong])
        with pytest.raises(StateError, match=r"argument 0 is .*, the stream (takes|was planned for)"):
            native(wrong)


# ---------------------------------------------------------------- written from outside


@pytest.mark.parametrize("middle", BREAKS)
def test_restore_forgets_what_was_derived(middle: str) -> None:
    """The sums behind a mean are kept from frame to frame; they belong to the buffers of then."""
    native, _, module = streams(Net(BREAKS[middle]))
    frames, others = list(clip(3)), list(clip(3, seed=5))
    native(frames[0])
    saved = native.snapshot()
    for frame in others:
        native(frame)
    native.restore(saved)
    assert relative_error(native(frames[1]), dense(module, frames[1])) <= 1e-9


def test_new_weights_are_packed_anew() -> None:
    native, _, module = streams()
    native(next(clip(1)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    fresh = stream_of(module, torch.rand(SHAPE, dtype=torch.float64))
    native.load_state_dict(fresh.state_dict())
    for frame in clip(2):
        assert relative_error(native(frame), dense(module, frame)) <= 1e-9


def test_casts_thresholds_and_copies() -> None:
    native, _, module = streams()
    frames = list(clip(6))
    native(frames[0])
    native.float()
    module.float()
    found, single = native(frames[1].float()), TOLERANCES[torch.float32].relative
    assert relative_error(found, dense(module, frames[1].float())) <= single
    native.double()
    module.double()
    assert relative_error(native(frames[2]), dense(module, frames[2])) <= 1e-4
    native.set_threshold(1e9)
    held = native(frames[3])
    assert relative_error(native(frames[4]), held) <= 1e-9
    native.set_threshold(0.0)
    twin = copy.deepcopy(native)
    assert relative_error(twin(frames[5]), native(frames[5])) <= 1e-12


def test_counts_survive_and_are_cleared() -> None:
    native, _, _ = streams()
    frames = list(clip(6))
    for frame in frames[:3]:
        native(frame)
    twin = copy.deepcopy(native)
    before = {x.name: x.active_share for x in native.report().layers}
    assert {x.name: x.active_share for x in twin.report().layers} == before
    native.set_threshold(0.0)
    assert {x.name: x.active_share for x in native.report().layers} == before
    assert native.report().frames == 2
    native.clear_report()
    assert {x.active_share for x in native.report().layers} == {None}
    native(frames[3])
    report = native.report()
    assert report.frames == 1
    assert all(x.active_share is not None and 0 < x.active_share <= 1 for x in report.layers)
    assert report.macs["needed"] <= report.macs["scheduled"] <= report.macs["dense"]


def test_state_is_what_the_plan_says_to_the_byte() -> None:
    for how in ("exact", "predicted"):
        native, _, _ = streams(how=how)
        native(next(clip(1)))
        engine = engine_of(native)
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in engine._state.values()
        }
        assert sum(storages.values()) == engine.state_bytes == native.report().state_bytes
        (plan,) = plans_of(native)
        beside = plan.nbytes
        pixels = sum(c.extent[0] * c.extent[1] * ((c.extent[2] + 63) // 64) for c in plan.calls)
        assert beside["masks"] >= 8 * pixels  # a bit a pixel
        assert beside["weights"] > 0
        plan.release()
        assert plan.nbytes == {"weights": 0, "masks": 0, "scratch": 0}


def test_a_failure_behind_a_group_starts_afresh() -> None:
    native, _, module = streams(Net(BREAKS["sorted"]))
    frames = list(clip(3))
    native(frames[0])
    engine = engine_of(native)
    plan = engine.plan

    def fails(_: Any) -> None:
        raise MemoryError("no room")

    import dataclasses

    engine.plan = dataclasses.replace(plan, runners=(plan.runners[0], fails, *plan.runners[1:]))
    with pytest.raises(MemoryError):
        native(frames[1])
    engine.plan = plan
    assert relative_error(native(frames[2]), dense(module, frames[2])) <= 1e-9


def test_streams_in_several_threads() -> None:
    native, _, module = streams()
    twins = [copy.deepcopy(native) for _ in range(4)]
    errors: list[float] = []

    def work(twin: StreamingModule, seed: int) -> None:
        for frame in clip(4, seed=seed):
            errors.append(relative_error(twin(frame), dense(module, frame)))

    threads = [threading.Thread(target=work, args=(t, i)) for i, t in enumerate(twins)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 16
    assert max(errors) <= 1e-9


# ---------------------------------------------------------------- backends and refusals


def test_asked_for_by_name_it_serves_or_says_why() -> None:
    program = planned(captured(Net().double(), torch.rand(SHAPE, dtype=torch.float64)))
    assert len(lower(program, "cpp").groups) == 1
    broken = planned(captured(Net(BREAKS["sorted"]).double(), torch.rand(SHAPE, dtype=torch.float64)))
    with pytest.raises(BackendError, match=r"cpp.*declines.*getitem|cpp.*declines.*sort"):
        lower(broken, "cpp")
    assert {i.kernel for i in lower(broken, "auto").instructions} == {"cpp", "reference"}
    reasons = [i.reason for i in lower(broken, "auto").instructions if i.kernel == "reference"]
    assert all(r.startswith("cpp: ") for r in reasons)


def test_without_a_library_the_reference_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_find", lambda: "nobody compiled it")
    monkeypatch.setattr(library, "warn_if_missing", lambda: None)
    program = planned(captured(Net(), torch.rand(SHAPE)))
    assert {i.kernel for i in lower(program, "auto").instructions} == {"reference"}
    with pytest.raises(BackendError, match="nobody compiled it"):
        lower(program, "cpp")
    assert native_all_finite(torch.rand(3)) is None


def test_a_refused_plan_is_an_error_with_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    native, _, _ = streams()
    (plan,) = plans_of(native)
    plan.isa = 99
    with pytest.raises(LoweringError, match="instruction set 99"):
        native(next(clip(1)))


def test_a_plan_that_stops_is_an_error() -> None:
    native, _, module = streams()
    frames = list(clip(2))
    native(frames[0])
    (plan,) = plans_of(native)

    class Stops:
        def __getattr__(self, name: str) -> Any:
            return getattr(library.load(), name)

        def vf_plan_run(self, *_: Any) -> int:
            return 4

    kept, plan._library = plan._library, Stops()  # type: ignore[assignment]
    with pytest.raises(StateError, match="out of memory"):
        native(frames[1])
    plan._library = kept
    assert relative_error(native(frames[1]), dense(module, frames[1])) <= 1e-9


def test_a_buffer_that_lies_otherwise_is_refused() -> None:
    native, _, _ = streams()
    engine = engine_of(native)
    name = next(n for n, t in engine._state.items() if t.ndim == 4 and engine.plan.state[0].parent is None)
    engine._state = {**engine._state, name: engine._state[name].transpose(2, 3).contiguous().transpose(2, 3)}
    with pytest.raises(LoweringError, match="allocate the state anew"):
        native(next(clip(1)))


def test_grouping_is_the_first_choice_and_needs_no_other() -> None:
    assert kernels.BACKENDS[0].grouping
    assert not kernels.BACKENDS[-1].grouping
    assert markers.TESTS == ("max", "l2", "rms", "rms-relative", "noise")
