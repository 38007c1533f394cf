"""The laws of a bounded reach over random networks and moving clips."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.laws import FEW, clip, dense, entry, program, same, specs
from tests.support.nets import ZOO, Spec
from tests.support.streams import BACKENDS
from videoeff.kernels.bounded import unpacked
from videoeff.passes import Pass, recipe, run_passes
from videoeff.passes.bound_reach import BoundReach
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.recompute_expansions import RecomputeExpansions
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.thresholds import rewrite
from videoeff.testing import TOLERANCES, poison, relative_error

Frames = list[tuple[Tensor, ...]]

BOUNDS = st.builds(BoundReach, pixels=st.sampled_from([0.0, 1.0, 3.0]), refresh=st.integers(0, 7))


def make(
    spec: Spec,
    bound: BoundReach | None,
    thresholds: InsertThresholds | None = None,
    dtype: torch.dtype = torch.float64,
    backend: str = "auto",
    recompute: bool = True,
) -> StreamingModule:
    """A poisoned stream of a spec's network with a bounded reach.

    Where a backend computes a layer anew instead of keeping it, the sweep has fewer layers to go through, and
    comes to the others in other frames: ``recompute=False`` keeps all of them.
    """
    passes: list[Pass] = [
        RecomputeExpansions(least=0) if isinstance(p, RecomputeExpansions) else p
        for p in recipe("delta")
        if recompute or not isinstance(p, RecomputeExpansions)
    ]
    if thresholds is not None:
        passes[-1] = thresholds
    if bound is not None:
        passes.append(bound)
    stream = StreamingModule(Engine(run_passes(program(spec, dtype), passes), backend))
    poison(stream)
    return stream


def deferred(stream: StreamingModule) -> int:
    """How many pixels of all layers are put off."""
    total = 0
    for engine in stream.engines.values():
        for call in (i.call for i in engine.plan.instructions):
            if call.bound is not None:
                total += int(unpacked(engine.state[call.bound.deferred], call.extent[2]).sum())
    return total


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=specs(), pixels=st.sampled_from([0.0, 2.0]))
@FEW
def test_a_refresh_every_frame_is_exact(backend: str, spec: Spec, pixels: float) -> None:
    """What was put off is computed in the same frame: bit for bit the stream without a bound."""
    free, bounded = make(spec, None, backend=backend), make(spec, BoundReach(pixels, 1), backend=backend)
    for frame in clip(spec, 5):
        assert same(bounded(*frame), free(*frame))
        assert deferred(bounded) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=specs(), pixels=st.sampled_from([0.0, 2.0]), refresh=st.integers(1, 9), moving=st.integers(2, 6))
@FEW
def test_a_clip_that_stands_still_becomes_exact(
    backend: str, spec: Spec, pixels: float, refresh: int, moving: int
) -> None:
    """Wherever in a sweep it comes to rest, within ``refresh`` frames."""
    stream, frames = make(spec, BoundReach(pixels, refresh), backend=backend), clip(spec, moving)
    for frame in frames:
        stream(*frame)
    for _ in range(refresh):
        outputs = stream(*frames[-1])
    assert relative_error(outputs, dense(spec, frames[-1])) <= 1e-9
    assert deferred(stream) == 0


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=specs(), last=st.sampled_from([0.1, 0.4]), wider=st.sampled_from([4.0, math.inf]))
@FEW
def test_another_bound_in_the_last_layers(backend: str, spec: Spec, last: float, wider: float) -> None:
    """With two bounds in a network a clip that stands still becomes exact within ``refresh`` frames, too."""
    stream, frames = make(spec, BoundReach(0, 5), backend=backend), clip(spec, 4)
    for engine in stream.engines.values():
        rewrite(engine, BoundReach(wider, 5, last=last))
    assert set(stream.reaches().values()) <= {0.0, None if math.isinf(wider) else wider}
    for frame in frames:
        stream(*frame)
    for _ in range(5):
        outputs = stream(*frames[-1])
    assert relative_error(outputs, dense(spec, frames[-1])) <= 1e-9
    assert deferred(stream) == 0


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_bound_puts_work_off(name: str) -> None:
    """With no pixels around what moved, and no refresh, something is put off and the outputs differ."""
    spec = Spec(ZOO[name].blocks, ZOO[name].seed)
    stream, free = make(spec, BoundReach(0, 0)), make(spec, None)
    frames = clip(spec, 6)
    for frame in frames:
        bounded = stream(*frame)
        exact = free(*frame)
    if any(c.dense for c in (i.call for i in stream.engines[""].plan.instructions) if c.kind == "map"):
        return  # what is computed whole is near everywhere
    assert deferred(stream) > 0
    assert not same(bounded, exact)
    assert sum(x.macs_needed for x in stream.report().layers) < sum(
        x.macs_needed for x in free.report().layers
    )


@given(spec=specs(max_streams=1), bound=BOUNDS)
@FEW
def test_nothing_that_was_put_off_is_lost(spec: Spec, bound: BoundReach) -> None:
    """A frame that changes everywhere brings everything up to date."""
    stream = make(spec, bound)
    for frame in clip(spec, 5):
        stream(*frame)
    torch.manual_seed(7)
    frame = tuple(torch.rand(s, dtype=torch.float64) for s in spec.shapes)
    assert relative_error(stream(*frame), dense(spec, frame)) <= 1e-9


@given(spec=specs(), bound=BOUNDS, thresholds=st.sampled_from([InsertThresholds(), InsertThresholds(0.1)]))
@FEW
def test_streams_of_a_batch_do_not_influence_each_other(
    spec: Spec, bound: BoundReach, thresholds: InsertThresholds
) -> None:
    spec = Spec(spec.blocks, spec.seed, 3, spec.inputs, spec.outputs)
    alone = Spec(spec.blocks, spec.seed, 1, spec.inputs, spec.outputs)
    batch, single = make(spec, bound, thresholds), make(alone, bound, thresholds)
    for number, frame in enumerate(clip(spec, 7)):
        if number == 3:
            batch.reset(1)
            single.reset()
        if number == 5:
            batch.reset(0)
        outputs = batch(*frame)
        expected = single(*(f[1:2] for f in frame))
        assert relative_error(entry(outputs, 1), entry(expected, 0)) <= 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
@given(spec=specs(), pixels=st.sampled_from([0.0, 2.0]), refresh=st.integers(1, 5))
@FEW
def test_a_stream_without_refresh_stays_as_it_is(
    backend: str, spec: Spec, pixels: float, refresh: int
) -> None:
    """Shown its frame again, it computes nothing and its sweep waits."""
    spec = Spec(spec.blocks, spec.seed, 2, spec.inputs, spec.outputs)
    stream, frames = make(spec, BoundReach(pixels, refresh), backend=backend), clip(spec, 4)
    undisturbed = make(spec, BoundReach(pixels, refresh), backend=backend)
    for frame in frames:
        outputs, expected = stream(*frame), undisturbed(*frame)
    with stream.engines[""].without_refresh({0}):
        again = stream(*frames[-1])
    assert same(entry(again, 0), entry(outputs, 0))
    for frame in frames:
        assert same(entry(stream(*frame), 0), entry(undisturbed(*frame), 0))
    assert same(entry(outputs, 0), entry(expected, 0))


@given(spec=specs(), bound=BOUNDS)
@FEW
def test_a_snapshot_covers_what_was_put_off(spec: Spec, bound: BoundReach) -> None:
    stream, frames = make(spec, bound), clip(spec, 8)
    for frame in frames[:4]:
        stream(*frame)
    kept = stream.snapshot()
    first = [stream(*frame) for frame in frames[4:]]
    stream.restore(kept)
    assert all(same(stream(*frame), before) for frame, before in zip(frames[4:], first, strict=True))


@given(spec=specs(), bound=BOUNDS)
@FEW
def test_a_reset_forgets_what_was_put_off(spec: Spec, bound: BoundReach) -> None:
    stream, fresh, frames = make(spec, bound), make(spec, bound), clip(spec, 8)
    for frame in frames[:4]:
        stream(*frame)
    stream.reset()
    for frame in frames[4:]:
        assert same(stream(*frame), fresh(*frame))


@pytest.mark.slow
@given(
    spec=specs(),
    bound=BOUNDS,
    thresholds=st.sampled_from(
        [InsertThresholds(), InsertThresholds(0.1), InsertThresholds(0.2, predict=1.0)]
    ),
)
@example(Spec(("shuffle",)), BoundReach(0.0, 3), InsertThresholds())
@example(Spec(("spatial-attention", "shuffle", "concat"), 625), BoundReach(1.0, 4), InsertThresholds(0.1))
@FEW
def test_every_backend_puts_the_same_off(spec: Spec, bound: BoundReach, thresholds: InsertThresholds) -> None:
    """Node by node: the same pixels are computed and put off, with the same values."""
    ours, reference = (
        make(spec, bound, thresholds, backend=backend, recompute=False) for backend in ("auto", "reference")
    )
    for number, frame in enumerate(clip(spec, 6)):
        with ours.observe() as seen, reference.observe() as expected:
            ours(*frame), reference(*frame)
        values, expected_values = ours.engines[""].values(), reference.engines[""].values()
        assert set(values) == set(expected_values)
        for name, buffer in values.items():
            assert torch.equal(seen.active[name], expected.active[name]), f"{name}, frame {number}"
            assert relative_error(buffer, expected_values[name]) <= TOLERANCES[torch.float64].relative, name
