"""The StreamingModule as a module: the model's own call, state, thresholds, moving, looking inside."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

import videoeff
from tests.support.small_nets import (
    FORMS,
    SIZE,
    CalledTwice,
    FunctionalForm,
    Gated,
    InPlace,
    ModuleForm,
    Pair,
    Plain,
    Structured,
    TwoInputs,
    clip,
    lively,
)
from videoeff.errors import ArtifactError, StateError
from videoeff.runtime.streaming_module import StreamingModule


def make(model: nn.Module, **options: Any) -> tuple[nn.Module, StreamingModule]:
    model = lively(model)
    return model, videoeff.convert(model, torch.rand(SIZE), **options)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal structures, types included, of close tensors and equal other values."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key], tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert found == expected


@torch.no_grad()
def dense(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


# ---------------------------------------------------------------- the model's own call


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


# ---------------------------------------------------------------- whose tensors


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


# ---------------------------------------------------------------- state


def test_snapshot_and_restore() -> None:
    _, stream = make(Gated(), threshold=0.1)
    frames = list(clip(6))
    for frame in frames[:3]:
        stream(frame)
    kept = stream.snapshot()
    straight = [stream(frame) for frame in frames[3:]]
    stream.restore(kept)
    assert_same([stream(frame) for frame in frames[3:]], straight, 0.0)
    stream.reset()
    stream.restore(kept)  # the same snapshot serves again, also after a reset
    assert_same([stream(frame) for frame in frames[3:]], straight, 0.0)


def test_snapshot_of_a_fresh_stream_restores_to_frame_one() -> None:
    _, stream = make(Plain(), threshold=0.3)
    fresh, frames = stream.snapshot(), list(clip(3))
    first = [stream(f) for f in frames]
    stream.restore(fresh)
    assert_same([stream(f) for f in frames], first, 0.0)


def test_snapshots_that_do_not_fit_change_nothing() -> None:
    _, stream = make(Plain())
    _, other = make(Gated())
    big = videoeff.convert(lively(Plain()), torch.rand(1, 3, 32, 32))
    frame = torch.rand(SIZE)
    before = stream(frame)
    for wrong in (other.snapshot(), big.snapshot(), None, {"a": 1}):
        with pytest.raises(StateError, match="snapshot"):
            stream.restore(wrong)  # type: ignore[arg-type]
    assert_same(stream(frame), before, 0.0)


def test_reset_of_one_stream_of_a_batch() -> None:
    model = lively(Plain())
    stream = videoeff.convert(model, torch.rand(2, 3, 20, 24), threshold=0.5)
    frames = list(clip(4, (2, 3, 20, 24)))[:3]
    for frame in frames[:2]:
        stream(frame)
    held = stream.snapshot()
    expected = stream(frames[2])
    stream.restore(held)
    stream.reset(stream=1)
    out = stream(frames[2])
    assert torch.equal(out[0], expected[0])
    assert_same(out[1:], dense(model, frames[2][1:]))
    assert not torch.equal(out[1], expected[1])
    for wrong in (2, -1):
        with pytest.raises(StateError, match="no stream"):
            stream.reset(stream=wrong)


def test_deep_copies_go_their_own_way() -> None:
    model, stream = make(Gated(), threshold=0.05)
    frames = list(clip(6))
    for frame in frames[:3]:
        stream(frame)
    twin = copy.deepcopy(stream)
    assert twin.report().frames == stream.report().frames
    expected = [copy.deepcopy(stream)(frames[3]), copy.deepcopy(twin)(frames[3])]
    assert_same(expected[0], expected[1], 0.0)
    stream.reset()
    stream.set_threshold(0.0)
    for parameter in stream.state_dict().values():
        parameter.zero_()
    assert_same(twin(frames[3]), expected[0], 0.0)
    assert set(twin.thresholds().values()) != {0.0}
    assert_same(twin(frames[0]), twin(frames[0]), 0.0)
    del model


def test_a_frame_that_fails_half_way_does_not_poison_the_next() -> None:
    model, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    engine = stream.engines[""]
    plan, calls = engine.plan, []

    def fails(context: Any) -> None:
        calls.append(context)
        raise MemoryError("no room")

    engine.plan = dataclasses.replace(plan, steps=(*plan.steps, fails))
    with pytest.raises(MemoryError):
        stream(frames[1])
    engine.plan = plan
    assert len(calls) == 1
    assert_same(stream(frames[1]), dense(model, frames[1]))
    assert_same(stream(frames[2]), dense(model, frames[2]))


# ---------------------------------------------------------------- thresholds


def test_set_threshold_everywhere_by_name_and_by_pattern() -> None:
    _, stream = make(Gated())
    assert set(stream.thresholds().values()) == {0.0}
    stream.set_threshold(0.2)
    after = stream.thresholds()
    assert after["a"] == after["x"] == 0.2
    assert make(Structured("tensor"), threshold=0.2)[1].thresholds()["b"] == 0.0, "an output is not held back"
    stream.set_threshold(0.05, "left")
    assert stream.thresholds()["left"] == 0.05
    assert stream.thresholds()["right"] == 0.2
    stream.set_threshold(0.0, "*e*")
    assert stream.thresholds()["left"] == 0.0
    stream.set_thresholds({"a": 0.3, "last": 0.1})
    assert stream.thresholds()["a"] == 0.3
    assert stream.thresholds()["last"] == 0.1
    shown = {x.name: x.threshold for x in stream.report().layers}
    assert shown["a"] == 0.3


def test_setting_thresholds_keeps_the_state() -> None:
    model, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    before = {k: v.clone() for k, v in stream.values().items()}
    stream.set_threshold(1e6)
    for name, value in stream.values().items():
        assert torch.equal(value, before[name])
    assert_same(stream(frames[3]), dense(model, frames[0]))  # nothing moves that far
    stream.set_threshold(0.0)
    assert_same(stream(frames[3]), dense(model, frames[3]))  # and nothing was lost


def test_a_threshold_set_later_is_the_one_given_at_conversion() -> None:
    model = lively(Gated())
    options: dict[str, Any] = {"block": 4, "dilation": 1, "predict": 1.0}
    early = videoeff.convert(model, torch.rand(SIZE), threshold=0.1, **options)
    late = videoeff.convert(model, torch.rand(SIZE), threshold=0.0, **options)
    late.set_threshold(0.1)
    again = videoeff.convert(model, torch.rand(SIZE), threshold=0.4, **options)
    again.set_threshold(0.1)
    for frame in clip(5):
        expected = early(frame)
        assert_same(late(frame), expected, 0.0)
        assert_same(again(frame), expected, 0.0)


@pytest.mark.parametrize("wrong", [-0.1, float("nan"), float("inf"), "0.1", None, True, torch.tensor(0.1)])
def test_impossible_thresholds(wrong: Any) -> None:
    _, stream = make(Plain())
    before = stream.thresholds()
    for call in (
        lambda: stream.set_threshold(wrong),
        lambda: stream.set_threshold(wrong, "first"),
        lambda: stream.set_thresholds({"first": 0.5, "x": wrong}),
    ):
        with pytest.raises(StateError, match="finite number"):
            call()
    assert stream.thresholds() == before


def test_unknown_layers() -> None:
    _, stream = make(Plain())
    with pytest.raises(StateError, match="no layer matches 'nothing"):
        stream.set_threshold(0.1, "nothing.*")
    with pytest.raises(StateError, match=r"no such layer: frist"):
        stream.set_thresholds({"first": 0.1, "frist": 0.1})
    assert stream.thresholds()["first"] == 0.0


def test_thresholds_as_json(tmp_path: Path) -> None:
    _, stream = make(Gated(), threshold=0.1)
    stream.set_threshold(0.25, "left")
    path = tmp_path / "thresholds.json"
    stream.save_thresholds(path)
    _, other = make(Gated())
    other.load_thresholds(path)
    assert other.thresholds() == stream.thresholds()
    for frame in clip(3):
        assert other(frame)[0].shape == stream(frame)[0].shape
    known = json.loads(path.read_text())
    for edit, message in (
        ({**known, "extra": 0.1}, "no such layer: extra"),
        ({k: v for k, v in known.items() if k != "left"}, r"1 layer\(s\) have no threshold: left"),
        ({**known, "left": -1}, "threshold of left"),
        ({**known, "left": "a"}, "threshold of left"),
        ({**known, "left": float("nan")}, "threshold of left"),
    ):
        path.write_text(json.dumps(edit))
        with pytest.raises(StateError, match=message):
            other.load_thresholds(path)
    assert other.thresholds() == stream.thresholds()
    for text in ("[1, 2]", "no json", ""):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=str(path)):
            other.load_thresholds(path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        other.load_thresholds(tmp_path / "absent.json")


def test_whole_number_frames_do_not_wrap_around() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.to(torch.float32) / 255)

    model = Bytes().eval()
    frame = torch.randint(0, 200, SIZE, dtype=torch.uint8)
    stream = videoeff.convert(model, frame, threshold=0.5)
    stream(frame)
    frame = frame.clone()
    frame[..., 4:8, 4:8] = 255 - frame[..., 4:8, 4:8] // 8
    frame[..., 12:14, 4:8] = 0
    stream(frame)
    assert_same(stream.values()["x"][..., 4:8, 4:8], frame[..., 4:8, 4:8])


# ---------------------------------------------------------------- moving


def test_to_another_dtype_and_back_keeps_the_state() -> None:
    model, stream = make(Plain(), threshold=1e6)  # so that only the kept state can explain the output
    frames = list(clip(4))
    first = stream(frames[0])
    assert stream.double() is stream
    assert_same(stream(frames[1].double()), first.double())
    assert stream.values()["first"].dtype == torch.float64
    assert all(v.dtype == torch.float64 for v in stream.state_dict().values() if v.is_floating_point())
    stream.to(torch.float32)
    assert_same(stream(frames[1]), first)
    stream.set_threshold(0.0)
    assert_same(stream(frames[3]), dense(model, frames[3]))
    with pytest.raises(StateError, match=r"float64.*float32"):
        stream(frames[1].double())


def test_float64_is_as_exact_as_the_model() -> None:
    model, stream = make(Gated())
    model.double()
    stream.double()
    stream.reset()
    for frame in clip(4, dtype=torch.float64):
        assert_same(stream(frame), dense(model, frame), 1e-12)


def test_bfloat16() -> None:
    model, stream = make(Plain())
    stream.to(torch.bfloat16)
    model = lively(copy.deepcopy(model)).to(torch.bfloat16)
    again = videoeff.convert(model, torch.rand(SIZE, dtype=torch.bfloat16), threshold=0.05)
    for frame in clip(4, dtype=torch.bfloat16):
        expected = dense(model, frame).float()
        assert stream(frame).dtype == torch.bfloat16
        assert (stream(frame).float() - expected).abs().max() < 0.05 * expected.abs().max()
        assert again(frame).dtype == torch.bfloat16


def test_to_another_device_moves_everything() -> None:
    _, stream = make(Gated(), threshold=0.1)
    stream.to("meta")
    assert stream.device.type == "meta"
    assert {v.device.type for v in stream.values().values()} == {"meta"}
    with pytest.raises(StateError, match="lies on cpu, the stream on meta"):
        stream(torch.rand(SIZE))


def test_casting_shared_weights_keeps_them_shared() -> None:
    _, stream = make(CalledTwice())
    stream.double()
    assert len({t.data_ptr() for t in stream.buffers() if t.ndim == 4}) == 1


# ---------------------------------------------------------------- a module among modules


def test_train_and_eval_change_nothing() -> None:
    model, stream = make(Plain())

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stream, self.head = stream, nn.Dropout()

    outer = Outer()
    outer.train()
    assert outer.training
    assert not stream.training
    assert stream.train(True) is stream
    assert stream.eval() is stream
    for frame in clip(3):
        assert_same(stream(frame), dense(model, frame))


def test_state_dict_and_loading_it() -> None:
    first, second = lively(Plain()), lively(Plain())
    a, b = (videoeff.convert(m, torch.rand(SIZE), passes="insert-delta-caches") for m in (first, second))
    assert list(a.parameters()) == []
    assert set(a.state_dict()) == set(b.state_dict())
    frames = list(clip(3))
    b(frames[0])
    b.load_state_dict({k: v.clone() for k, v in a.state_dict().items()})
    assert_same(b(frames[0]), a(frames[0]))  # what was computed with the old weights is forgotten


def test_inference_mode_and_outside_by_turns() -> None:
    model = lively(Gated())
    frames = list(clip(6))
    with torch.inference_mode():
        stream = videoeff.convert(model, frames[0], threshold=0.0)
        stream(frames[0])
        snapshot = stream.snapshot()
    for index, frame in enumerate(frames[1:]):
        with torch.inference_mode(mode=index % 2 == 1):
            out = stream(frame + 0.0)
            if index == 1:
                stream.set_threshold(0.01)
                stream.set_threshold(0.0)
                stream.restore(snapshot)
                out = stream(frame)
        assert_same(out, dense(model, frame))
    with torch.inference_mode():
        twin = copy.deepcopy(stream).double()
        frame = torch.rand(SIZE, dtype=torch.float64)
        twin(frame)
    assert twin(frame + 1.0)[0].dtype == torch.float64
    assert_same(stream(frames[0]), dense(model, frames[0]))


def test_grad_modes() -> None:
    model, stream = make(Plain())
    for enabled, frame in zip((True, False, True), clip(3), strict=True):
        with torch.set_grad_enabled(enabled):
            out = stream(frame.clone().requires_grad_())
        assert not out.requires_grad
        assert_same(out, dense(model, frame))


def test_autocast_reaches_the_convolutions() -> None:
    model, stream = make(Plain())
    for frame in clip(3):
        with torch.autocast("cpu", torch.bfloat16):
            out, expected = stream(frame), dense(model, frame)
        assert (out - expected).abs().max() < 0.05 * expected.abs().max()
    assert_same(stream(frame + 1.0), dense(model, frame + 1.0))


def test_hooks_of_the_caller_run() -> None:
    _, stream = make(Plain())
    seen: list[torch.Size] = []
    handle = stream.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    stream(torch.rand(SIZE))
    handle.remove()
    stream(torch.rand(SIZE))
    assert seen == [torch.Size((1, 4, 10, 12))]


def test_a_stream_is_not_pickled() -> None:
    _, stream = make(Plain())
    with pytest.raises(StateError, match=r"stream\.save"):
        pickle.dumps(stream)


# ---------------------------------------------------------------- another size


def test_replan_for_another_size() -> None:
    model, stream = make(Gated(), threshold=0.1, on_resize="replan", block=4)
    stream.set_threshold(0.3, "left")
    before = stream.thresholds()
    for frame in clip(3):
        stream(frame)
    small = list(clip(4, (1, 3, 12, 16)))
    assert_same(stream(small[0]), dense(model, small[0]))  # frame 1 of a new life
    assert stream.thresholds() == before
    assert stream.values()["a"].shape == (1, 8, 12, 16)
    fresh = videoeff.convert(model, small[0], threshold=0.1, block=4)
    fresh.set_threshold(0.3, "left")
    fresh(small[0])
    for frame in small[1:]:
        assert_same(stream(frame), fresh(frame), 0.0)
    with pytest.raises(StateError, match="batch of 2"):
        stream(torch.rand(2, 3, 12, 16))
    with pytest.raises(StateError, match="4 channels"):
        stream(torch.rand(1, 4, 12, 16))


def test_replan_of_a_cast_stream() -> None:
    model, stream = make(Plain(), on_resize="replan")
    stream.double()
    frame = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    with stream.observe() as seen, torch.inference_mode():
        out = stream(frame)
        assert_same(out, dense(copy.deepcopy(model).double(), frame))
    assert next(model.parameters()).dtype == torch.float32
    assert seen.changed["first"].shape == (1, 12, 16)
    out = stream(frame + 1.0)
    assert out.dtype == torch.float64


def test_replan_is_refused_before_anything_happens_to_a_bad_frame() -> None:
    model, stream = make(Plain(), on_resize="replan")
    frames = list(clip(2))
    stream(frames[0])
    with pytest.raises(StateError, match="NaN"):
        stream(torch.full((1, 3, 12, 16), float("nan")))
    assert stream.values()["first"].shape[2:] == (20, 24)
    assert_same(stream(frames[1]), dense(model, frames[1]))


# ---------------------------------------------------------------- looking inside


def test_report_before_and_after_frames() -> None:
    _, stream = make(Gated(), threshold=0.1)
    report = stream.report()
    assert report.frames == 0
    assert report.active_share is None
    assert all(x.active_share is None and x.macs_needed == 0.0 for x in report.layers)
    assert "no second frame yet" in str(report)
    frames = list(clip(4))
    stream(frames[0])
    assert stream.report().frames == 0, "a first frame is not counted"
    stream(frames[1])
    stream(frames[1])
    report = stream.report()
    assert report.frames == 2
    assert report.name == "Gated"
    assert report.streams == 1
    assert report.convolutions_streamed == 1.0
    assert report.eager == ()
    layers = {x.name: x for x in report.layers}
    assert set(layers) == set(stream.values())
    assert layers["a"].macs_dense == 8 * 3 * 9 * 20 * 24
    assert layers["a"].macs_needed == pytest.approx(layers["a"].macs_dense * (layers["a"].active_share or 0))
    assert 0.0 < (layers["a"].active_share or 0) < 0.5
    assert layers["a"].kind == "map"
    assert layers["x"].kind == "input"
    assert sum(x.state_bytes for x in report.layers) == report.state_bytes
    macs = report.macs
    assert macs["dense"] == sum(x.macs_dense for x in report.layers)
    assert macs["needed"] <= macs["scheduled"] <= macs["dense"]
    assert json.loads(json.dumps(report.to_json()))["frames"] == 2
    assert report._repr_html_() == stream._repr_html_()
    assert "Gated" in repr(stream)
    stream.clear_report()
    assert stream.report().frames == 0


def test_the_report_does_not_count_a_reset_stream() -> None:
    stream = videoeff.convert(lively(Plain()), torch.rand(2, 3, 20, 24))
    for frame in clip(3, (2, 3, 20, 24)):
        stream(frame)
    stream.reset(0)
    stream(frame)
    assert stream.report().frames == 2


def test_graph_programs_and_values() -> None:
    _, stream = make(Plain())
    calls = [n for n in stream.graph.nodes if n.op == "call_function"]
    assert any("delta_cache" in str(n.target) for n in calls)
    (program,) = stream.programs.values()
    assert program.graph is stream.graph
    assert next(r.name for r in program.history) == "fold-batchnorm"
    assert list(stream.values())[:2] == ["x", "first"]


def test_observe() -> None:
    _, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    with stream.observe() as outer:
        with stream.observe() as seen:
            stream(frames[1])
            changed = (frames[1] != frames[0]).any(1)
            assert torch.equal(seen.changed["x"], changed)
            assert int(seen.active["first"].sum()) >= int(changed.sum())
            assert seen.active["second"].shape == (1, 10, 12)
            heat = seen.heat(40, 48)
            assert heat.shape == (1, 40, 48)
            assert 0.0 <= float(heat.min()) < float(heat.max()) <= 1.0
        assert outer.active == {}
        stream(frames[2])
        assert not bool(outer.active["first"].any())
    stream(frames[0])
    assert not bool(outer.active["first"].any()), "outside the block nothing is observed"
    assert not bool(seen.changed["x"].all())
