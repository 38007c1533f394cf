"""Both bodies of a stream answer alike: a model captured whole, and one captured in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import videoeff
from tests.support.calls import assert_same, dense
from tests.support.detectors import detector
from tests.support.small_nets import Plain, clip, lively
from videoeff.ir.program import Program
from videoeff.runtime.streaming_module import StreamingModule


@pytest.fixture(name="whole")
def _whole() -> tuple[nn.Module, StreamingModule, list[Any]]:
    model = lively(Plain())
    frames = list(clip(4))
    return model, videoeff.convert(model, frames[0], threshold=0.1), list(frames)


@pytest.fixture(name="parts")
def _parts() -> tuple[nn.Module, StreamingModule, list[Any]]:
    torch.manual_seed(0)
    model = detector()
    frames = [[frame] for frame in clip(4, (3, 30, 40))]
    return model, videoeff.convert(model, frames[0], threshold=0.1), list(frames)


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_computing_in_the_engines_place(kind: str, request: pytest.FixtureRequest) -> None:
    model, stream, frames = request.getfixturevalue(kind)
    for frame in frames[:2]:
        stream(frame)
    before = stream.snapshot()
    asked: list[str] = []

    def compute(name: str, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        asked.append(name)
        flat = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        return pytree.tree_unflatten(list(program.run(*flat)), program.out_spec)

    found = stream.body.run_with(compute, (frames[3],), {})
    assert asked == list(stream.engines)
    assert_same(found, dense(model, frames[3]), 1e-4)
    after = stream.snapshot()
    for name, engine in before.engines.items():
        assert after.engines[name].fresh == engine.fresh
        for key, tensor in engine.tensors.items():
            assert torch.equal(after.engines[name].tensors[key], tensor), "the state is left alone"
    stream(frames[3])
    assert asked == list(stream.engines), "and the engines compute again"


@pytest.mark.parametrize("kind", ["whole", "parts"])
def test_the_signature_follows_a_cast(kind: str, request: pytest.FixtureRequest) -> None:
    _, stream, frames = request.getfixturevalue(kind)
    signature = stream.body.signature
    tensors = [v for v in pytree.tree_leaves(frames[0]) if isinstance(v, Tensor)]
    assert [s.shape for s in signature.frame_specs] == [tuple(t.shape) for t in tensors]
    args, kwargs = signature.call(tensors)
    assert_same(args, (frames[0],), 0.0)
    assert kwargs == {}
    stream.double()
    assert {s.dtype for s in stream.body.signature.frame_specs} == {torch.float64}
    assert stream.body.signature.in_spec == signature.in_spec


def test_what_each_body_says_of_itself(whole: Any, parts: Any) -> None:
    one, several = whole[1].body, parts[1].body
    assert one.surroundings() is None
    assert one.left == one.eager == ()
    assert one.outputs.specs == (((1, 4, 10, 12), torch.float32),)
    assert one.fits((whole[2][0],), {})
    assert not one.fits((whole[2][0], 1.0), {})
    around = several.surroundings()
    assert around.calls == {"backbone": 1, "head": 3}
    assert set(around.weights) == set(parts[0].state_dict())
    assert [path for path, _ in several.left] == ["", "proposals"]
    assert several.outputs is None
    assert not several.fits((parts[2][0],), {})
