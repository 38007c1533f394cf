"""What is no model, or none that can be captured: refused by its kind, with what to give instead."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as untyped_quantization
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import videoeff
from tests.support.bodies import Body
from tests.support.calls import dense
from tests.support.small_nets import SIZE, clip
from videoeff.errors import CaptureError
from videoeff.testing import relative_error

#: Untyped functions of PyTorch.
quantization: Any = untyped_quantization
jit: Any = torch.jit
compiled: Any = torch.compile


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def plain() -> nn.Module:
    return nn.Sequential(conv(), nn.BatchNorm2d(3), nn.ReLU(), conv()).eval()


def assert_streams(model: nn.Module, original: nn.Module | None = None) -> None:
    frames = list(clip(4))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(original or model, frame)) < 1e-5
    assert stream.report().convolutions_streamed == 1.0


def identity(x: Tensor) -> Tensor:
    return x


def scripted() -> Any:
    return jit.script(plain())


def int8(form: str) -> nn.Module:
    """A model of torch.ao in one of its stages."""
    layers = nn.Sequential(quantization.QuantStub(), conv(), nn.ReLU(), quantization.DeQuantStub()).eval()
    layers.qconfig = quantization.get_default_qconfig("x86")
    if form == "trained":
        layers.qconfig = quantization.get_default_qat_qconfig("x86")
        made: nn.Module = quantization.prepare_qat(layers.train())
        made(torch.rand(SIZE))
        return made.eval()
    if form.startswith("graph"):
        mapping = quantization.get_default_qconfig_mapping("x86")
        made = prepare_fx(plain(), mapping, (torch.rand(SIZE),))
        made(torch.rand(SIZE))
        return made if form == "graph prepared" else convert_fx(made)
    made = quantization.prepare(layers)
    made(torch.rand(SIZE))
    return made if form == "prepared" else quantization.convert(made)


@pytest.mark.parametrize(
    "make",
    [
        scripted,
        lambda: jit.trace(plain(), torch.rand(SIZE)),
        lambda: jit.freeze(scripted()),
        lambda: jit.script(identity),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit")  # torch.jit is deprecated; people have its files
def test_torchscript(make: Callable[[], Any]) -> None:
    with pytest.raises(CaptureError, match=r"is TorchScript.*give the torch\.nn\.Module that was scripted"):
        videoeff.convert(make(), torch.rand(SIZE))


@pytest.mark.parametrize("form", ["converted", "graph converted"])
@pytest.mark.filterwarnings("ignore")  # torch.ao warns of its own deprecation; people have its models
def test_int8_layers(form: str) -> None:
    with pytest.raises(CaptureError, match=r"int8 layer of torch\.ao\.quantization.*give the float model"):
        videoeff.convert(int8(form), torch.rand(SIZE))


@pytest.mark.parametrize("form", ["prepared", "trained", "graph prepared"])
@pytest.mark.filterwarnings("ignore")  # as above
def test_observers_that_change_with_every_frame(form: str) -> None:
    with pytest.raises(CaptureError, match=r"observes values.*disable_observer"):
        videoeff.convert(int8(form), torch.rand(SIZE))


@pytest.mark.filterwarnings("ignore")  # as above
def test_fake_quantizers_without_observers_stream() -> None:
    model = int8("trained")
    model.apply(quantization.disable_observer)
    frames = list(clip(4))
    stream = videoeff.convert(model, frames[0])
    step = float(dense(model, frames[0]).abs().max()) / 255  # where rounding falls the other way
    for frame in frames:
        assert float((stream(frame) - dense(model, frame)).abs().max()) <= 2 * step


def test_a_class_instead_of_an_instance() -> None:
    with pytest.raises(CaptureError, match=r"is the class Sequential, not an instance.*Sequential\(\.\.\.\)"):
        videoeff.convert(nn.Sequential, torch.rand(SIZE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (plain().forward, "a method;.*for a function, write a module"),
        (torch.relu, "for a function, write a module"),
        (plain().state_dict(), "OrderedDict;.*build the module and load it there"),
        (Path("yolo.pt"), r"for a file: torch\.export\.load"),
        ("yolo.pt", "a str;.*for a file"),
        ([conv()], "a list; give a torch.nn.Module"),
    ],
)
def test_what_is_no_module(model: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        videoeff.convert(model, torch.rand(SIZE))


def test_weights_without_values() -> None:
    with pytest.raises(CaptureError, match=r"0\.weight is on the meta device.*assign=True"):
        videoeff.convert(plain().to("meta"), torch.rand(SIZE))
    with pytest.raises(CaptureError, match=r"0\.weight of a lazy layer.*call the model once"):
        videoeff.convert(nn.Sequential(nn.LazyConv2d(3, 3)).eval(), torch.rand(SIZE))


def test_sparse_weights() -> None:
    model = Body(lambda s, x: torch.sparse.mm(s.w, s.c(x)[0, 0]))
    model.register_parameter("w", nn.Parameter(torch.eye(20).to_sparse(), requires_grad=False))
    with pytest.raises(CaptureError, match=r"w is sparse.*\.to_dense\(\)"):
        videoeff.convert(model, torch.rand(SIZE))


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda m: compiled(m, backend="eager"),
        lambda m: compiled(nn.DataParallel(m), backend="eager"),
        lambda m: nn.Sequential(compiled(m, backend="eager"), nn.ReLU()),
    ],
)
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert_streams(wrap(plain()).eval())


def test_weights_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = plain()
        parts = Body(lambda s, x: (lambda y: y[y > 0])(s.d(s.c(x) * s.gain)))
        parts.gain = torch.rand(1, 3, 1, 1)
    held = [id(t) for t in (*model.parameters(), *model.buffers())]
    assert_streams(model)
    assert_streams(parts)
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == held  # the model is as it was
    assert all(t.is_inference() for t in (*model.parameters(), *parts.parameters(), parts.gain))


def test_weights_loaded_in_inference_mode_are_shared() -> None:
    model = nn.Sequential(conv()).eval()
    with torch.inference_mode():
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    stream = videoeff.convert(model, torch.rand(SIZE))
    pointers = {t.data_ptr() for t in stream.buffers()}
    assert model.get_parameter("0.weight").data_ptr() in pointers


def exported(model: nn.Module) -> torch.export.ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modes that differ
        return torch.export.export(model, (torch.rand(2, 3, 20, 24),))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3),
        nn.Dropout(0.1),
        nn.Dropout2d(0.1),
        nn.AlphaDropout(0.1),
        nn.RReLU(),
        nn.InstanceNorm2d(3, track_running_stats=True),
    ],
)
@pytest.mark.parametrize("form", ["program", "decomposed", "module"])
def test_exports_in_training_mode(layer: nn.Module, form: str) -> None:
    model = nn.Sequential(conv(), layer.train()).train()
    program = exported(model)
    said = r"in training mode.*call model\.eval\(\) and export it again"
    if form == "decomposed":
        program = program.run_decompositions()
        if isinstance(layer, (nn.Dropout2d, nn.AlphaDropout)):  # plain arithmetic on random numbers
            said = r"draws random numbers \(bernoulli in 1\)"
    given: Any = program.graph_module if form == "module" else program
    with pytest.raises(CaptureError, match=said):
        videoeff.convert(given, torch.rand(2, 3, 20, 24))
    held = exported(model.eval())
    videoeff.convert(held, torch.rand(2, 3, 20, 24))


def test_norms_that_have_no_other_mode() -> None:
    model = nn.Sequential(conv(), nn.InstanceNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    stream = videoeff.convert(exported(model), torch.rand(2, 3, 20, 24))
    for frame in clip(3, (2, 3, 20, 24)):
        assert relative_error(stream(frame), dense(model, frame)) < 1e-4


def test_a_model_of_another_dtype_or_device_than_the_example() -> None:
    with pytest.raises(
        CaptureError, match=r"dtype of the example is torch\.float32, that of the model torch"
    ):
        videoeff.convert(plain().half(), torch.rand(SIZE))
    with pytest.raises(CaptureError, match=r"device of the example is meta, that of the model cpu"):
        videoeff.convert(plain(), torch.rand(SIZE, device="meta"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = plain().to(dtype)
    frames = list(clip(4, dtype=dtype))
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        videoeff.testing.assert_close(stream(frame), dense(model, frame))


def test_a_model_that_raises_says_what_it_said() -> None:
    def raises(s: Any, x: Tensor) -> Any:
        raise ValueError("no licence")

    with pytest.raises(CaptureError, match=r"Body: the model itself fails on the example.*no licence"):
        videoeff.convert(Body(raises), torch.rand(SIZE))


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # as above
def test_torchscript_inside_a_model() -> None:
    with pytest.raises(CaptureError, match=r"Sequential: 1 .* is TorchScript.*in its place"):
        videoeff.convert(nn.Sequential(conv(), scripted()).eval(), torch.rand(SIZE))


@pytest.mark.filterwarnings("ignore")  # torch.ao warns of its own deprecation
def test_dynamic_int8_streams_what_is_float() -> None:
    frames = list(clip(3))
    layers = nn.Sequential(conv(), nn.Flatten(), nn.LazyLinear(5)).eval()
    dense(layers, frames[0])
    model = quantization.quantize_dynamic(layers, {nn.Linear})
    stream = videoeff.convert(model, frames[0])
    for frame in frames:
        assert relative_error(stream(frame), dense(model, frame)) < 1e-4
