"""A stream takes the model's own call and returns its own structures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import nn

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.small_nets import (
    FORMS,
    SIZE,
    CalledTwice,
    FunctionalForm,
    Gated,
    InPlace,
    ModuleForm,
    Pair,
    Structured,
    TwoInputs,
    clip,
)
from videoeff.errors import StateError


@pytest.mark.parametrize("form", FORMS)
def test_output_structure(form: str) -> None:
    model, stream = make(Structured(form))
    for frame in clip(5):
        assert_same(stream(frame), dense(model, frame))


def test_output_classes_are_the_models_own() -> None:
    _, stream = make(Structured("nested"))
    out = stream(torch.rand(SIZE))
    assert isinstance(out[3], Pair)
    assert out[3].coarse.shape == (1, 5, 10, 12)
    assert out["levels"] == 2
    assert out["none"] is None
    _, stream = make(Structured("ordered"))
    assert isinstance(stream(torch.rand(SIZE)), OrderedDict)


@pytest.mark.parametrize("model", [CalledTwice, InPlace, ModuleForm, Gated])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_models_with_oddities(model: Callable[[], nn.Module], threshold: float) -> None:
    own, stream = make(model(), threshold=threshold)
    for index, frame in enumerate(clip(6)):
        out = stream(frame)
        if threshold == 0.0 or index == 0:
            assert_same(out, dense(own, frame))


def test_each_call_of_a_module_keeps_its_own_value() -> None:
    _, stream = make(CalledTwice())
    stream(torch.rand(SIZE))
    values = stream.values()
    assert {"shared", "shared#2", "twin"} <= set(values)
    assert not torch.equal(values["shared"], values["shared#2"])
    shared = {t.data_ptr() for t in stream.buffers() if t.ndim == 4}
    assert len(shared) == 1, "the weight of all three calls is one tensor"


def test_functional_and_module_forms_give_the_same_stream() -> None:
    modules = ModuleForm().eval()
    functions = FunctionalForm(modules).eval()
    first = videoeff.convert(modules, torch.rand(SIZE))
    second = videoeff.convert(functions, torch.rand(SIZE))
    for frame in clip(4):
        assert torch.equal(first(frame), second(frame))
    a, b = first.report(), second.report()
    assert [(x.active_share, x.macs_dense, x.macs_needed) for x in a.layers] == [
        (x.active_share, x.macs_dense, x.macs_needed) for x in b.layers
    ]


def test_arguments_by_position_by_name_and_by_default() -> None:
    model = TwoInputs().eval()
    image, depth, bias = torch.rand(SIZE), torch.rand(1, 1, 20, 24), torch.rand(1, 4, 20, 24)
    stream = videoeff.convert(model, (image, depth))
    expected = dense(model, image, depth)
    for out in (
        stream(image, depth),
        stream(image, depth=depth),
        stream(depth=depth, image=image),
        stream(image, depth, False),
        stream(image, depth, flip=False, bias=None),
    ):
        assert_same(out, expected)
    stream = videoeff.convert(model, (image, depth), kwargs={"flip": True, "bias": bias})
    expected = dense(model, image, depth, True, bias=bias)
    assert_same(stream(image, depth, bias=bias, flip=True), expected)
    assert_same(stream(image, depth, True, bias=bias), expected)
    with pytest.raises(StateError, match="is False, the stream was converted for True"):
        stream(image, depth, flip=False, bias=bias)
    with pytest.raises(StateError, match="is False, the stream was converted for True"):
        stream(image, depth, bias=bias)


def test_keyword_arguments_only() -> None:
    model = TwoInputs().eval()
    frames = {"image": torch.rand(SIZE), "depth": torch.rand(1, 1, 20, 24)}
    stream = videoeff.convert(model, (), kwargs=frames)
    assert_same(stream(**frames), dense(model, **frames))
    assert_same(stream(frames["image"], frames["depth"]), dense(model, **frames))


def test_several_inputs_change_on_their_own() -> None:
    model = TwoInputs().eval()
    image, depth = torch.rand(SIZE), torch.rand(1, 1, 20, 24)
    stream = videoeff.convert(model, (image, depth))
    stream(image, depth)
    stream.clear_report()
    depth = depth.clone()
    depth[..., 3:5, 3:5] += 1.0
    assert_same(stream(image, depth), dense(model, image, depth))
    shares = {x.name: x.active_share for x in stream.report().layers}
    assert 0.0 < (shares["c"] or 0.0) < 0.2
