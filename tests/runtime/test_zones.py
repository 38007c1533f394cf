"""Zones of a stream: setting them, what they hold for, saving, and what it is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.serialize.artifacts import rewritten
from tests.support import quantised as quantised_net
from tests.support.bodies import Body
from tests.support.calls import assert_same, dense, make
from tests.support.detectors import detector
from tests.support.remembering import Net, branch
from tests.support.small_nets import SIZE, Gated, Plain, TwoInputs, lively
from videoeff.calibration.controls import Network
from videoeff.errors import ArtifactError, StateError, VideoError
from videoeff.kernels.cpp import library
from videoeff.runtime.auditing import relative_error
from videoeff.runtime.dense import Carried, run_dense
from videoeff.runtime.report import COMPARED
from videoeff.runtime.zoning import as_seen, ignored_share, masks_of
from videoeff.serialize.format import read_document
from videoeff.video.preprocess import Preprocess
from videoeff.video.zones import Zones

HEIGHT, WIDTH = SIZE[2:]
LEFT = Zones(ignore=(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)),))
EVERYTHING = Zones(ignore=(((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))


def left_ignored(height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[:, : width // 2] = False
    return mask


def busy(count: int, size: tuple[int, ...] = SIZE, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Frames of which all pixels change."""
    return [torch.rand(size).to(dtype) for _ in range(count)]


def halves(frame: Tensor, base: Tensor) -> Tensor:
    """The right half of a frame, the left half of another."""
    middle = frame.shape[-1] // 2
    return torch.cat([base[..., :middle], frame[..., middle:]], -1)


# ---------------------------------------------------------------- models and inputs


def in_parts() -> nn.Module:
    return Net(lambda s, x: s.d(torch.relu(s.c(branch(x)))))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: lively(Plain()), "gates": lambda: lively(Gated()), "in parts": in_parts,
}  # fmt: skip


@pytest.mark.parametrize("given", [LEFT, left_ignored()], ids=["polygons", "mask"])
@pytest.mark.parametrize("name", MODELS)
def test_ignored_pixels_keep_the_value_of_the_first_frame(name: str, given: Zones | Tensor) -> None:
    model = MODELS[name]().eval()
    stream = videoeff.convert(model, torch.rand(SIZE), zones=given)
    assert stream.zones == given if isinstance(given, Zones) else torch.equal(stream.zones, given)  # type: ignore[arg-type]
    assert ignored_share(stream.body) == stream.report().ignored == 0.5
    for begin in range(2):
        frames = busy(3)
        for frame in frames:
            seen = halves(frame, frames[0])
            assert_same(stream(frame), dense(model, seen))
            assert_same(as_seen(stream.body, (frame,), {})[0][0], seen, 0.0)
        if not begin:
            stream.reset()
    stream.set_zones(None)
    assert stream.zones is None
    assert_same(stream(frames[1]), dense(model, frames[1]))
    assert stream.report().ignored == 0.0


@pytest.mark.parametrize("name", MODELS)
def test_a_change_of_ignored_pixels_alone_costs_nothing(name: str) -> None:
    stream = videoeff.convert(MODELS[name]().eval(), torch.rand(SIZE), zones=LEFT)
    first, second = busy(2)
    outputs = stream(first)
    assert_same(stream(halves(first, second)), outputs, 0.0)
    assert stream.report().macs["needed"] == 0
    stream(second)
    assert stream.report().macs["needed"] > 0


def frames_of(form: str) -> tuple[nn.Module, list[Any], list[Any], dict[str, Any]]:
    """A model, frames, the frames as they are seen with the left half ignored, and options."""
    if form == "whole numbers":
        model: nn.Module = Body(lambda s, x: s.d(s.c(x.to(torch.float32) / 255)))
        frames = [(f * 255).to(torch.uint8) for f in busy(4)]
        return model, frames, [halves(f, frames[0]) for f in frames], {}
    if form == "channels last":
        frames = [f.contiguous(memory_format=torch.channels_last) for f in busy(4)]
        return lively(Plain()), frames, [halves(f, frames[0]) for f in frames], {}
    if form == "float64":
        frames = busy(4, dtype=torch.float64)
        return lively(Plain()).double(), frames, [halves(f, frames[0]) for f in frames], {}
    if form == "rows and columns first":
        frames = [f[0].permute(1, 2, 0).contiguous() for f in busy(4)]
        model = Body(lambda s, x: s.d(s.c(x.permute(2, 0, 1)[None])))
        seen = [torch.cat([frames[0][:, : WIDTH // 2], f[:, WIDTH // 2 :]], 1) for f in frames]
        return model, frames, seen, {}
    if form == "one picture":
        frames = [f[0] for f in busy(4)]
        return Body(lambda s, x: s.d(s.c(x))), frames, [halves(f, frames[0]) for f in frames], {}
    if form == "two pictures in a list":
        pairs = [[f[0], f[0].flip(1)] for f in busy(4)]
        both = [[halves(a, b) for a, b in zip(pair, pairs[0], strict=True)] for pair in pairs]
        return Body(lambda s, x: s.d(s.c(torch.stack(x)))), pairs, both, {}
    if form == "detector in parts":
        lists = [[f[0]] for f in busy(4, (1, 3, 32, 40))]
        return detector(), lists, [[halves(f[0], lists[0][0])] for f in lists], {}
    frames = busy(4)
    return lively(Plain()), frames, [halves(f, frames[0]) for f in frames], {"precision": form}


@pytest.mark.parametrize(
    "form",
    [
        "whole numbers", "channels last", "float64", "rows and columns first", "one picture",
        "two pictures in a list", "detector in parts", "bf16",
    ],
)  # fmt: skip
def test_forms_of_frames(form: str) -> None:
    """A stream with zones gives, bit for bit, what one without gives for the frames as it sees them."""
    model, frames, seen, options = frames_of(form)
    zoned, plain = (videoeff.convert(model, (frames[0],), **options) for _ in range(2))
    zoned.set_zones(LEFT)
    if form == "whole numbers":  # which the native kernels do not take
        (kernel,) = {i.kernel for i in zoned.engines[""].plan.instructions if i.call.kind == "input"}
        assert kernel == "reference"
    for frame, shown in zip(frames, seen, strict=True):
        outputs = zoned(frame)
        assert_same(outputs, plain(shown), 0.0)
        if not options:
            assert_same(outputs, dense(model, shown))
        assert_same(as_seen(zoned.body, (frame,), {})[0][0], shown, 0.0)


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "it is there")
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_frames_kept_as_numbers_of_8_bits(threshold: float) -> None:
    torch.manual_seed(0)
    net = quantised_net.Net(12).eval()
    options: dict[str, Any] = {"threshold": threshold, "block": 2} if threshold else {}
    zoned, plain = (videoeff.convert(net, torch.rand(1, 3, 24, 40), **options) for _ in range(2))
    zoned.set_zones(left_ignored(24, 40))
    assert zoned.values()["x"].dtype == torch.float32
    assert zoned.engines[""].state["x.value"].dtype == torch.uint8
    frames = busy(3, (1, 3, 24, 40))
    for frame in frames:
        seen = halves(frame, frames[0])
        assert_same(zoned(frame), plain(seen), 0.0)
        again = run_dense(zoned.body, *as_seen(zoned.body, (frame,), {}), Carried())
        if not threshold:
            assert_same(zoned(frame), again, 0.0)


def test_polygons_are_for_every_picture_and_a_mask_for_those_of_its_size() -> None:
    model = lively(TwoInputs())
    image, depth = torch.rand(1, 3, 12, 16), torch.rand(1, 1, 12, 16)
    stream = videoeff.convert(model, (image, depth), zones=LEFT)
    assert sorted(masks_of(stream.body)) == [0, 1]
    other = image + 1, depth + 1
    stream(image, depth)
    assert_same(stream(*other), dense(model, halves(other[0], image), halves(other[1], depth)))
    small = Body(lambda s, x, y: s.d(s.c(x)) + s.d(y).mean())
    stream = videoeff.convert(small, (image, torch.rand(1, 3, 6, 8)), zones=left_ignored(12, 16))
    assert sorted(masks_of(stream.body)) == [0]
    assert stream.report().ignored == pytest.approx(0.5 * 192 / (192 + 48))


def test_each_stream_of_a_batch_with_a_mask_of_its_own() -> None:
    model, size = lively(Plain()), (3, *SIZE[1:])
    masks = torch.stack([left_ignored(), ~left_ignored(), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)])
    stream = videoeff.convert(model, torch.rand(size), zones=masks)
    frames = busy(4, size)
    base = [frames[0][i] for i in range(3)]
    for number, frame in enumerate(frames):
        if number == 2:
            stream.reset(1)
            base[1] = frame[1]
        seen = torch.stack([torch.where(m, f, b) for m, f, b in zip(masks, frame, base, strict=True)])
        assert_same(stream(frame), dense(model, seen))
    assert stream.report().ignored == pytest.approx(1 / 3)
    masks[:] = True
    assert not bool(stream.zones.all()), "the caller's own tensor may change"  # type: ignore[union-attr]


# ---------------------------------------------------------------- where the frame lies


def test_polygons_lie_in_the_frame_of_a_letterbox() -> None:
    model, stream = make()
    with pytest.raises(StateError, match=r"frames are padded \(letterbox\).* frame_size=\(H, W\)"):
        stream.set_zones(LEFT, Preprocess(size=(HEIGHT, WIDTH), fit="letterbox"))
    assert stream.zones is None
    stream.set_zones(LEFT, Preprocess(fit="letterbox"), frame_size=(10, 24))
    (mask,) = masks_of(stream.body).values()
    assert mask[0, :5].all()
    assert mask[0, 15:].all()
    assert not mask[0, 5:15, :12].any()
    assert mask[0, 5:15, 12:].all()
    stream.extra["preprocess"] = Preprocess(size=(HEIGHT, WIDTH), fit="letterbox-top-left").to_json()
    with pytest.raises(StateError, match="letterbox-top-left"):
        stream.set_zones(LEFT)  # what is recorded counts, where nothing else is given
    stream.set_zones(LEFT, frame_size=(10, 24))
    (mask,) = masks_of(stream.body).values()
    assert not mask[0, :10, :12].any()
    assert mask[0, 10:].all()
    stream.set_zones(left_ignored())  # pixels of the input need no place
    assert torch.equal(masks_of(stream.body)[0][0], left_ignored())
    frames = busy(2)
    for frame in frames:
        assert_same(stream(frame), dense(model, halves(frame, frames[0])))


def test_another_size_is_planned_with_the_same_polygons() -> None:
    model, stream = make(on_resize="replan", zones=LEFT)
    stream(torch.rand(SIZE))
    small = busy(3, (1, 3, 12, 16))
    for frame in small:
        assert_same(stream(frame), dense(model, halves(frame, small[0])))
    stream.set_zones(left_ignored(12, 16))
    with pytest.raises(StateError, match=r"mask of watched pixels is 12x16, its input 20x24.*Zones"):
        stream(torch.rand(SIZE))
    assert_same(stream(small[1]), dense(model, halves(small[1], small[0])))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        (left_ignored(4, 4), StateError, "mask of watched pixels is 4x4, its input 20x24"),
        (torch.zeros_like(left_ignored()), StateError, "nothing is left to watch: the mask is False"),
        (EVERYTHING, VideoError, "nothing is left to watch"),
        (left_ignored().float(), StateError, r"zones are torch.float32 \[20, 24\]; watched pixels are bool"),
        (torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool), StateError, "watched pixels are bool, "),
        (torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool), StateError, r"2 masks for 1 stream\(s\)"),
        (left_ignored().numpy(), StateError, "zones are a ndarray; give videoeff.video.zones.Zones"),
        ({"ignore": []}, StateError, "zones are a dict"),
    ],
)  # fmt: skip
def test_what_is_no_zone_is_refused(given: Any, kind: type[Exception], said: str) -> None:
    _, stream = make(zones=LEFT)
    with pytest.raises(kind, match=said):
        stream.set_zones(given)
    assert stream.zones == LEFT
    assert stream.report().ignored == 0.5
    with pytest.raises(kind, match=said):
        make(zones=given)


def test_inputs_without_pixels_are_refused() -> None:
    batch = torch.ones(2, HEIGHT, WIDTH, dtype=torch.bool)
    batch[0, 0] = False
    empty = torch.stack([left_ignored(), torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)])
    with pytest.raises(StateError, match="nothing is left to watch in stream 1"):
        videoeff.convert(lively(Plain()), torch.rand(2, *SIZE[1:]), zones=empty)
    last = Body(lambda s, x: s.c(x.permute(0, 3, 1, 2)))
    with pytest.raises(StateError, match=r"argument 0 is \[1, 20, 24, 3\], with its channels last"):
        videoeff.convert(last, torch.rand(1, HEIGHT, WIDTH, 3), zones=LEFT)
    parts = Body(lambda s, x: (lambda y: y[y > 0])(s.d(s.c(x.permute(2, 0, 1)[None]))))
    with pytest.raises(StateError, match="none of its inputs is read as pictures"):
        videoeff.convert(parts, torch.rand(HEIGHT, WIDTH, 3), zones=LEFT)


# ---------------------------------------------------------------- NaN


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_nan_in_ignored_pixels(threshold: float, backend: str) -> None:
    """A frame that holds it is refused, wherever it lies; where it is to be computed with, it is not seen."""
    options: dict[str, Any] = {"threshold": threshold, "block": 4, "backend": backend}
    _, stream = make(zones=LEFT, **options)
    frames = busy(2)
    outputs = stream(frames[0])
    bad = frames[0].clone()
    bad[..., 3, 2] = float("nan")
    with pytest.raises(StateError, match="NaN"):
        stream(bad)
    stream.nan_policy = "recompute"
    assert_same(stream(bad), outputs, 0.0)
    bad[..., 3, 20] = float("nan")
    assert bool(stream(bad).isnan().any())
    assert not bool(stream(frames[0]).isnan().any())


# ---------------------------------------------------------------- state


@pytest.mark.parametrize("name", MODELS)
def test_snapshot_copy_cast_and_new_weights(name: str) -> None:
    model = MODELS[name]().eval()
    stream = videoeff.convert(model, torch.rand(SIZE), zones=LEFT)
    frames = busy(5)
    for frame in frames[:2]:
        stream(frame)
    saved, twin = stream.snapshot(), copy.deepcopy(stream)
    expected = [stream(f) for f in frames[2:4]]
    for frame, then in zip(frames[2:4], expected, strict=True):
        assert_same(twin(frame), then, 0.0)
    assert twin.zones == LEFT
    stream.reset()
    stream(frames[4])
    stream.restore(saved)
    for frame, then in zip(frames[2:4], expected, strict=True):
        assert_same(stream(frame), then, 0.0)
    stream.load_state_dict(stream.state_dict())  # the stream begins anew
    assert_same(stream(frames[4]), dense(model, frames[4]))
    twin.double()
    assert_same(
        twin(frames[4].double()), dense(copy.deepcopy(model).double(), halves(frames[4], frames[0]).double())
    )


def test_a_snapshot_of_a_model_in_parts_fits_its_zones() -> None:
    model = in_parts().eval()
    plain, zoned = (videoeff.convert(model, torch.rand(SIZE), zones=zones) for zones in (None, LEFT))
    frames = busy(4)
    for stream in (plain, zoned):
        stream(frames[0])
    before, kept = plain.snapshot(), zoned.snapshot()
    plain.restore(kept)
    zoned.restore(before)  # of a stream that kept no ignored pixels: the next frame is seen whole
    assert_same(zoned(frames[1]), dense(model, frames[1]))
    assert_same(zoned(frames[2]), dense(model, halves(frames[2], frames[1])))
    other = videoeff.convert(model, torch.rand(1, 3, 16, 16), zones=LEFT)
    other(torch.rand(1, 3, 16, 16))
    with pytest.raises(StateError, match="does not fit this stream"):
        zoned.restore(other.snapshot())


def test_a_frame_that_fails_in_the_code_around_parts_is_not_kept() -> None:
    def fails(s: Any, x: Tensor) -> Tensor:
        y = s.d(torch.relu(s.c(branch(x))))
        if float(x.sum()) < -1e6:
            raise ValueError("too dark")
        return y  # type: ignore[no-any-return]

    model = Net(fails).eval()
    stream = videoeff.convert(model, torch.rand(SIZE), zones=LEFT)
    frames = busy(3)
    with pytest.raises(ValueError, match="too dark"):
        stream(frames[0] - 1e6)
    for frame in frames[1:]:
        assert_same(stream(frame), dense(model, halves(frame, frames[1])))


@pytest.mark.parametrize("given", [LEFT, left_ignored(), None], ids=["polygons", "mask", "none"])
@pytest.mark.parametrize("name", ["plain", "in parts"])
def test_save_and_load(name: str, given: Zones | Tensor | None, tmp_path: Path) -> None:
    model, path = MODELS[name]().eval(), tmp_path / "it.veff"
    stream = videoeff.convert(model, torch.rand(SIZE), threshold=0.05, zones=given)
    stream.save(path)
    assert ("zones" in read_document(path)["options"]) == (given is not None)
    loaded = videoeff.load(path, model=model)
    if isinstance(given, Tensor):
        assert isinstance(loaded.zones, Tensor)
        assert torch.equal(loaded.zones, given)
    else:
        assert loaded.zones == given
    for frame in busy(3):
        assert_same(loaded(frame), stream(frame), 0.0)
    assert loaded.report().ignored == stream.report().ignored


def test_a_file_with_zones_that_do_not_fit_is_refused(tmp_path: Path) -> None:
    model, path = in_parts().eval(), tmp_path / "it.veff"
    videoeff.convert(model, torch.rand(SIZE), zones=LEFT).save(path)
    for zones, said in (
        ({"polygons": {"ignore": [[[0, 0]]]}}, "has 1 corner"),
        ({"polygons": {}, "frozen": {"0": "1x2x2:AA=="}}, "a mask of 1x2x2 for an input"),
        ({"polygons": {}, "frozen": {"7": ""}}, "zones are of argument '7', which is no picture"),
        ({}, "its description is not what videoeff writes"),
        (7, "its description is not what videoeff writes"),
    ):
        document: dict[str, Any] = {"zones": zones}

        def edit(found: dict[str, Any], document: dict[str, Any] = document) -> None:
            found["options"].update(document)

        other = rewritten(path, tmp_path / "other.veff", edit)
        with pytest.raises(ArtifactError, match=rf"(?s)other\.veff: .*{said}"):
            videoeff.load(other, model=model)


# ---------------------------------------------------------------- compared with the dense network


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_audits_compare_with_what_the_stream_sees(name: str, idle: bool, every: int) -> None:
    model = MODELS[name]().eval()
    stream = videoeff.convert(model, torch.rand(SIZE), zones=LEFT, every=every).audit(1.0, idle=idle)
    frames, expected, outputs = busy(5), [], None
    for number, frame in enumerate(frames):
        outputs = stream(frame)
        expected.append(relative_error(outputs, dense(model, halves(frame, frames[0])))[0])
        if idle and number == 4:
            stream.set_zones(None)  # a frame that waits is compared as it was seen
        stream.audit_now()
        stream.set_zones(LEFT)
    report = stream.report()
    assert report.audit is not None
    assert [a.value for a in report.audit.records] == pytest.approx(expected, abs=1e-5)
    if every == 1:
        assert max(expected) < 1e-5
    assert f"audits: {COMPARED}" in report.summary()
    assert any(line.startswith("zones: 50.0 % of the frame's pixels") for line in report.summary())
    assert report.to_json()["ignored"] == 0.5


def test_controls_see_what_the_stream_sees() -> None:
    model, stream = make(zones=LEFT)
    frames = busy(3)
    network = Network(stream, lambda frame: ((torch.from_numpy(frame),), {}))
    for frame in frames:
        stream(frame)
        assert_same(network(frame.numpy()), dense(model, halves(frame, frames[0])))


def test_a_call_without_zones_is_handed_on_as_it_is() -> None:
    _, stream = make()
    frame = torch.rand(SIZE)
    stream(frame)
    args = (frame,)
    assert as_seen(stream.body, args, {})[0] is args


def test_setting_zones_keeps_the_state_and_the_counts() -> None:
    """What is ignored from now on stays as it was last; the same zones once more change nothing."""
    model, stream = make(zones=LEFT)
    frames = busy(4)
    for frame in frames[:2]:
        stream(frame)
    plan = stream.engines[""].plan
    stream.set_zones(LEFT)
    assert stream.engines[""].plan is plan
    stream.set_zones(~left_ignored())
    seen = torch.cat([frames[2][..., : WIDTH // 2], frames[1][..., WIDTH // 2 :]], -1)
    assert_same(stream(frames[2]), dense(model, seen))
    assert stream.report().frames == 2
    assert str(stream).startswith("StreamingModule(Plain")


def test_events_are_told_of_what_is_watched() -> None:
    """A cut in the watched quarter is a cut, also where all else is ignored and stays as it was."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).eval()
    watched = torch.ones(32, 64, dtype=torch.bool)
    watched[:, :48] = False
    for backend in ("auto", "reference"):
        stream = videoeff.convert(
            model,
            torch.rand(1, 3, 32, 64),
            threshold=0.1,
            block=4,
            backend=backend,
            zones=watched,
        )
        scenes = [torch.rand(1, 3, 32, 64) for _ in range(2)]
        for number in range(12):
            frame = scenes[number // 6].clone()
            frame[..., :48] = torch.rand(1, 3, 32, 48)
            stream(frame)
        (events,) = stream.report().events
        assert (events.cuts, events.light, events.period) == ((6,), (), None), backend
