"""Worklists: empty, full, cut into tiles of any edge, of several streams, over odd sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.support.streams import stream_of
from tests.support.triton.compare import (
    calls,
    dense,
    entry,
    kernels,
    passes,
    same,
    squares,
    triton_plans,
    twins,
)
from tests.support.triton.nets import NETS, build
from videoeff.kernels.triton import rules
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, poison, relative_error

Cut = Callable[..., None]

SHAPE = (2, 3, 13, 18)
BOUND = TOLERANCES[torch.float32].relative

#: Ways to cut: tiles of one edge, of several at once, and channels of a pixel in several blocks.
CUTS: dict[str, dict[str, Any]] = {
    "tiles-2": {"tiles": (2,)},
    "tiles-4": {"tiles": (4,)},
    "tiles-mixed": {"tiles": (4, 1, 2)},
    "narrow": {"tiles": (1, 2), "narrow": True},
}


def shares(stream: StreamingModule) -> dict[str, float | None]:
    """Share of the pixels computed, by layer, inputs left out."""
    inputs = {n for n, c in calls(stream).items() if c.kind == "input"}
    return {x.name: x.active_share for x in stream.report().layers if x.name not in inputs}


@pytest.mark.parametrize(
    ("name", "way", "how"),
    [
        ("residual", "tiles-2", "exact"), ("residual", "narrow", "relative"), ("gates", "tiles-4", "blocks"),
        ("gates", "narrow", "max"), ("pyramid", "tiles-mixed", "exact"), ("pyramid", "narrow", "rms"),
    ],
)  # fmt: skip
def test_cuts(name: str, way: str, how: str, cut: Cut, device: torch.device) -> None:
    """However the work is cut, the same pixels change to the same values."""
    cut(**CUTS[way])
    frames = list(squares(3, SHAPE, device))
    pair = twins(build(name, device), frames[0], how=how)
    assert set(kernels(pair.stream).values()) == {"triton"}
    for frame in frames:
        pair.frame(frame, follow=how != "exact")
    assert len(pair.flips) <= 1


@pytest.mark.parametrize(("name", "how"), [("residual", "l2"), ("gates", "relative"), ("pyramid", "exact")])
def test_lists_of_a_stream(name: str, how: str, cut: Callable[..., None], device: torch.device) -> None:
    """After a frame each list holds the tiles stamped with its number, each once; they were counted."""
    cut((4, 1, 2))
    stream = stream_of(
        build(name, device), torch.rand(SHAPE, device=device), passes=passes(how), backend="triton"
    )
    poison(stream)
    (plan,) = triton_plans(stream)
    regions = {n: c for n, c in calls(stream).items() if c.kind != "input"}
    pixels = dict.fromkeys(regions, 0)
    for number, frame in enumerate(squares(3, SHAPE, device)):
        with stream.observe() as seen:
            stream(frame)
        if number == 0:  # everything was computed
            continue
        for layer in regions:
            worklist = plan.worklists[layer]
            assert plan.memory is not None
            count = int(plan.memory.count(worklist)[0])
            tiles = worklist.tensors["listed"][:count].tolist()
            stamped = torch.nonzero(worklist.tensors["stamps"] == plan.memory.frame).flatten().tolist()
            assert len(set(tiles)) == count, f"{layer}: a tile twice"
            assert set(tiles) == set(stamped), layer
            assert bool(seen.active[layer].any()) == bool(tiles), layer
            pixels[layer] += int(seen.active[layer].sum())
    shares = {x.name: x.active_share for x in stream.report().layers}
    for layer, call in regions.items():  # at the border tiles are cut off
        assert shares[layer] == pytest.approx(pixels[layer] / (2 * math.prod(call.extent))), layer


@pytest.mark.parametrize("name", NETS)
def test_a_still_clip_lists_nothing(name: str, device: torch.device) -> None:
    stream = stream_of(build(name, device), next(squares(1, SHAPE, device)), backend="triton")
    poison(stream)
    (frame,) = squares(1, SHAPE, device)
    first = stream(frame)
    for _ in range(2):
        assert same(stream(frame.clone()), first)
    assert set(shares(stream).values()) == {0.0}
    assert stream.report().frames == 2


@pytest.mark.parametrize(
    ("name", "whole_from"), [("residual", 0.75), ("gates", 0.0), ("gates", 2.0), ("pyramid", 2.0)]
)
def test_a_frame_that_changes_everywhere(
    name: str, whole_from: float, cut: Cut, device: torch.device
) -> None:
    """All tiles in order, or all tiles as they come off a full list."""
    cut((2, 1), whole_from=whole_from)
    module = build(name, device)
    stream = stream_of(module, torch.rand(SHAPE, device=device), backend="triton")
    poison(stream)
    for _ in range(2):
        frame = torch.rand(SHAPE, device=device)
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND
    assert set(shares(stream).values()) == {1.0}


@pytest.mark.parametrize(
    ("name", "how"), [("residual", "exact"), ("pyramid", "relative"), ("gates", "exact")]
)
def test_large_blocks_for_long_lists(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    """Convolutions whose blocks differ with the length of the list; a frame has lists of both kinds."""
    from videoeff.kernels.triton import configs, plan

    def choose(call: Any, form: Any, *rest: Any) -> Any:
        config = configs.choose(call, form, *rest)
        if configs.kind_of(form) not in rules.LONG or call.prediction is not None:
            return config
        most = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2
        size = {"BM": 64, "BN": 16, "long_BM": 128} if most > 2 else {"BM": 16, "BN": 16, "long_BM": 32}
        return replace(config, U=1, long_BN=32, programs=1, **size)

    monkeypatch.setattr(plan, "choose", choose)
    shape = SHAPE if device.type == "cpu" else (2, 3, 250, 300)
    frames = [*squares(3, shape, device), torch.rand(shape, device=device)]
    pair = twins(build(name, device), frames[0], how=how)
    met = set()
    for frame in frames:
        pair.frame(frame, follow=how != "exact")
        (group,) = triton_plans(pair.stream)
        assert group.memory is not None
        for launch in group.launches:
            if launch.arguments.get("LONG") is not None:
                listed = int(group.memory.count(group.worklists[launch.layer])[0])
                met.add("long" if listed >= launch.arguments["many"] else "short" if listed else "none")
    assert {"long", "short"} <= met
    assert len(pair.flips) <= 1


def test_the_switch_to_all_tiles(cut: Cut, device: torch.device) -> None:
    """From a share of the tiles on, all of them are computed; below it, those on the list."""
    module = nn.Conv2d(1, 2, 1).to(device).eval()
    for share, expected in ((0.5, 4 / 64), (4 / 64, 4 / 64), (3 / 64, 1.0)):
        cut((1,), whole_from=share)
        frame = torch.rand(1, 1, 8, 8, device=device)
        stream = stream_of(module, frame, backend="triton")
        poison(stream)
        stream(frame)
        frame = frame.clone()
        frame[..., 3:5, 3:5] += 1
        result = stream(frame)
        assert relative_error(result, dense(module, frame)) <= BOUND
        assert list(shares(stream).values()) == [expected]


@pytest.mark.parametrize("size", [(1, 13), (17, 1), (7, 5)], ids=str)
def test_odd_sizes(size: tuple[int, int], cut: Cut, device: torch.device) -> None:
    """Maps smaller than a tile, and such that no tile ends where the map does."""
    cut((4, 2, 1))
    shape = (2, 3, *size)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(8, 17, 1), nn.ConvTranspose2d(17, 3, 3, 2, 1),
    ).to(device).eval()  # fmt: skip
    frames = [torch.rand(shape, device=device)]
    for corner in ((0, 0), (-1, -1)):
        frames.append(frames[-1].clone())
        frames[-1][len(frames) % 2, :, corner[0], corner[1]] += 1
    pair = twins(module, frames[0])
    for frame in frames:
        pair.frame(frame)


def test_three_streams(cut: Cut, device: torch.device) -> None:
    """Streams in one batch are what each would be alone, also while one of them starts afresh."""
    cut((2,))
    module, how = build("gates", device), passes("relative")
    clips = [list(squares(3, (1, *SHAPE[1:]), device, seed=i)) for i in range(3)]
    together = stream_of(module, torch.cat([c[0] for c in clips]), passes=how, backend="triton")
    alone = {i: stream_of(module, clips[i][0], passes=how, backend="triton") for i in (1, 2)}
    for stream in (together, *alone.values()):
        poison(stream)
    for number in range(3):
        if number == 2:
            together.reset(stream=1)
            alone[1].reset()
        found = together(torch.cat([c[number] for c in clips]))
        for index, stream in alone.items():
            expected = stream(clips[index][number])
            assert relative_error(entry(found, slice(index, index + 1)), expected) <= 1e-5, (number, index)
    with together.observe() as seen:
        frame = torch.cat([c[2] for c in clips])
        frame[2, :, 5, 5] += 3
        together(frame)
    for layer, mask in seen.active.items():
        if calls(together)[layer].kind != "input":
            assert not bool(mask[:2].any()), f"{layer}: a stream was computed that rests"


def test_frames_of_any_strides(device: torch.device) -> None:
    module = nn.Conv2d(3, 8, 3, 2, 1).to(device).eval()
    stream = stream_of(module, torch.rand(SHAPE, device=device), backend="triton")
    poison(stream)
    forms: list[Callable[[Tensor], Tensor]] = [
        lambda f: f,
        lambda f: f.contiguous(memory_format=torch.channels_last),
        lambda f: nn.functional.pad(f, (3, 2, 1, 1))[:, :, 1:-1, 3:-2],
        lambda f: f.transpose(2, 3).contiguous().transpose(2, 3),
        lambda f: f[:, :1].expand(SHAPE),
    ]
    for form in forms:
        frame = form(torch.rand(SHAPE, device=device))
        assert relative_error(stream(frame), dense(module, frame)) <= BOUND
