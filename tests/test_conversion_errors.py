"""What does not fit: an error of the tree that says what, where and the fix, and an unharmed stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.small_nets import SIZE, Gated, Plain, TwoInputs, clip, lively
from videoeff.errors import (
    ArtifactError,
    BackendError,
    CaptureError,
    PassError,
    StateError,
    VideoEffError,
)
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.files import write_atomic, write_text
from videoeff.serialize.models import build, build_trusted


def make(model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, StreamingModule]:
    model = lively(Plain() if model is None else model)
    return model, videoeff.convert(model, torch.rand(SIZE), **options)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def dense(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return model(*args, **kwargs)


# ---------------------------------------------------------------- frames that do not fit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :-1], r"argument 0 is \[1, 3, 20, 23\].*planned for \[1, 3, 20, 24\].*replan"),
        (lambda x: x[:, :, 2:], r"\[1, 3, 18, 24\]"),
        (lambda x: torch.cat([x, x[:, :1]], 1), r"4 channels.*takes 3.*drop or add"),
        (lambda x: x[:, :1], r"1 channels.*takes 3"),
        (lambda x: torch.cat([x, x]), r"batch of 2.*keeps 1 stream.*batch size"),
        (lambda x: x[:0], r"batch of 0"),
        (lambda x: x.double(), r"torch\.float64.*takes torch\.float32.*\.to\("),
        (lambda x: x.half(), r"torch\.float16"),
        (lambda x: (x * 255).to(torch.uint8), r"torch\.uint8"),
        (lambda x: x[0], r"3 dimensions \[3, 20, 24\].*takes 4.*batch dimension"),
        (lambda x: x[None], r"5 dimensions"),
        (lambda x: torch.tensor(0.5), r"0 dimensions"),
        (lambda x: x.to("meta"), r"lies on meta, the stream on cpu.*\.to"),
        (lambda x: x.numpy(), r"must be a tensor, it is numpy\.ndarray; use torch\.from_numpy"),
        (lambda x: None, r"must be a tensor, it is NoneType"),
        (lambda x: "frame.png", r"must be a tensor, it is str"),
        (lambda x: [x], r"called with \(\[tensor\]\), but converted with \(tensor\)"),
    ],
)
def test_frames_that_do_not_fit(change: Callable[[Tensor], Any], message: str) -> None:
    model, stream = make()
    frames = list(clip(4))
    stream(frames[0])
    with pytest.raises(StateError, match=f"(?s)Plain: .*{message}"):
        stream(change(frames[1]))
    assert_close(stream(frames[1]), dense(model, frames[1]))
    assert stream.report().frames == 1, "the bad frame was not counted"


def test_calls_that_do_not_fit() -> None:
    model, stream = make()
    frame = torch.rand(SIZE)
    for call in (
        lambda: stream(),
        lambda: stream(frame, frame),
        lambda: stream(frame, 2.0),
        lambda: stream(frame, 1.0, 3),
        lambda: stream(frame, other=1),
        lambda: stream(frame, x=frame),
        lambda: stream({"x": frame}),
    ):
        with pytest.raises(StateError, match=r"(?s)Plain: .*(convert|pass)"):
            call()
    assert_close(stream(frame), dense(model, frame))


def test_a_literal_that_changes() -> None:
    model = lively(Plain())
    frame = torch.rand(SIZE)
    stream = videoeff.convert(model, (frame, 2.0))
    assert_close(stream(frame, 2.0), dense(model, frame, 2.0))
    with pytest.raises(StateError, match=r"argument 1 is 3\.0.*converted for 2\.0.*convert again"):
        stream(frame, 3.0)
    with pytest.raises(StateError, match=r"argument 1 is 2, the stream was converted for 2\.0"):
        stream(frame, 2)
    with pytest.raises(StateError, match=r"argument 1 is a tensor"):
        stream(frame, torch.tensor(2.0))
    assert_close(stream(frame, 2.0), dense(model, frame, 2.0))


def test_a_tensor_where_none_was_and_none_where_a_tensor_was() -> None:
    model = TwoInputs().eval()
    image, depth, bias = torch.rand(SIZE), torch.rand(1, 1, 20, 24), torch.rand(1, 4, 20, 24)
    without = videoeff.convert(model, (image, depth), kwargs={"bias": None})
    with pytest.raises(StateError, match="is a tensor, the example had None"):
        without(image, depth, bias=bias)
    with pytest.raises(StateError, match="must be a tensor, it is NoneType"):
        without(image, None, bias=depth)
    assert_close(without(image, depth, bias=None), dense(model, image, depth))


# ---------------------------------------------------------------- NaN and infinity


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 2])
def test_a_frame_that_is_not_finite_changes_nothing(value: float, at: int) -> None:
    model, stream = make(Gated(), threshold=0.05)
    _, twin = make(Gated(), threshold=0.05)
    twin = videoeff.convert(model, torch.rand(SIZE), threshold=0.05)
    frames = list(clip(5))
    for index, frame in enumerate(frames):
        if index == at:
            broken = frame.clone()
            broken[0, 1, 7, 9] = value
            before = {k: v.clone() for k, v in stream.values().items()}
            with pytest.raises(StateError, match=r"NaN or infinity at 1 element.*\[0, 1, 7, 9\].*nan_policy"):
                stream(broken)
            if index:
                assert all(torch.equal(v, before[k]) for k, v in stream.values().items())
        for a, b in zip(stream(frame), twin(frame), strict=True):
            assert torch.equal(a, b)


def test_large_finite_frames_pass() -> None:
    _, stream = make()
    big = torch.full(SIZE, 3e38)  # the sum overflows, no element does
    assert stream(big).shape == (1, 4, 10, 12)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threshold": 0.1},
        {"threshold": 0.1, "block": 4, "dilation": 1},
        {"threshold": 0.1, "predict": 1.0},
    ],
    ids=["exact", "threshold", "blocks", "predicted"],
)
@pytest.mark.parametrize("at", [0, 2])
def test_recompute_goes_through_nan_and_back(value: float, options: dict[str, Any], at: int) -> None:
    model, stream = make(nan_policy="recompute", **options)
    frames = list(clip(6))[:5]
    for index, frame in enumerate(frames):
        if index == at:
            broken = frame.clone()
            broken[0, 1, 7, 9] = value
            for _ in range(2):
                out, expected = stream(broken), dense(model, broken)
                assert torch.equal(torch.isfinite(out), torch.isfinite(expected))
        out, expected = stream(frame), dense(model, frame)
        assert bool(torch.isfinite(out).all())
        assert all(bool(torch.isfinite(v).all()) for v in stream.values().values())
        if not options:
            assert_close(out, expected)


def test_recompute_through_a_gate() -> None:
    model, stream = make(Gated(), nan_policy="recompute")
    for index, frame in enumerate(clip(5)):
        if index == 2:
            assert not bool(torch.isfinite(stream(torch.full(SIZE, float("nan")))[0]).any())
        for out, expected in zip(stream(frame), dense(model, frame), strict=True):
            assert_close(out, expected)


# ---------------------------------------------------------------- two threads


def test_two_threads_in_one_stream() -> None:
    model, stream = make()
    frames = list(clip(4))
    stream(frames[0])
    inside, go_on = threading.Event(), threading.Event()
    engine = stream.engines[""]

    def waits(*_: Any) -> None:
        inside.set()
        assert go_on.wait(30)

    engine.observe(waits)
    results: list[Any] = []
    first = threading.Thread(target=lambda: results.append(stream(frames[1])))
    first.start()
    try:
        assert inside.wait(30)
        for call in (
            lambda: stream(frames[2]),
            stream.reset,
            stream.snapshot,
            lambda: stream.set_threshold(0.1),
            lambda: stream.double(),
        ):
            with pytest.raises(StateError, match=r"two threads.*deepcopy"):
                call()
    finally:
        go_on.set()
        first.join(30)
    engine.observe(None)
    assert_close(results[0], dense(model, frames[1]))
    assert_close(stream(frames[3]), dense(model, frames[3]))


def test_threads_that_race_get_their_frame_or_an_error() -> None:
    model, stream = make()
    frames = list(clip(8))
    stream(frames[0])
    barrier, results = threading.Barrier(4), [0, 0]
    lock = threading.Lock()

    def work() -> None:
        barrier.wait()
        for frame in frames:
            try:
                right = torch.allclose(stream(frame), dense(model, frame), rtol=1e-5, atol=1e-5)
            except StateError:
                continue
            with lock:
                results[not right] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results[0] > 0
    assert results[1] == 0
    assert_close(stream(frames[3]), dense(model, frames[3]))


# ---------------------------------------------------------------- models that do not fit


def test_a_model_in_training_mode() -> None:
    with pytest.raises(CaptureError, match=r"training mode.*model\.eval\(\)"):
        videoeff.convert(Plain().train(), torch.rand(SIZE))


@pytest.mark.parametrize("kind", [lambda: nn.BatchNorm2d(4), lambda: nn.Dropout()])
def test_one_submodule_in_training_mode(kind: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(kind(), nn.ReLU())).eval()
    model[1][0].train()
    with pytest.raises(CaptureError, match=r"1\.0 \((BatchNorm2d|Dropout)\) is in training mode"):
        videoeff.convert(model, torch.rand(SIZE))


def test_a_model_without_convolutions() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 4)).eval()
    with pytest.raises(CaptureError, match=r"no convolution.*run it as it is"):
        videoeff.convert(model, torch.rand(SIZE))


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ([torch.rand(SIZE), 2.0], r"\(\[tensor, 2\.0\]\).*a list is one argument; pass a tuple"),
        ({"x": torch.rand(SIZE)}, r"dictionary is one argument; pass keyword arguments as kwargs="),
        (np.zeros(SIZE, np.float32), "ndarray"),
        ("clip.avi", "'clip.avi'"),
        (None, "None"),
        ((3, 20, 24), r"\(3, 20, 24\)"),
        ((), "missing 1 required"),
        (torch.rand(1, 5, 20, 24), "expected input"),
        (torch.rand(SIZE, dtype=torch.float64), "[Dd]ouble|type"),
        (torch.rand(SIZE, device="meta"), "meta"),
    ],
)
def test_examples_that_do_not_fit(example: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=f"(?s)Plain.*{message}"):
        videoeff.convert(lively(Plain()), example)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"threshold": -1}, PassError, "threshold=-1"),
        ({"threshold": float("nan")}, PassError, "threshold=nan"),
        ({"threshold": float("inf")}, PassError, "threshold=inf"),
        ({"threshold": "0.1"}, PassError, "threshold='0.1'"),
        ({"threshold": None}, PassError, "threshold=None"),
        ({"input_threshold": -0.1}, PassError, "input_threshold=-0.1"),
        ({"predict": -1.0}, PassError, "predict=-1"),
        ({"predict": float("nan")}, PassError, "predict=nan"),
        ({"block": 0}, PassError, "block=0"),
        ({"block": 1.5}, PassError, "block=1.5"),
        ({"dilation": -1}, PassError, "dilation=-1"),
        ({"recipe": "fast"}, PassError, "no recipe 'fast'; there are exact, delta"),
        ({"recipe": "exact", "threshold": 0.1}, PassError, "recipe='delta'"),
        ({"passes": "nothing"}, PassError, "no pass 'nothing'; there are"),
        ({"passes": "insert-delta-caches{tau=1}"}, PassError, "no option 'tau'"),
        ({"passes": [1]}, PassError, "passes holds 1"),
        (
            {"passes": "insert-delta-caches,insert-thresholds{threshold=0.1}", "threshold": 0.1},
            PassError,
            "twice",
        ),
        ({"backend": "warp"}, BackendError, "no backend 'warp'"),
        ({"nan_policy": "ignore"}, StateError, "nan_policy='ignore' is none of error, recompute"),
        ({"on_resize": "yes"}, StateError, "on_resize='yes' is none of error, replan"),
        ({"kwargs": [1]}, CaptureError, "kwargs is a list"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], kind: type[VideoEffError], message: str) -> None:
    with pytest.raises(kind, match=message):
        videoeff.convert(lively(Plain()), torch.rand(SIZE), **options)


def test_blocks_larger_than_the_frame() -> None:
    model, stream = make(threshold=0.01, block=64, dilation=2)
    frames = list(clip(3))
    stream(frames[0])
    assert (stream(frames[2]) - dense(model, frames[2])).abs().max() < 0.01


def test_strict_names_what_does_not_stream() -> None:
    class Steered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return nn.functional.conv2d(y, self.b.weight * y.mean(), self.b.bias, padding=1)

    model = Steered().eval()
    frame = torch.rand(SIZE)
    with pytest.raises(CaptureError, match=r"does not stream: \w+ \(.*strict=False"):
        videoeff.convert(model, frame, strict=True)
    stream = videoeff.convert(model, frame)
    for frame in clip(3):
        assert_close(stream(frame), dense(model, frame))
    assert stream.report().convolutions_streamed == pytest.approx(3 / 7)


@pytest.mark.parametrize("model", ["resnet18", {"weight": torch.rand(1)}, lambda x: x, None])
def test_models_that_are_none(model: Any) -> None:
    with pytest.raises(CaptureError, match=r"the model is a \w+; give a torch\.nn\.Module"):
        videoeff.convert(model, torch.rand(SIZE))


def test_a_model_that_fixes_a_dtype_inside_is_not_cast() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv((x.to(torch.float64) / 2).to(torch.float32))

    model, stream = make(Fixed())
    frames = list(clip(3))
    stream(frames[0])
    with pytest.raises(StateError, match=r"Fixed: it cannot be cast.*fixes a dtype inside.*cast the model"):
        stream.to(torch.bfloat16)
    for frame in frames:
        assert_close(stream(frame), dense(model, frame))


# ---------------------------------------------------------------- exported programs


def test_an_exported_program_of_another_size() -> None:
    height, width = torch.export.Dim("height", min=8, max=64), torch.export.Dim("width", min=8, max=64)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    free = torch.export.export(model, (torch.rand(SIZE),), dynamic_shapes=({2: height, 3: width},))
    fixed = torch.export.export(model, (torch.rand(SIZE),))
    for exported, size in ((free, (1, 3, 16, 32)), (free, SIZE), (fixed, SIZE)):
        stream = videoeff.convert(exported, torch.rand(size), name="it")
        for frame in clip(3, size):
            assert_close(stream(frame), dense(model, frame))
        assert stream.name == "it"
    for exported, size in ((free, (1, 3, 16, 100)), (fixed, (1, 3, 16, 24)), (free, (1, 4, 20, 24))):
        with pytest.raises(CaptureError, match=r"exported: torch\.export could not trace it: "):
            videoeff.convert(exported, torch.rand(size))


def test_the_module_of_an_exported_program() -> None:
    model = lively(Plain())
    exported = torch.export.export(model, (torch.rand(SIZE),))
    stream = videoeff.convert(exported, torch.rand(SIZE))
    for frame in clip(3):
        assert_close(stream(frame), dense(model, frame))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("what", ["missing folder", "parent is a file", "target is a folder"])
@pytest.mark.parametrize("save", ["save", "save_thresholds"])
def test_outputs_that_cannot_be_written(tmp_path: Path, what: str, save: str) -> None:
    _, stream = make()
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    target = {
        "missing folder": tmp_path / "none" / "out.veff",
        "parent is a file": tmp_path / "file" / "out.veff",
        "target is a folder": tmp_path / "folder",
    }[what]
    with pytest.raises(ArtifactError, match=rf"{target.name}: cannot be written \("):
        getattr(stream, save)(target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stream = make()
    path = tmp_path / "stream.veff"
    stream.save(path)
    before = path.read_bytes()

    def fails(_: Any, target: Path, **__: Any) -> None:
        target.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(ArtifactError, match="No space left"):
        stream.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["stream.veff"]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(target: Path) -> None:
        target.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.txt", interrupted)
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert (tmp_path / "a.txt").stat().st_mode & 0o600 == 0o600


# ---------------------------------------------------------------- references


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet18", "write torchvision:NAME"),
        ("torchvision:", "write torchvision:NAME"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; similar: "),
        ("timm:no_such_net", "timm"),
        ("no_such_package.module:f", "cannot be imported"),
        ("absent.py:f", r"absent\.py: no such file"),
        ("os.path:nothing", "no callable 'nothing'"),
        ("os:getcwd", "made a str, expected a torch.nn.Module"),
    ],
)
def test_references_that_do_not_resolve(reference: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        build(reference)


def test_a_file_whose_code_fails(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\nnet = torch.nn.Conv2d(3, 4, 3)\n\ndef broken():\n    raise ValueError('x')\n"
    )
    assert isinstance(build(f"{source}:net"), nn.Conv2d)
    with pytest.raises(CaptureError, match="failed when called: ValueError: x"):
        build(f"{source}:broken")
    source.write_text("import nothing_of_that_name\n")
    with pytest.raises(CaptureError, match="failed while it was run: ModuleNotFoundError"):
        build(f"{source}:net")
    source.write_text("def f(:\n")
    with pytest.raises(CaptureError, match="SyntaxError"):
        build(f"{source}:f")


@pytest.mark.parametrize(
    "reference", ["os:getcwd", "net.py:f", "", "posix:system", "torchvision.models:resnet18"]
)
def test_references_of_files_are_trusted_by_library_only(reference: str) -> None:
    with pytest.raises(ArtifactError, match=r"a\.veff: .*build it yourself"):
        build_trusted(reference, "a.veff")
