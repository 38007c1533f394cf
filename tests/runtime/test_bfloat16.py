"""convert(precision="bf16"): float32 in and out, bfloat16 inside."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import videoeff
from videoeff.errors import BackendError, CaptureError, StateError
from videoeff.ir import edit
from videoeff.ir.markers import cache_option
from videoeff.kernels.cpp import library
from videoeff.runtime.bfloat16 import in_bfloat16
from videoeff.testing import moving_clip

SHAPE = (2, 3, 36, 52)
FRAME = torch.rand(SHAPE)


class Net(nn.Module):
    """Normalisation, layers, a tensor in an attribute, and outputs in a dictionary with a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Conv2d(16, 16, 3, 1, 1)
        self.head, self.fc = nn.Conv2d(16, 5, 1), nn.Linear(16, 7)
        self.scale = torch.tensor([0.5])
        self.shift: Tensor
        self.register_buffer("shift", torch.rand(1, 3, 1, 1))

    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.stem(x - self.shift)
        y = torch.relu(y + self.body(y))
        return {"map": self.head(y) * self.scale, "rest": (self.fc(y.mean((2, 3))), y, "done")}


class Selecting(Net):
    """Values of the frame decide about a size: it streams in parts."""

    def forward(self, x: Tensor) -> dict[str, Any]:
        found = super().forward(x)
        return {**found, "chosen": found["map"][found["map"] > 0]}


class Fixing(nn.Module):
    """Its own code makes float32 of what a functional layer reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x.float(), self.weight)


class Upcasting(nn.Module):
    """Its own code makes float32 of the frame, which a module reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(torch.relu(self.first(x.float() / 255)))
        return found.float()


def net(kind: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(3)
    return kind().eval()


def convert(model: Any = None, example: Tensor = FRAME, **options: Any) -> videoeff.StreamingModule:
    return videoeff.convert(net() if model is None else model, example, precision="bf16", **options)


def same(found: Any, expected: Any) -> bool:
    left, right = pytree.tree_leaves(found), pytree.tree_leaves(expected)
    return len(left) == len(right) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("kind", [Net, Selecting])
def test_a_stream_is_bit_for_bit_the_network_computed_anew(kind: type[nn.Module]) -> None:
    model = net(kind)
    stream = convert(model)
    for frame in moving_clip(4, SHAPE, dtype=torch.float32):
        found = stream(frame)
        assert same(found, convert(model)(frame))
        assert {v.dtype for v in pytree.tree_leaves(found) if isinstance(v, Tensor)} == {torch.float32}


def test_it_computes_what_the_model_cast_by_hand_computes() -> None:
    model = net()
    hand = copy.deepcopy(model).bfloat16()
    hand.scale = model.scale.bfloat16()
    by_hand = videoeff.convert(hand, FRAME.bfloat16())
    stream = convert(model)
    for frame in moving_clip(3, SHAPE, dtype=torch.float32):
        expected = pytree.tree_map_only(Tensor, Tensor.float, by_hand(frame.bfloat16()))
        assert same(stream(frame), expected)


def test_the_model_stays_as_it_is() -> None:
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    convert(model)
    assert all(
        torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in model.state_dict().items()
    )
    assert isinstance(model.scale, Tensor)
    assert model.scale.dtype == torch.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert in_bfloat16(model) is not model


@pytest.mark.skipif(bool(library.unavailable()), reason="needs the native library")
def test_all_is_native_casts_included() -> None:
    (engine,) = convert().engines.values()
    assert {i.kernel for i in engine.plan.instructions} == {"cpp"}
    kept = {i.call.name: i.call.value.dtype for i in engine.plan.instructions}
    assert kept["x"] == torch.float32  # its test sees the frame as it is
    assert sum(dtype == torch.float32 for dtype in kept.values()) == 4  # the frame and three outputs
    assert {kept[name] for name in ("stem.0", "body", "head", "fc")} == {torch.bfloat16}


def test_casts_of_frames_and_outputs_have_no_test_of_their_own() -> None:
    stream = convert(threshold=0.1)
    above = {name for name, threshold in stream.thresholds().items() if threshold > 0}
    assert above == {"x", "sub_tensor", "stem.0", "body"} & set(stream.thresholds())
    caches = edit.cache_by_name(stream.engines[""].program)
    assert {cache_option(c, "threshold") for n, c in caches.items() if n.startswith("to_dtype")} == {0.0}


@pytest.mark.parametrize("predict", [0.0, 1.0])
def test_thresholds_and_predicted_changes_run(predict: float) -> None:
    stream, dense = convert(threshold=0.1, predict=predict), net()
    for frame in moving_clip(4, SHAPE, dtype=torch.float32):
        with torch.no_grad():
            found, expected = stream(frame)["map"], dense(frame)["map"]
        assert float((found - expected).norm() / expected.norm()) < 0.2


def test_frames_that_are_not_finite_are_refused() -> None:
    stream = convert()
    stream(FRAME)
    frame = FRAME.clone()
    frame[0, 0, 3, 3] = float("nan")
    with pytest.raises(StateError, match="NaN"):
        stream(frame)
    large = FRAME.clone()
    large[0, 0, 3, 3] = 3e38  # of float32 and of bfloat16
    assert same(stream(large), convert()(large))


@pytest.mark.parametrize("kind", [Net, Selecting])
def test_saved_and_loaded(kind: type[nn.Module], tmp_path: Path) -> None:
    model = net(kind)
    stream = convert(model)
    stream.save(tmp_path / "a.veff")
    loaded = videoeff.load(tmp_path / "a.veff", model=model if kind is Selecting else None)
    loaded.save(tmp_path / "b.veff")
    again = videoeff.load(tmp_path / "b.veff", model=model if kind is Selecting else None)
    for frame in moving_clip(2, SHAPE, dtype=torch.float32):
        expected = stream(frame)
        assert same(loaded(frame), expected)
        assert same(again(frame), expected)
    assert next(model.parameters()).dtype == torch.float32


def test_frames_of_another_size_are_planned_for() -> None:
    stream, other = convert(on_resize="replan"), torch.rand(2, 3, 40, 24)
    stream(FRAME)
    assert same(stream(other), convert(example=other)(other))


@pytest.mark.parametrize("example", [torch.rand(SHAPE) * 255, (torch.rand(SHAPE) * 255).to(torch.uint8)])
@pytest.mark.parametrize("form", ["module", "export"])
def test_models_that_cast_by_themselves(example: Tensor, form: str) -> None:
    model = net(Upcasting)
    given: Any = model if form == "module" else torch.export.export(model, (example,), strict=False)
    stream = convert(given, example)
    (engine,) = stream.engines.values()
    kept = {i.call.name: i.call.value.dtype for i in engine.plan.instructions}
    assert torch.bfloat16 in kept.values()
    with torch.no_grad():
        found, expected = stream(example), model(example)
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) < 0.02


def test_an_export_streams_as_its_model_does() -> None:
    model = net()
    exported = torch.export.export(model, (FRAME,), strict=False)
    assert same(convert(exported)(FRAME), convert(model)(FRAME))
    assert {t.dtype for t in exported.state_dict.values() if t.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "of_example", "why"),
    [
        (torch.float64, torch.float64, r"stem.0.weight is float64; .* \(model.float\(\)"),
        (torch.float16, torch.float16, "stem.0.weight is float16"),
        (torch.bfloat16, torch.bfloat16, "in bfloat16 already, and streams in it; drop precision"),
        (torch.float32, torch.float64, "argument 0 of the example is float64; .* frames are float32"),
        (torch.float32, torch.bfloat16, "argument 0 of the example is bfloat16"),
    ],
)
def test_other_dtypes_are_refused(dtype: torch.dtype, of_example: torch.dtype, why: str) -> None:
    with pytest.raises(CaptureError, match=why):
        convert(net().to(dtype), FRAME.to(of_example))


def test_calibration_and_quantised_models_are_refused() -> None:
    from tests.support import quantised

    with pytest.raises(BackendError, match="needs no frames to calibrate on; drop calibration"):
        convert(calibration=[FRAME])
    frame = torch.rand(1, 3, 36, 44)
    graph = torch.export.export(quantised.Net().eval(), (frame,), strict=False)
    with pytest.raises(CaptureError, match="quantised already"):
        convert(graph, frame)


def test_a_model_that_fixes_float32_is_told_so() -> None:
    with pytest.raises(CaptureError, match="runs it in bfloat16: where its own code"):
        convert(net(Fixing))
