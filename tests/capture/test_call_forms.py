"""Arguments and outputs of all kinds: they stream, are constants of the stream, or are refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import SIZE, clip
from videoeff.errors import CaptureError, StateError
from videoeff.testing import relative_error


class Nested:
    """Pictures with a mask, as detectors pass them."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask = tensors, mask


class Registered(Nested):
    """The same, known to PyTorch."""


class Slotted:
    """Tensors where no dictionary holds them."""

    __slots__ = ("tensors",)

    def __init__(self, tensors: Tensor) -> None:
        self.tensors = tensors


@dataclasses.dataclass
class Result:
    """An output of two parts."""

    maps: Tensor
    size: int


@dataclasses.dataclass
class Masked:
    """A picture with a mask, registered as a dataclass."""

    tensors: Tensor
    mask: Tensor


class Pair(NamedTuple):
    """The same without a registration: PyTorch knows named tuples."""

    tensors: Tensor
    mask: Tensor


class Bag(dict[str, Any]):
    """A dictionary with a name of its own, as many libraries return."""


torch.export.register_dataclass(Masked)
pytree.register_pytree_node(
    Registered, lambda v: ([v.tensors, v.mask], None), lambda leaves, _: Registered(*leaves)
)


def masked(s: Any, x: Nested) -> Any:
    return s.d(s.c(x.tensors) * x.mask)


@pytest.mark.parametrize("kind", [Registered, Pair, Masked])
def test_a_registered_class_streams(kind: Callable[..., Any]) -> None:
    model = Body(masked)
    frames = [kind(f, (f[:, :1] > 0.1).float()) for f in clip(4)]
    stream = videoeff.convert(model, (frames[0],))
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-5
    assert stream.report().convolutions_streamed == 1.0


@pytest.mark.parametrize(
    "value", [Nested(torch.rand(SIZE), torch.ones(1)), Slotted(torch.rand(SIZE)), Result(torch.rand(SIZE), 1)]
)
def test_a_class_that_is_not_registered_says_how(value: Any) -> None:
    with pytest.raises(CaptureError, match=r"argument 0 is a .*register_pytree_node.*register_dataclass"):
        videoeff.convert(Body(masked), value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(SIZE, np.float32), "numpy.ndarray.*torch.from_numpy"),
        (torch.rand(SIZE).to_sparse(), r"sparse, nested or quantized tensor.*\.to_dense\(\)"),
    ],
)
def test_values_that_are_no_frames(value: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        videoeff.convert(Body(lambda s, x, y: s.c(x)), (torch.rand(SIZE), value))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated; people have such tensors
def test_a_quantized_tensor() -> None:
    value = torch.quantize_per_tensor(torch.rand(SIZE), 0.1, 0, torch.quint8)
    with pytest.raises(CaptureError, match=r"quantized tensor.*\.dequantize\(\)"):
        videoeff.convert(Body(lambda s, x: s.c(x.dequantize())), value)


def scaled(s: Any, x: Tensor, *rest: Any) -> Any:
    return s.d(s.c(x)) * (2 if rest[0] else 3)


def scaled_in_parts(s: Any, x: Tensor, *rest: Any) -> Any:
    y = scaled(s, x, *rest)
    return y[y > 0]


@pytest.mark.parametrize("form", [scaled, scaled_in_parts])
@pytest.mark.parametrize(
    ("first", "other"),
    [
        (0, 1),
        (0.5, 0.25),
        ("000.jpg", "001.jpg"),
        (None, 3),
        (True, False),
        (True, 1),
        ({"name": "a", "index": 0}, {"name": "a", "index": 1}),
        ({"name": "a"}, {"title": "a"}),
        ((1, 2), (1, 2, 3)),
        (torch.float32, torch.float64),
        (0, torch.ones(1)),
    ],
)
def test_constants_among_the_arguments(form: Callable[..., Any], first: Any, other: Any) -> None:
    model = Body(form)
    frames = list(clip(3))
    stream = videoeff.convert(model, (frames[0], first))
    for frame in frames:
        assert relative_error(stream(frame, first), dense(model, frame, first)) < 1e-5
    with pytest.raises(StateError, match=r"converted (for|with)|convert with a tensor"):
        stream(frames[0], other)
    assert relative_error(stream(frames[1], first), dense(model, frames[1], first)) < 1e-5


@pytest.mark.parametrize("wrap", [lambda y: {"a": [y, (y, None)], "b": "text"}, lambda y: Bag(scores=y)])
def test_outputs_in_dictionaries(wrap: Callable[[Tensor], Any]) -> None:
    model = Body(lambda s, x: wrap(s.d(s.c(x))))
    frames = list(clip(3))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        found, expected = stream(frame), dense(model, frame)
        assert type(found) is type(expected)
        assert relative_error(dict(found), dict(expected)) < 1e-5


def test_outputs_of_classes_of_their_own() -> None:
    for form in (
        lambda s, x: Result(s.d(s.c(x)), 3),
        lambda s, x: Nested(s.d(s.c(x)), x),
        lambda s, x: Slotted(s.d(s.c(x))),
    ):
        model = Body(form)
        stream = videoeff.convert(model, torch.rand(SIZE))
        for frame in clip(3):
            found, expected = stream(frame), dense(model, frame)
            assert type(found) is type(expected)
            name = "maps" if isinstance(found, Result) else "tensors"
            assert relative_error(getattr(found, name), getattr(expected, name)) < 1e-5
        assert stream.report().frames == 2
        assert stream.report().convolutions_streamed == 1.0


@pytest.mark.parametrize(
    "form",
    [
        lambda s, x: (None, s.d(s.c(x)), "name", {"set": 3}),
        lambda s, x: torch.fft.rfft2(s.d(s.c(x))),
        lambda s, x: s.d(s.c(torch.complex(x, x).abs())),
        lambda s, *xs: s.d(s.c(xs[0])),
        lambda s, x, *, scale=2: s.d(s.c(x)) * scale,
    ],
)
def test_forms_that_stream(form: Callable[..., Any]) -> None:
    model = Body(form).double()
    frames = list(clip(4, SIZE, torch.float64))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        found, expected = pytree.tree_leaves(stream(frame)), pytree.tree_leaves(dense(model, frame))
        for a, b in zip(found, expected, strict=True):
            if isinstance(b, Tensor):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
            else:
                assert a == b


def test_frames_in_another_memory_format() -> None:
    model = Body(lambda s, x: s.d(s.c(x)))
    frames = [f.to(memory_format=torch.channels_last) for f in clip(4)]
    stream = videoeff.convert(model, frames[0].contiguous())
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-5
    with pytest.raises(StateError, match=r"a batch of 2, the stream keeps 1"):
        stream(torch.rand(2, *SIZE[1:]))
