"""Outputs and frames belong to the caller, weights to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    FORMS,
    SIZE,
    Plain,
    Structured,
    clip,
    lively,
)


@pytest.mark.parametrize("form", FORMS)
def test_outputs_belong_to_the_caller(form: str) -> None:
    model, stream = make(Structured(form))
    kept: list[tuple[Any, Any]] = []
    for frame in clip(5):
        out = stream(frame)
        kept.append((out, pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, out)))
    for out, copied in kept:  # later frames left them alone
        assert_same(out, copied, 0.0)
    tensors = [v for v in pytree.tree_leaves(stream(frame)) if isinstance(v, Tensor)]
    for tensor in tensors:
        tensor.fill_(float("nan"))  # an edit of the caller's reaches neither state nor weights
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    for frame in clip(4, seed=1):
        assert_same(stream(frame), dense(model, frame))


def test_outputs_are_laid_out_as_by_default() -> None:
    _, stream = make(Structured("tuple"))
    for frame in clip(3):
        coarse, fine = stream(frame)
        assert coarse.is_contiguous()
        assert fine.view(1, -1).shape == (1, 4 * 20 * 24)


def test_alias_outputs_hands_out_the_buffers() -> None:
    model, stream = make(Structured("tuple"), alias_outputs=True)
    frames = list(clip(3))
    first, _ = stream(frames[0])
    before = first.clone()
    second, _ = stream(frames[1])
    assert first.data_ptr() == second.data_ptr()
    assert not torch.equal(first, before)
    assert_same((second, stream.values()["a"]), dense(model, frames[1]))


@pytest.mark.parametrize("alias", [False, True])
def test_frames_stay_the_callers(alias: bool) -> None:
    model, stream = make(Structured("views"), alias_outputs=alias)
    frame = torch.rand(SIZE)
    for index in range(5):
        frame[..., index : index + 3, 4:9] = torch.rand(1, 3, 3, 5)  # one buffer, written again and again
        before, version = frame.clone(), frame._version
        out = stream(frame)
        assert frame._version == version
        assert torch.equal(frame, before)
        assert_same(out, dense(model, before))
    frame.fill_(float("nan"))
    assert all(bool(torch.isfinite(v).all()) for v in stream.values().values())


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.repeat(1, 1, 1, 2)[..., ::2],
        lambda x: x[:, :, :1].expand(-1, -1, 20, -1),
        lambda x: x.flip(3),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    ],
    ids=["channels-last", "strided", "expanded", "flipped", "transposed"],
)
def test_frames_in_any_memory_layout(form: Callable[[Tensor], Tensor]) -> None:
    model, stream = make(Plain())
    for frame in clip(4):
        given = form(frame)
        assert_same(stream(given), dense(model, given))


def test_the_model_is_left_as_it_was() -> None:
    model = lively(Plain())
    model.register_forward_hook(lambda *_: None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    attributes = {n: set(vars(m)) for n, m in model.named_modules()}
    stream = videoeff.convert(model, torch.rand(SIZE), on_resize="replan")
    stream(torch.rand(SIZE))
    stream.set_threshold(0.2)
    stream(torch.rand(1, 3, 16, 16))
    stream.double()
    stream.train()
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype
        assert torch.equal(value, before[key])
    assert {n: set(vars(m)) for n, m in model.named_modules()} == attributes
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model.modules())
    assert len(model._forward_hooks) == 1


def test_two_streams_of_one_model_do_not_meet() -> None:
    model = lively(Plain())
    first, second = (videoeff.convert(model, torch.rand(SIZE)) for _ in range(2))
    for a, b in zip(clip(4), clip(4, seed=5), strict=True):
        assert_same(first(a), dense(model, a))
        assert_same(second(b), dense(model, b))
