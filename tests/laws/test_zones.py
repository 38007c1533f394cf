"""The laws of zones over random networks, masks and moving clips."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.laws import clip, dense, entry, program, same
from tests.support.nets import Spec
from tests.support.streams import BACKENDS
from videoeff.ir.layout import PixelLayout
from videoeff.kernels.change_test import mask_like
from videoeff.passes import recipe, run_passes
from videoeff.passes.bound_reach import BoundReach
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import apply, as_seen
from videoeff.testing import TOLERANCES, poison, relative_error

Frame = tuple[Tensor, ...]
Masks = dict[int, Tensor]

#: What follows the input matters little here: a few networks, with one input and two, one stream and several.
SPECS = (
    Spec(("conv", "residual"), 1),
    Spec(("concat", "squeeze-excite"), 2, streams=2, outputs=2),
    Spec(("inverted", "upsample"), 3, streams=3, inputs=2),
    Spec(("group-norm", "conv"), 4, inputs=2),
)
ANY = st.sampled_from(SPECS)
SOME = settings(max_examples=8)
SEEDS = st.integers(0, 999)

NOISE = ((1e-3, 1e-3, 0.0),) * 3
#: The input's test: exact, by pixels, by blocks, with hits that grow, by the noise.
TESTS = st.one_of(
    st.just(InsertThresholds()),
    st.builds(
        InsertThresholds,
        threshold=st.sampled_from([0.05, 0.2]),
        input_test=st.sampled_from(["max", "l2", "rms", "rms-relative"]),
        block=st.sampled_from([1, 2, 3, 8]),
        dilation=st.integers(0, 2),
        weak=st.sampled_from([0.3, 1.0]),
        grow=st.integers(0, 2),
        predict=st.sampled_from([0.0, 1.0]),
    ),
    st.builds(
        InsertThresholds, threshold=st.just(0.1), noise=st.just(NOISE), block=st.sampled_from([1, 4]),
        weak=st.just(0.4), grow=st.integers(0, 1),
    ),
)  # fmt: skip


def make(
    spec: Spec, test: InsertThresholds | None = None, bound: BoundReach | None = None, backend: str = "auto"
) -> StreamingModule:
    passes = [*recipe("delta")[:-1], test or InsertThresholds(), *([] if bound is None else [bound])]
    stream = StreamingModule(Engine(run_passes(program(spec, torch.float64), passes), backend))
    poison(stream)
    return stream


def random_masks(spec: Spec, seed: int) -> Masks:
    """For each input rectangles and single pixels that are ignored, for all streams or for each its own."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for index, shape in enumerate(spec.shapes):
        rows = 1 if seed % 2 else spec.streams
        mask = torch.rand(rows, *shape[-2:], generator=generator) > 0.1
        for row in mask:
            top, left = (int(torch.randint(0, n - 1, (1,), generator=generator)) for n in shape[-2:])
            row[top : top + shape[-2] // 2, left:] = False
            row[-1, 0] = True
        found[index] = mask
    return found


def composite(frame: Frame, base: Frame, masks: Masks) -> Frame:
    """Watched pixels of one frame, ignored ones of another."""
    found = list(frame)
    for index, mask in masks.items():
        layout = PixelLayout(0, frame[index].ndim - 2, frame[index].ndim - 1)
        found[index] = torch.where(mask_like(mask, frame[index], layout), frame[index], base[index])
    return tuple(found)


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=ANY, seed=SEEDS)
@SOME
def test_threshold_0_equals_dense_on_what_the_stream_sees(backend: str, spec: Spec, seed: int) -> None:
    """Watched pixels of now, ignored ones of the first frame; bit for bit the stream that is fed these."""
    stream, plain = (make(spec, backend=backend) for _ in range(2))
    masks, frames = random_masks(spec, seed), clip(spec, 5)
    apply(stream.body, masks)
    for number, frame in enumerate(frames):
        seen = composite(frame, frames[0], masks)
        assert same(as_seen(stream.body, frame, {})[0], seen if number else frame)
        outputs = stream(*frame)
        assert same(outputs, plain(*seen)), f"frame {number}"
        error = relative_error(outputs, dense(spec, seen))
        assert error <= TOLERANCES[torch.float64].relative, f"frame {number}"
        assert same(as_seen(stream.body, frame, {})[0], seen)


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=ANY, test=TESTS, seed=SEEDS)
@SOME
def test_a_change_of_ignored_pixels_costs_nothing(
    backend: str, spec: Spec, test: InsertThresholds, seed: int
) -> None:
    stream, masks, frames = make(spec, test, backend=backend), random_masks(spec, seed), clip(spec, 3)
    apply(stream.body, masks)
    outputs = stream(*frames[0])
    torch.manual_seed(seed)
    for _ in range(2):
        other = composite(frames[0], tuple(torch.rand_like(f) + 3 for f in frames[0]), masks)
        with stream.observe() as seen:
            assert same(stream(*other), outputs)
        assert not any(bool(m.any()) for m in seen.changed.values())
        inputs = {i.call.name for i in stream.engines[""].plan.instructions if i.call.kind == "input"}
        assert not any(bool(m.any()) for n, m in seen.active.items() if n not in inputs)
    assert stream.report().macs["needed"] == 0


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=ANY, test=TESTS, seed=SEEDS, reach=st.sampled_from([None, 0.0, 2.0]))
@SOME
def test_watched_pixels_behave_as_without_zones(
    backend: str, spec: Spec, test: InsertThresholds, seed: int, reach: float | None
) -> None:
    """The bits of a stream for which nothing that is ignored changes, but for what a block spreads to."""
    bound = None if reach is None else BoundReach(reach, 4)
    plain, zoned = (make(spec, test, bound, backend) for _ in range(2))
    masks, frames = random_masks(spec, seed), clip(spec, 5)
    apply(zoned.body, masks)
    spreads = test.threshold > 0 and (test.block > 1 or test.dilation or test.grow)
    for number, frame in enumerate(frames):
        still = composite(frame, frames[0], masks)
        with plain.observe() as expected, zoned.observe() as found:
            outputs = plain(*still), zoned(*frame)
        for instruction in zoned.engines[""].plan.instructions:
            name = instruction.call.name
            if instruction.call.kind == "input" and number:
                watched = instruction.call.watched_on(torch.device("cpu"))
                assert watched is not None
                assert torch.equal(found.changed[name], expected.changed[name] & watched)
            elif not spreads:
                assert torch.equal(found.active[name], expected.active[name]), name
        if not spreads:
            assert same(*outputs), f"frame {number}"


@given(spec=ANY, test=TESTS)
@SOME
def test_zones_that_watch_everything_are_no_zones(spec: Spec, test: InsertThresholds) -> None:
    plain, zoned = make(spec, test), make(spec, test)
    size = spec.shapes[0][-2:]
    zoned.set_zones(torch.ones(size, dtype=torch.bool))
    assert str(zoned.programs[""]) == str(plain.programs[""])
    assert all(same(zoned(*frame), plain(*frame)) for frame in clip(spec, 3))


@given(spec=ANY, test=TESTS, seed=SEEDS)
@SOME
def test_every_backend_decides_like_the_reference(spec: Spec, test: InsertThresholds, seed: int) -> None:
    """The inputs' buffers and masks, and what the test saw, frame by frame."""
    streams = [make(spec, test, backend=backend) for backend in ("auto", "reference")]
    for stream in streams:
        apply(stream.body, random_masks(spec, seed))
    inputs = {i.call.name for i in streams[0].engines[""].plan.instructions if i.call.kind == "input"}
    for number, frame in enumerate(clip(spec, 5)):
        if number == 3:
            for stream in streams:
                stream.reset(spec.streams - 1)
        with streams[0].observe() as found, streams[1].observe() as expected:
            for stream in streams:
                stream(*frame)
        for name in inputs:
            assert torch.equal(found.changed[name], expected.changed[name]), f"frame {number}, {name}"
            assert torch.equal(*(stream.values()[name] for stream in streams))
    series = [stream.engines[""].recorder for stream in streams]
    for name in series[0]._figures:
        ours, theirs = (recorder.series(name)[1] for recorder in series)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True)


@given(spec=ANY, test=TESTS, seed=SEEDS)
@SOME
def test_streams_of_a_batch_do_not_influence_each_other(
    spec: Spec, test: InsertThresholds, seed: int
) -> None:
    """Each entry with its own mask is what it is alone; one that is reset begins with its next frame."""
    spec = Spec(spec.blocks, spec.seed, 3, spec.inputs, spec.outputs)
    alone = Spec(spec.blocks, spec.seed, 1, spec.inputs, spec.outputs)
    masks = {i: m.expand(3, -1, -1) for i, m in random_masks(spec, seed).items()}
    batch, single = make(spec, test), make(alone, test)
    apply(batch.body, masks)
    apply(single.body, {i: m[1:2] for i, m in masks.items()})
    for number, frame in enumerate(clip(spec, 6)):
        if number == 2:
            batch.reset(1)
            single.reset()
        if number == 4:
            batch.reset(0)
        outputs, expected = batch(*frame), single(*(f[1:2] for f in frame))
        assert relative_error(entry(outputs, 1), entry(expected, 0)) <= 1e-12


@given(spec=ANY, test=TESTS, seed=SEEDS, stop=st.integers(1, 3))
@SOME
def test_reset_snapshot_and_copies(spec: Spec, test: InsertThresholds, seed: int, stop: int) -> None:
    stream, frames = make(spec, test), clip(spec, 6)
    apply(stream.body, random_masks(spec, seed))
    for frame in frames[:stop]:
        stream(*frame)
    saved, twin = stream.snapshot(), copy.deepcopy(stream)
    expected = [stream(*f) for f in frames[stop:]]
    assert all(same(twin(*f), e) for f, e in zip(frames[stop:], expected, strict=True))
    stream.restore(saved)
    assert all(same(stream(*f), e) for f, e in zip(frames[stop:], expected, strict=True))
    stream.reset()
    fresh = make(spec, test)
    apply(fresh.body, random_masks(spec, seed))
    assert all(same(stream(*f), fresh(*f)) for f in frames[stop:])


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=ANY, seed=SEEDS)
@SOME
def test_other_zones_in_mid_stream(backend: str, spec: Spec, seed: int) -> None:
    """What is watched again counts as changed; what is ignored from now on stays as it was last."""
    stream, frames = make(spec, backend=backend), clip(spec, 7)
    first, second = random_masks(spec, seed), random_masks(spec, seed + 2)
    seen = frames[0]
    for number, frame in enumerate(frames):
        masks = [first, first, {}, second, second, second, {}][number]
        apply(stream.body, masks)
        seen = composite(frame, seen, masks) if number else frame
        assert relative_error(stream(*frame), dense(spec, seen)) <= 1e-9, f"frame {number}"
