"""Models that remember from frame to frame stream right or are refused by name, and are left as they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import videoeff
from tests.support.remembering import (
    REFUSED,
    SHAPE,
    STREAMING,
    CachedGrid,
    Net,
    counts,
    forget,
    hooked,
    noise,
)
from videoeff.capture.keeping import differing, leaves
from videoeff.errors import CaptureError

FRAMES = [torch.rand(SHAPE, generator=torch.Generator().manual_seed(i)) for i in range(5)]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    forget()
    yield
    forget()


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """The same model twice; a deep copy would share what a hook closes over."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        made.append(STREAMING[name]().eval())
    return made[0], made[1]


@torch.no_grad()
def run(model: nn.Module) -> list[list[Tensor]]:
    return [pytree.tree_leaves(model(frame)) for frame in FRAMES]


def assert_same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", STREAMING)
def test_streams_as_the_untouched_model(name: str) -> None:
    model, twin = pair(name)
    held = leaves(model)
    stream = videoeff.convert(model, FRAMES[0])
    assert not differing(held, leaves(model)), "convert has changed the model"
    expected = run(twin)
    assert_same(run(stream), expected)
    stream.reset()
    assert_same(run(stream), expected)
    report = stream.report()
    assert report.frames == len(FRAMES) * 2 - 2, "every part is called in every frame"
    assert report.active_share is not None
    forget()
    assert_same(run(model), expected)


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_by_name_and_left_as_it_was(name: str) -> None:
    build, named = REFUSED[name]
    model = build().eval()
    held = leaves(model)
    with pytest.raises(CaptureError, match=named):
        videoeff.convert(model, FRAMES[0])
    assert not differing(held, leaves(model))


def test_a_model_that_was_called_before_goes_on_where_it_stands() -> None:
    torch.manual_seed(0)
    model, size = CachedGrid().eval(), torch.rand(1, 3, 16, 48)
    with torch.no_grad():
        model(size)
        expected = model(FRAMES[0])[0]
        model(size)
        stream = videoeff.convert(model, FRAMES[0])
        assert model.grid.shape == (16, 48), "its own cache is of the size it saw last"
        torch.testing.assert_close(stream(FRAMES[0])[0], expected)
        counter = Net(counts).eval()
        counter(FRAMES[0])
        stream = videoeff.convert(counter, FRAMES[1])
        assert float(counter.n) == 1
        torch.testing.assert_close(stream(FRAMES[2]), counter(FRAMES[2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [lambda: Net(counts), lambda: hooked(own=False), lambda: Net(noise)])
def test_flags_hooks_and_random_numbers_are_left_alone(build: type[Net]) -> None:
    model = build().eval()
    model.d.train()
    model.c.weight.requires_grad_(False)
    attributes = {n: dict(vars(m)) for n, m in model.named_modules()}
    hooks = dict(model.c._forward_hooks)
    state, numbers, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            with contextlib.suppress(CaptureError):
                videoeff.convert(model, FRAMES[0])
            assert torch.is_grad_enabled() is grad
    assert {n: dict(vars(m)) for n, m in model.named_modules()} == attributes
    assert model.d.training
    assert not model.c.weight.requires_grad
    assert model.d.weight.requires_grad
    assert dict(model.c._forward_hooks) == hooks
    assert torch.equal(state, torch.get_rng_state())
    assert random.getstate() == numbers
    assert str(numpy_state) == str(np.random.get_state(legacy=False))


def test_a_compiled_model_is_captured_without_compiling_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).eval()
    with torch.no_grad():
        expected = model(FRAMES[0])

    def never(*_: object) -> object:
        raise AssertionError("it was compiled")

    model.compile(backend=never)
    compiled = vars(model)["_compiled_call_impl"]
    torch.testing.assert_close(videoeff.convert(model, FRAMES[0])(FRAMES[0]), expected, rtol=1e-4, atol=1e-5)
    assert vars(model)["_compiled_call_impl"] is compiled


def test_a_large_example_is_checked_too() -> None:
    """Small pictures stand for large ones; a graph that names its sizes does not take them."""

    def shuffled(s: Net, x: Tensor) -> Tensor:
        past = getattr(s, "past", 0)
        y = s.c(x)
        s.past = y.mean()
        b, c, h, w = y.shape
        return s.d(y.view(b, c, h * w).flip(1).view(b, c, h, w)) + past  # type: ignore[no-any-return]

    with pytest.raises(CaptureError, match="'past'"):
        videoeff.convert(Net(shuffled).eval(), torch.rand(1, 3, 96, 160))
