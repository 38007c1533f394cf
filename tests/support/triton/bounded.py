"""The laws of a bounded reach for the CUDA backend in float32, over small networks and clips."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.streams import stream_of
from tests.support.triton.compare import (
    THRESHOLDS,
    calls,
    dense,
    entry,
    kernels,
    same,
    squares,
    twins,
)
from tests.support.triton.nets import build
from videoeff.kernels.bounded import unpacked
from videoeff.passes import recipe
from videoeff.passes.bound_reach import BoundReach
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, moving_clip, poison, relative_error

SHAPE = (2, 3, 21, 26)
BOUND = TOLERANCES[torch.float32].relative

Cut = Callable[..., None]


def make(
    name: str, device: torch.device, bound: BoundReach | None, how: str = "exact", backend: str = "triton"
) -> StreamingModule:
    """A poisoned stream of one of the networks, with a bound of its own."""
    found = [*recipe("delta")[:-1], THRESHOLDS[how], *([] if bound is None else [bound])]
    stream = stream_of(build(name, device), torch.rand(SHAPE, device=device), passes=found, backend=backend)
    poison(stream)
    return stream


def clip(count: int, device: torch.device, seed: int = 0) -> list[Tensor]:
    """Frames with an object that moves in each stream."""
    return [f.to(device) for f in moving_clip(count, SHAPE, seed=seed)]


def deferred(stream: StreamingModule) -> dict[str, Tensor]:
    """By layer, the pixels that are put off."""
    state = stream.engines[""].state
    return {
        n: unpacked(state[c.bound.deferred], c.extent[2])
        for n, c in calls(stream).items()
        if c.bound is not None
    }


# ---------------------------------------------------------------- beside the reference


@pytest.mark.parametrize(
    ("name", "how", "tiles"),
    [
        ("residual", "bounded", (1,)), ("residual", "bounded-predicted", (1,)),
        ("gates", "bounded-blocks", (2,)), ("branches", "bounded", (4,)),
        ("pyramid", "bounded", (4, 1, 2)), ("pyramid", "bounded-relative", (1,)),
    ],
)  # fmt: skip
def test_node_by_node(name: str, how: str, tiles: tuple[int, ...], cut: Cut, device: torch.device) -> None:
    """The same pixels change to the same values. What is put off covers what the reference puts off.

    A tile that a change reaches counts as reached whole; of its other pixels none would change.
    """
    cut(tiles)
    frames = clip(4, device)
    pair = twins(build(name, device), frames[0], how=how)
    assert set(kernels(pair.stream).values()) == {"triton"}
    ever = False
    for number, frame in enumerate([*frames, frames[-1]]):
        if number == 3:
            pair.stream.reset(stream=1)
            pair.reference.reset(stream=1)
        pair.frame(frame, follow=how not in ("bounded", "bounded-predicted"))
        ours, expected = deferred(pair.stream), deferred(pair.reference)
        for layer, marks in expected.items():
            assert not bool((marks & ~ours[layer]).any()), (layer, number)
            ever |= bool(marks.any())
    assert ever
    assert len(pair.flips) <= 1


class Broken(nn.Module):
    """A bounded map behind an operator that no kernel but the reference's serves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.last(F.hardshrink(torch.relu(self.first(x)), 0.1)))
        return result


def test_what_changed_is_told_by_another_backend(device: torch.device) -> None:
    """The frame's mask goes to a plan that does not hold the frame."""
    pair = twins(Broken().to(device).eval(), torch.rand(SHAPE, device=device), how="bounded", backend="auto")
    assert {why.split()[0] for why in kernels(pair.stream).values()} == {"triton", "reference"}
    for frame in squares(5, SHAPE, device):
        pair.frame(frame)


# ---------------------------------------------------------------- what a bound promises


@pytest.mark.parametrize(("name", "pixels"), [("residual", 0.0), ("gates", 2.0), ("pyramid", 1.0)])
def test_a_refresh_every_frame_is_exact(name: str, pixels: float, device: torch.device) -> None:
    """What was put off is computed in the same frame: bit for bit the stream without a bound."""
    free, bounded = make(name, device, None), make(name, device, BoundReach(pixels, 1))
    for frame in clip(3, device):
        assert same(bounded(frame), free(frame))
        assert not any(bool(m.any()) for m in deferred(bounded).values())


@pytest.mark.parametrize(("name", "refresh"), [("residual", 3), ("pyramid", 4), ("branches", 5)])
def test_a_clip_that_stands_still_becomes_exact(name: str, refresh: int, device: torch.device) -> None:
    """Within ``refresh`` frames; then nothing is computed any more."""
    stream, frames = make(name, device, BoundReach(0, refresh)), clip(4, device)
    for frame in frames:
        stream(frame)
    assert any(bool(m.any()) for m in deferred(stream).values())
    for _ in range(refresh):
        outputs = stream(frames[-1])
    assert relative_error(outputs, dense(build(name, device), frames[-1])) <= BOUND
    assert not any(bool(m.any()) for m in deferred(stream).values())
    with stream.observe() as seen:
        assert same(stream(frames[-1]), outputs)
    assert not any(bool(m.any()) for n, m in seen.active.items() if calls(stream)[n].kind != "input")


@pytest.mark.parametrize("length", [4, 5])
def test_a_stream_without_refresh_stays_as_it_is(length: int, device: torch.device) -> None:
    """Shown its frame again, it computes nothing; the other stream is refreshed."""
    stream, frames = make("residual", device, BoundReach(0, 3)), clip(length, device)
    for frame in frames:
        outputs = stream(frame)
    before = deferred(stream)
    assert any(bool(m[0].any()) for m in before.values())
    for _ in range(3):
        with stream.engines[""].without_refresh({0}):
            found = stream(frames[-1])
    assert same(entry(found, 0), entry(outputs, 0))
    after = deferred(stream)
    assert all(torch.equal(m[0], before[layer][0]) for layer, m in after.items())
    assert not any(bool(m[1].any()) for m in after.values())


@pytest.mark.parametrize("how", ["exact", "predicted"])
def test_streams_do_not_influence_each_other(how: str, device: torch.device) -> None:
    """Another clip in one stream, and its reset half-way, change nothing in the other."""
    stream, disturbed = (make("residual", device, BoundReach(1, 4), how) for _ in range(2))
    for number, (frame, strange) in enumerate(zip(clip(4, device), clip(4, device, seed=9), strict=True)):
        mixed = frame.clone()
        mixed[1] = strange[1]
        if number == 2:
            disturbed.reset(stream=1)
        assert same(entry(disturbed(mixed), 0), entry(stream(frame), 0)), number
        expected = deferred(stream)
        for layer, marks in deferred(disturbed).items():
            assert torch.equal(marks[0], expected[layer][0]), (number, layer)
            assert number != 2 or not bool(marks[1].any())


def test_a_snapshot_moves_between_backends(device: torch.device) -> None:
    """What one put off the other computes."""
    ours, theirs = (make("residual", device, BoundReach(0, 6), backend=b) for b in ("triton", "reference"))
    frames = clip(6, device)
    for frame in frames[:3]:
        theirs(frame)
    assert any(bool(m.any()) for m in deferred(theirs).values())
    ours.restore(theirs.snapshot())
    for frame in frames[3:5]:
        assert relative_error(ours(frame), theirs(frame)) <= BOUND
    theirs.restore(ours.snapshot())
    for _ in range(6):
        outputs = theirs(frames[4])
    assert relative_error(outputs, dense(build("residual", device), frames[4])) <= BOUND


def test_less_is_computed(device: torch.device) -> None:
    """And counted: the pixels that are due, not those of their tiles."""
    stream, free = make("pyramid", device, BoundReach(0, 0)), make("pyramid", device, None)
    done = dict.fromkeys(deferred(stream), 0)
    for number, frame in enumerate(clip(4, device)):
        with stream.observe() as seen:
            stream(frame)
        free(frame)
        for layer in done:
            done[layer] += int(seen.active[layer].sum()) if number else 0
    bounded, unbounded = stream.report(), free.report()
    extents = {n: c.extent for n, c in calls(stream).items()}
    for line in bounded.layers:
        if line.name in done:
            rows, height, width = extents[line.name]
            assert line.active_share == pytest.approx(done[line.name] / (3 * rows * height * width)), (
                line.name
            )
    assert sum(x.macs_needed for x in bounded.layers) < sum(x.macs_needed for x in unbounded.layers)
