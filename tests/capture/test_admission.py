"""Models and calls that people have and that no export takes: they work, or are refused with what to give."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.errors import CaptureError, StateError
from videoeff.testing import moving_clip, relative_error

FRAMES = list(moving_clip(3, (1, 3, 24, 20)))
Pair = namedtuple("Pair", "tensors mask")


def conv(inputs: int = 3, outputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def net() -> nn.Sequential:
    return nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)).eval()


class Function(nn.Module):
    """A convolution and a function that uses it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.function = conv(), function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.conv, *args, **kwargs)


@dataclasses.dataclass
class Masked:
    """A picture with a mask, as detr's nested tensors."""

    tensors: Tensor
    mask: Tensor


class Opaque:
    """The same, in a class that nobody registered."""

    def __init__(self, tensors: Tensor, mask: Tensor) -> None:
        self.tensors, self.mask = tensors, mask


@dataclasses.dataclass
class Result:
    """What a model may return."""

    scores: Tensor
    count: int = 1


class Bag(dict[str, Any]):
    """A dictionary with a name of its own, as many libraries return."""


torch.export.register_dataclass(Masked)


def scripted() -> nn.Module:
    model: nn.Module = torch.jit.script(net())
    return model


def traced() -> nn.Module:
    model: nn.Module = torch.jit.trace(net(), FRAMES[0])  # type: ignore[no-untyped-call]
    return model


def frozen() -> nn.Module:
    model: nn.Module = torch.jit.freeze(torch.jit.script(net()))
    return model


def scripted_inside() -> nn.Module:
    return nn.Sequential(conv(3, 3), scripted()).eval()


def static_int8() -> nn.Module:
    from torch.ao import quantization

    model = nn.Sequential(quantization.QuantStub(), conv(), nn.ReLU(), quantization.DeQuantStub()).eval()
    model.qconfig = quantization.get_default_qconfig()  # type: ignore[no-untyped-call]
    prepared = quantization.prepare(model)  # type: ignore[no-untyped-call]
    prepared(FRAMES[0])
    converted: nn.Module = quantization.convert(prepared)  # type: ignore[no-untyped-call]
    return converted


def dynamic_int8() -> nn.Module:
    from torch.ao import quantization

    model = nn.Sequential(conv(), nn.Flatten(), nn.Linear(8 * 24 * 20, 5)).eval()
    made: nn.Module = quantization.quantize_dynamic(model, {nn.Linear})  # type: ignore[no-untyped-call]
    return made


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(4, 3)).eval()


def without_memory() -> nn.Module:
    return net().to("meta")


quantised = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor", "ignore:.*reduce_range",
    "ignore:.*quantize.*:UserWarning", "ignore:.*TypedStorage.*",
)  # fmt: skip
script = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning"
)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(scripted, "the model is TorchScript .* give the torch.nn.Module", marks=script),
        pytest.param(traced, "the model is TorchScript .* give the torch.nn.Module", marks=script),
        pytest.param(frozen, "the model is TorchScript .* give the torch.nn.Module", marks=script),
        pytest.param(scripted_inside, "1 .* is TorchScript", marks=script),
        pytest.param(
            static_int8,
            r"1 \(Conv2d\) is an int8 layer of torch.ao.quantization, .* float model",
            marks=quantised,
        ),
        (lazy, "0.weight of a lazy layer has no size yet; call the model once"),
        (without_memory, "0.weight is on the meta device and has no values; load the weights"),
    ],
)
def test_a_model_that_cannot_be_captured_is_named(make: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(CaptureError, match=said):
        videoeff.convert(make(), FRAMES[0])


@quantised
def test_dynamic_int8_streams_what_is_float() -> None:
    model = dynamic_int8()
    stream = videoeff.convert(model, FRAMES[0])
    with torch.no_grad():
        for frame in FRAMES:
            assert relative_error(stream(frame), model(frame)) <= 1e-4


def test_a_call_with_an_object_says_how_to_register_it() -> None:
    model = Function(lambda conv, n: conv(n.tensors) * n.mask).eval()
    with pytest.raises(CaptureError, match=r"argument 0 is a .*Opaque, .*register_pytree_node\("):
        videoeff.convert(model, Opaque(FRAMES[0], FRAMES[0][:, :1]))


@pytest.mark.parametrize("kind", [Masked, Pair])
def test_a_registered_class_streams(kind: Callable[[Tensor, Tensor], Any]) -> None:
    model = Function(lambda conv, n: conv(n.tensors) * n.mask).eval()
    calls = [(kind(f, f[:, :1]),) for f in FRAMES]
    stream = videoeff.convert(model, calls[0])
    with torch.no_grad():
        for call in calls:
            assert relative_error(stream(*call), model(*call)) <= 1e-5


def test_numbers_and_names_are_constants_of_the_stream() -> None:
    model = Function(lambda conv, x, n=1, name="a": conv(x) * n + len(name)).eval()
    stream = videoeff.convert(model, (FRAMES[0], 2, "ab"))
    with torch.no_grad():
        assert relative_error(stream(FRAMES[1], 2, "ab"), model(FRAMES[1], 2, "ab")) <= 1e-5
    with pytest.raises(StateError, match="argument 1 is 3, the stream was converted for 2; convert again"):
        stream(FRAMES[1], 3, "ab")
    with pytest.raises(StateError, match="argument 2 is 'c', the stream was converted for 'ab'"):
        stream(FRAMES[1], 2, "c")


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_what_wraps_a_model_is_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    stream = videoeff.convert(wrap(model), FRAMES[0])
    with torch.no_grad():
        for frame in FRAMES:
            assert relative_error(stream(frame), model(frame)) <= 1e-5


@pytest.mark.parametrize("in_parts", [False, True])
def test_weights_of_inference_mode(in_parts: bool) -> None:
    with torch.inference_mode():
        inner = net()

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.inner(x)
            return y if not in_parts or float(y.sum()) > -1e9 else -y

    model = Branches().eval()
    stream = videoeff.convert(model, FRAMES[0])
    assert all(p.is_inference() for p in model.parameters())  # the user's own stay
    with torch.no_grad():
        for frame in FRAMES:
            assert relative_error(stream(frame), model(frame)) <= 1e-5


def test_an_export_of_a_model_in_training_is_refused() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8), conv(8, 4)).train()
    exported = torch.export.export(model, (FRAMES[0],), strict=False)
    with pytest.raises(
        CaptureError, match=r"exported program was made in training mode: batch_norm .*call model\.eval\(\)"
    ):
        videoeff.convert(exported, FRAMES[0])


def test_an_export_that_drops_at_random_is_refused() -> None:
    model = nn.Sequential(conv(), nn.Dropout(0.5), conv(8, 4)).train()
    exported = torch.export.export(model, (FRAMES[0],), strict=False)
    with pytest.raises(
        CaptureError, match=r"exported program was made in training mode: dropout .*random numbers"
    ):
        videoeff.convert(exported, FRAMES[0])


def test_batch_norm_without_statistics_is_no_training() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(8, track_running_stats=False), conv(8, 4)).eval()
    exported = torch.export.export(model, (FRAMES[0],), strict=False)
    stream = videoeff.convert(exported, FRAMES[0])
    with torch.no_grad():
        for frame in FRAMES:
            assert relative_error(stream(frame), model(frame)) <= 1e-4


@pytest.mark.parametrize(
    ("prepare", "frames"),
    [
        (lambda x: x[None], [f[0] for f in FRAMES]),
        (lambda x: x.permute(2, 0, 1)[None] / 255, [(f[0].permute(1, 2, 0) * 255).byte() for f in FRAMES]),
    ],
    ids=["planes", "bytes"],
)
def test_a_batch_that_the_model_adds_is_one_stream(
    prepare: Callable[[Tensor], Tensor], frames: list[Tensor]
) -> None:
    model = Function(lambda conv, x: conv(prepare(x)).relu()).eval()
    stream = videoeff.convert(model, frames[0])
    assert stream.streams == 1
    with torch.no_grad():
        for frame in frames:
            assert relative_error(stream(frame), model(frame)) <= 1e-5
    (share,) = [row.active_share for row in stream.report().layers if row.name.startswith("conv")]
    assert share is not None
    assert share < 0.9  # the convolution follows what changed


@pytest.mark.parametrize(
    "wrap",
    [Result, lambda y: {"a": [y, (y, None)], "b": "text"}, lambda y: Bag(scores=y)],
)
def test_outputs_of_any_class(wrap: Callable[[Tensor], Any]) -> None:
    def tensors(value: Any) -> list[Tensor]:
        value = [value.scores] if isinstance(value, Result) else list(value.values())
        return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, Tensor)]

    model = Function(lambda conv, x: wrap(conv(x))).eval()
    stream = videoeff.convert(model, FRAMES[0])
    with torch.no_grad():
        for frame in FRAMES:
            found, expected = stream(frame), model(frame)
            assert type(found).__name__ == type(expected).__name__
            assert relative_error(tensors(found), tensors(expected)) <= 1e-5
