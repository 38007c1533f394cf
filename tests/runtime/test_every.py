"""Looking at every n-th frame: what is handed out between, and which streams look when."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.remembering import SHAPE, Net, branch, calls_inner, counts, in_parts
from tests.support.small_nets import FORMS, SIZE, Gated, Plain, Structured, TwoInputs, clip, lively
from videoeff.errors import StateError
from videoeff.runtime.options import Options
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.streaming_module import StreamingModule

PAIR = (2, *SIZE[1:])


def random_frames(count: int, size: tuple[int, ...] = SIZE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(size, generator=generator) for _ in range(count)]


def run(stream: StreamingModule, frames: list[Tensor]) -> list[Any]:
    with torch.no_grad():
        return [stream(frame) for frame in frames]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_outputs_between_are_the_last_ones(form: str, backend: str) -> None:
    _, plain = make(Structured(form), threshold=0.1, backend=backend)
    stream = copy.deepcopy(plain).every(3)
    frames = list(clip(8))
    expected = run(plain, frames[::3])
    for index, frame in enumerate(frames):
        assert_same(stream(frame), expected[index // 3], 0.0)
        assert stream.looked == (index % 3 == 0)


def test_one_looks_at_every_frame_bit_for_bit() -> None:
    _, plain = make(Gated(), threshold=0.1)
    stream = copy.deepcopy(plain).every(4).every(1)
    for frame in clip(6):
        assert_same(stream(frame), plain(frame), 0.0)
        assert stream.looked


@pytest.mark.parametrize("form", FORMS)
def test_every_output_is_the_callers_own(form: str) -> None:
    _, stream = make(Structured(form))
    stream.every(3)
    frames = random_frames(7)
    clean = run(copy.deepcopy(stream), frames)
    for frame, want in zip(frames, clean, strict=True):
        out = stream(frame.clone())
        assert_same(out, want, 0.0)
        for value in torch.utils._pytree.tree_leaves(out):
            if isinstance(value, Tensor):
                value.fill_(7.0)  # nothing that is handed out later may show it


def test_buffers_are_handed_out_with_alias_outputs() -> None:
    _, stream = make(Structured("dict"), alias_outputs=True)
    stream.every(2)
    first, between = (stream(f) for f in random_frames(2))
    for name, value in first.items():
        assert between[name] is value
    assert between is not first
    stream.alias_outputs = False
    apart = stream.every(9)(SIZE_FRAME)
    assert apart["fine"].data_ptr() != first["fine"].data_ptr()


SIZE_FRAME = torch.rand(SIZE)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, 2.0, "2", None, True])
def test_what_is_no_whole_number_from_one_on(wrong: Any) -> None:
    _, stream = make()
    for call in (lambda: stream.every(wrong), lambda: Options(every=wrong)):
        with pytest.raises(StateError, match="every="):
            call()
    with pytest.raises(StateError, match="every="):
        videoeff.convert(lively(Plain()), SIZE_FRAME, every=wrong)
    assert stream.options.every == 1


def test_chained_and_shown() -> None:
    _, stream = make()
    assert stream.every(2) is stream
    assert "every 2 frames" in repr(stream)
    run(stream, random_frames(2))
    assert not stream.looked
    assert "every" not in repr(stream.every(1))
    stream(SIZE_FRAME)
    assert stream.looked
    assert videoeff.convert(lively(Plain()), SIZE_FRAME, every=3).options.every == 3


def test_reset_looks_at_the_next_frame() -> None:
    model, stream = make(every=4)
    frames = random_frames(4)
    run(stream, frames[:2])
    stream.reset()
    assert_same(stream(frames[2]), dense(model, frames[2]))
    assert_same(stream(frames[3]), dense(model, frames[2]))
    assert not stream.looked


@pytest.mark.parametrize("more", [{}, {"predict": 1.0}, {"reach": 0, "refresh": 3}, {"weak": 0.5, "grow": 2}])
@pytest.mark.parametrize("model", [Plain, Gated])
def test_one_stream_of_a_batch_is_reset(model: type[nn.Module], more: dict[str, Any]) -> None:
    """The one looks at its next frame; the other is as if nothing had happened, then and later."""
    net = lively(model())
    options: dict[str, Any] = {"threshold": 0.2, "block": 4, "dilation": 1, "every": 4, **more}
    stream = videoeff.convert(net, torch.rand(PAIR), **options)
    undisturbed = copy.deepcopy(stream)
    frames = list(clip(14, PAIR))
    for index, frame in enumerate(frames):
        if index in (2, 9):
            stream.reset(stream=1)
        out, expected = (torch.utils._pytree.tree_leaves(s(frame)) for s in (stream, undisturbed))
        for a, b in zip(out, expected, strict=True):
            assert torch.equal(a[0], b[0]), f"frame {index}"
        if index in (2, 9):
            assert stream.looked
            whole = torch.utils._pytree.tree_leaves(dense(net, frame))
            for a, b in zip(out, whole, strict=True):
                torch.testing.assert_close(a[1], b[1], rtol=1e-5, atol=1e-5)
        else:
            assert stream.looked == (index % 4 == 0), "the beat is the batch's"


def test_a_reset_stream_equals_one_of_its_own() -> None:
    net = lively(Plain())
    stream = videoeff.convert(net, torch.rand(PAIR), threshold=0.3, every=4)
    alone = videoeff.convert(net, torch.rand(SIZE), threshold=0.3)
    frames = list(clip(10, PAIR))
    run(stream, frames[:6])
    stream.reset(stream=1)
    looks = [6, 8]
    expected = dict(zip(looks, [alone(frames[i][1:]) for i in looks], strict=True))
    for index in range(6, 10):
        assert_same(stream(frames[index])[1:], expected[6 if index < 8 else 8])


def test_what_cannot_be_reset_alone_is_named() -> None:
    class Map(nn.Module):
        last: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("last", torch.zeros(PAIR))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.c(x) + self.last
            self.last.copy_(y * 0.5)
            return y

    stream = videoeff.convert(Map().eval(), torch.rand(PAIR), every=2)
    run(stream, random_frames(2, PAIR))
    before = stream.snapshot()
    with pytest.raises(StateError, match=r"the buffer 'last'.*reset\(\) resets all"):
        stream.reset(stream=0)
    assert all(
        torch.equal(t, before.engines[""].tensors[n])
        for n, t in stream.snapshot().engines[""].tensors.items()
    )
    stream.every(1).reset(stream=0)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor, gain: Tensor) -> Tensor:
            return self.c(x) * gain  # type: ignore[no-any-return]

    shared = videoeff.convert(Scaled().eval(), (torch.rand(PAIR), torch.rand(1)), every=2)
    shared(torch.rand(PAIR), torch.rand(1))
    with pytest.raises(StateError, match="argument 1 has no batch dimension"):
        shared.reset(stream=1)


def test_snapshots_take_the_beat_along() -> None:
    stream = videoeff.convert(lively(Gated()), torch.rand(PAIR), threshold=0.1, every=3)
    frames = list(clip(9, PAIR))
    run(stream, frames[:2])
    stream.reset(stream=1)
    kept = stream.snapshot()
    straight = run(stream, frames[2:])
    for _ in range(2):
        stream.restore(kept)
        assert_same(run(stream, frames[2:]), straight, 0.0)
    fresh = videoeff.convert(lively(Gated()), torch.rand(PAIR), threshold=0.1, every=3).snapshot()
    stream.restore(fresh)
    stream(frames[4])
    assert stream.looked, "a stream that saw nothing holds nothing"


def test_copies_have_a_beat_of_their_own() -> None:
    _, stream = make(Gated(), threshold=0.1, every=3)
    frames = list(clip(8))
    run(stream, frames[:2])
    twin = copy.deepcopy(stream)
    first = run(twin, frames[2:])
    assert_same(run(stream, frames[2:]), first, 0.0)
    assert twin.report().held == stream.report().held == 5


def test_thresholds_may_change_between() -> None:
    model, stream = make(Gated(), threshold=0.3, every=3)
    frames = list(clip(7))
    run(stream, frames[:3])
    looked = stream(frames[3])
    stream.set_threshold(0.0)
    assert_same(stream(frames[4]), looked, 0.0)
    assert not stream.looked
    stream.set_threshold(0.2)
    assert_same(stream(frames[5]), looked, 0.0)
    stream.set_threshold(0.0)
    stream.reset()
    assert_same(stream(frames[6]), dense(model, frames[6]))


def test_new_weights_and_casts_are_looked_at_again() -> None:
    model, stream = make(every=5)
    frames = random_frames(3)
    stream(frames[0])
    stream.load_state_dict({k: v * 2 if v.is_floating_point() else v for k, v in stream.state_dict().items()})
    changed = stream(frames[1])
    assert stream.looked
    assert not torch.allclose(changed, dense(model, frames[1]))
    stream.double()
    assert stream(frames[2].double()).dtype == torch.float64
    assert stream.looked


def test_nan_counts_in_frames_that_are_looked_at() -> None:
    model, stream = make(every=2)
    bad = torch.full(SIZE, float("nan"))
    good = random_frames(2)
    first = stream(good[0])
    assert_same(stream(bad), first, 0.0)
    with pytest.raises(StateError, match="holds NaN or infinity"):
        stream(bad)
    assert_same(stream(good[1]), dense(model, good[1]))
    assert stream.looked, "the frame that was refused took nobody's turn"


def test_a_call_that_does_not_fit_is_refused_between_too() -> None:
    _, stream = make(every=4)
    stream(SIZE_FRAME)
    with pytest.raises(StateError, match="planned for"):
        stream(torch.rand(1, 3, 10, 10))
    with pytest.raises(StateError, match="must be a tensor"):
        stream("x")


def test_frames_of_another_size_are_looked_at() -> None:
    model, stream = make(every=4, on_resize="replan")
    stream(SIZE_FRAME)
    other = torch.rand(1, 3, 28, 16)
    assert_same(stream(other), dense(model, other))
    assert_same(stream(torch.rand(1, 3, 28, 16)), dense(model, other))
    assert_same(stream(SIZE_FRAME), dense(model, SIZE_FRAME))


def test_a_frame_that_fails_half_way_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, stream = make(every=2)
    frames = random_frames(4)
    run(stream, frames[:2])

    engine = stream.engines[""]
    plan = engine.plan

    def fails(_: Any) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "plan", dataclasses.replace(plan, runners=(*plan.runners, fails)))
        with pytest.raises(MemoryError):
            stream(frames[2])
    assert_same(stream(frames[3]), dense(model, frames[3]))
    assert stream.looked


def test_reports_count_both_kinds_of_frames() -> None:
    _, stream = make(Gated(), threshold=0.1, every=4)
    frames = list(clip(9))
    run(stream, frames)
    report = stream.report()
    assert (report.every, report.frames, report.held) == (4, 2, 6)
    assert report.macs_handed_out["needed"] == pytest.approx(report.macs["needed"] / 4)
    assert report.macs_handed_out["scheduled"] == pytest.approx(report.macs["scheduled"] / 4)
    assert report.macs_handed_out["dense"] == report.macs["dense"]
    text = str(report)
    assert "2 frame(s) after the first looked at, and 6 between that were not (every=4)" in text
    assert "MACs per frame looked at: " in text
    assert "MACs per frame handed out: " in text
    found = report.to_json()
    assert (found["every"], found["held"]) == (4, 6)
    stream.clear_report()
    assert stream.report().held == 0
    plain = make()[1].report()
    assert "looked at" not in str(plain)
    assert plain.macs_handed_out == {**plain.macs, "audits": 0.0}


def test_masks_are_those_of_the_last_frame_looked_at() -> None:
    _, stream = make(every=2)
    frames = random_frames(3)
    stream(frames[0])
    with stream.observe() as seen:
        stream(frames[1])
        assert not seen.active
        stream(frames[2])
        masks = {k: v.clone() for k, v in seen.active.items()}
        stream(frames[0])
        assert all(torch.equal(v, seen.active[k]) for k, v in masks.items())


def test_buffers_of_the_model_stay_between() -> None:
    """A frame that is not looked at is none to the model: its counter counts those it saw."""
    torch.manual_seed(0)
    for body in (counts, in_parts(counts)):
        model = Net(body).eval()
        stream = videoeff.convert(copy.deepcopy(model), torch.rand(SHAPE), every=2)
        frames = random_frames(5, SHAPE)
        with torch.no_grad():
            expected = [model(frame) for frame in frames[::2]]
            for index, frame in enumerate(frames):
                torch.testing.assert_close(stream(frame), expected[index // 2], rtol=1e-4, atol=1e-5)


def test_models_captured_in_parts() -> None:
    torch.manual_seed(0)
    model = calls_inner(2).eval()
    source = copy.deepcopy(model)
    stream = videoeff.convert(model, torch.rand(SHAPE), every=3)
    assert isinstance(stream.body, PartitionedModel)
    frames = random_frames(7, SHAPE)
    with torch.no_grad():
        expected = [source(frame) for frame in frames[::3]]
        for index, frame in enumerate(frames):
            out = stream(frame)
            torch.testing.assert_close(out, expected[index // 3], rtol=1e-4, atol=1e-5)
            out.fill_(0.0)
            if index == 4:
                kept = stream.snapshot()
        stream.restore(kept)
        torch.testing.assert_close(stream(frames[5]), expected[1], rtol=1e-4, atol=1e-5)


def test_one_stream_of_parts_is_reset() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.d = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            found: Tensor = self.d(self.inner(branch(x)))
            return [{"map": one, "peaks": one[one > one.mean()]} for one in found]

    torch.manual_seed(0)
    model = Parts().eval()
    stream = videoeff.convert(model, torch.rand(PAIR), every=4)
    assert isinstance(stream.body, PartitionedModel)
    undisturbed = copy.deepcopy(stream)
    frames = random_frames(6, PAIR)
    for index, frame in enumerate(frames):
        if index == 2:
            stream.reset(stream=1)
        out, expected = stream(frame), undisturbed(frame)
        assert_same(out[0], expected[0], 0.0)
        if index == 2:
            assert_same(out[1], dense(model, frame)[1])


def test_inside_torch_compile() -> None:
    model, stream = make(every=2)
    torch._dynamo.reset()
    compiled = torch.compile(nn.Sequential(stream), backend="aot_eager", fullgraph=True)
    frames = random_frames(4)
    with torch.no_grad():
        for index, frame in enumerate(frames):
            assert_same(compiled(frame), dense(model, frames[index // 2 * 2]))
    torch._dynamo.reset()


def test_in_inference_mode_and_out_of_it() -> None:
    stream = videoeff.convert(lively(Plain()), torch.rand(PAIR), every=3)
    frames = random_frames(6, PAIR)
    expected = run(copy.deepcopy(stream), frames)
    for index, frame in enumerate(frames):
        with torch.inference_mode(index % 2 == 0):
            assert_same(stream(frame), expected[index], 0.0)
    stream.reset(stream=0)
    with torch.inference_mode():
        stream(frames[0])
    assert torch.equal(stream.snapshot().held.outputs, stream(frames[1]))  # type: ignore[union-attr]


def test_artifacts_keep_it(tmp_path: Path) -> None:
    _, stream = make(Gated(), threshold=0.1, every=3)
    stream.save(tmp_path / "a.veff")
    loaded = videoeff.load(tmp_path / "a.veff")
    assert loaded.options.every == 3
    frames = list(clip(5))
    assert_same(run(loaded, frames), run(stream, frames), 0.0)


def test_several_inputs() -> None:
    model = TwoInputs().eval()
    images, depths = random_frames(3, PAIR), random_frames(3, (2, 1, *SIZE[2:]))
    stream = videoeff.convert(model, (images[0], depths[0]), every=3)
    first = stream(images[0], depths[0])
    stream.reset(stream=0)
    out = stream(images[1], depths[1])
    assert torch.equal(out[1], first[1])
    assert_same(out[:1], dense(model, images[1][:1], depths[1][:1]))
