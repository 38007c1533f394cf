"""Models captured in parts: what streams, what does not, and that nobody can tell from the outputs."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.detectors import CallsAgain, Detector, detector
from tests.support.small_nets import clip
from videoeff.capture.partition import partition
from videoeff.errors import CaptureError, StateError
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import relative_error

SIZE = (3, 30, 40)


def images(
    count: int, *sizes: tuple[int, int, int], dtype: torch.dtype = torch.float32
) -> Iterator[list[Tensor]]:
    """Frames for a detector: a list of images each."""
    clips = [clip(count, size, dtype, seed) for seed, size in enumerate(sizes or (SIZE,))]
    return (list(frame) for frame in zip(*clips, strict=True))


def convert(model: nn.Module, *sizes: tuple[int, int, int], **options: Any) -> StreamingModule:
    return videoeff.convert(model, next(images(1, *sizes)), **options)


@torch.no_grad()
def dense(model: nn.Module, *args: Any) -> Any:
    return model(*args)


def assert_same(found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert list(a) == list(b)
        assert torch.equal(a["boxes"], b["boxes"])
        torch.testing.assert_close(a["scores"], b["scores"], rtol=1e-4, atol=1e-5)


@pytest.fixture(name="parts", scope="module")
def _parts() -> tuple[Detector, StreamingModule]:
    """A detector and its stream, converted once; tests take copies of the stream."""
    torch.manual_seed(0)
    model = detector()
    return model, convert(model)


@pytest.fixture(name="model")
def _model(parts: tuple[Detector, StreamingModule]) -> Detector:
    return parts[0]


@pytest.fixture(name="stream")
def _stream(parts: tuple[Detector, StreamingModule]) -> StreamingModule:
    return copy.deepcopy(parts[1])


def test_parts_and_exactness(model: Detector, stream: StreamingModule) -> None:
    assert list(stream.engines) == ["backbone", "head#1", "head#2", "head#3"]
    for frame in images(6):
        expected = dense(model, frame)
        assert expected[0]["boxes"].shape[0] > 3, "the loop over proposals runs"
        assert_same(stream(frame), expected)


def test_every_call_has_a_state_of_its_own_and_weights_in_common(stream: StreamingModule) -> None:
    for frame in images(2):
        stream(frame)
    values = stream.values()
    sizes = [values[f"head#{i}.conv"].shape[2:] for i in (1, 2, 3)]
    assert sizes == [(16, 20), (8, 10), (4, 5)]
    folded = [dict(stream.engines[f"head#{i}"].network.named_buffers()) for i in (1, 2, 3)]
    for name, tensor in folded[0].items():
        assert tensor.data_ptr() == folded[1][name].data_ptr() == folded[2][name].data_ptr(), name


def test_only_what_changed_is_computed(stream: StreamingModule) -> None:
    frames = list(images(5))
    for frame in frames[:2]:
        stream(frame)
    stream.clear_report()
    stream(frames[1])
    report = stream.report()
    assert report.frames == 1
    assert report.macs["needed"] == 0.0
    stream(frames[3])
    assert 0.0 < stream.report().macs["needed"] < 0.5 * report.macs["dense"]


def test_what_does_not_stream_is_reported(stream: StreamingModule) -> None:
    report = stream.report()
    parts = dict(report.eager)
    assert "torch.export could not trace it" in parts[""]
    assert len(parts[""]) < 300
    assert "number of things it looks at" in parts["proposals"]
    assert "runs as it is: proposals" in str(report)


def test_the_share_of_convolution_work_is_a_hand_count(model: Detector, stream: StreamingModule) -> None:
    frame = next(images(1))
    proposals = dense(model, frame)[0]["boxes"].shape[0]
    pixels = [16 * 20, 8 * 10, 4 * 5]
    backbone = 9 * (3 * 8 * pixels[0] + 64 * pixels[1] + 64 * pixels[2])
    heads = sum((9 * 64 + 8) * p for p in pixels)
    dense_head = proposals * 9 * 9 * 64  # 3 by 3 results of each 5 by 5 crop
    report = stream.report()
    assert sum(x.macs_dense for x in report.layers) == backbone + heads
    share = (backbone + heads) / (backbone + heads + dense_head)
    assert report.convolutions_streamed == pytest.approx(share)


def test_strict_names_what_does_not_stream(model: Detector) -> None:
    with pytest.raises(CaptureError, match=r"does not stream: proposals \(.*strict=False"):
        convert(model, strict=True)


def test_two_images_are_two_streams(model: Detector) -> None:
    sizes = (SIZE, (3, 24, 33))
    stream = convert(model, *sizes)
    assert stream.streams == 2
    frames = list(images(5, *sizes))
    for frame in frames[:4]:
        assert_same(stream(frame), dense(model, frame))
    alone = [frames[3][0], frames[4][1]]
    stream(alone)
    with stream.observe() as seen:
        stream([frames[3][0], frames[3][1]])
    changed = seen.changed["backbone.one"]
    assert not bool(changed[0].any())
    assert bool(changed[1].any())
    stream.reset(stream=1)
    assert_same(stream(frames[2]), dense(model, frames[2]))


def test_thresholds_by_part(model: Detector, stream: StreamingModule) -> None:
    stream.set_threshold(0.1)
    names = stream.thresholds()
    assert names["backbone.one"] == names["head#2.conv"] == 0.1
    stream.set_threshold(0.3, "head#*")
    stream.set_threshold(0.0, "backbone.*")
    assert stream.thresholds()["head#3.conv"] == 0.3
    assert stream.thresholds()["backbone.one"] == 0.0
    frames = list(images(3))
    assert_same(stream(frames[0]), dense(model, frames[0]))
    stream.set_threshold(0.0)
    assert set(stream.thresholds().values()) == {0.0}
    assert_same(stream(frames[1]), dense(model, frames[1]))


def test_frames_that_do_not_fit(model: Detector, stream: StreamingModule) -> None:
    good, small = next(images(1)), next(images(1, (3, 20, 24)))
    stream(good)
    for frame, message in (
        (small, r"\[3, 20, 24\], the stream was planned for \[3, 30, 40\]"),
        (good * 2, r"called with \(\[tensor, tensor\]\), but converted with \(\[tensor\]\)"),
        (good[0], "called with"),
        ([good[0].double()], "float64"),
        ([good[0][:2]], "2 channels"),
        ([good[0] * float("nan")], "NaN"),
    ):
        with pytest.raises(StateError, match=message):
            stream(frame)
    assert_same(stream(good), dense(model, good))


def test_replan_for_another_size(model: Detector) -> None:
    stream = convert(model, on_resize="replan", threshold=0.0)
    stream.set_threshold(0.2, "head#1.*")
    for size in ((3, 24, 48), SIZE):
        for frame in images(3, size):
            once = stream(frame)
            assert relative_error(stream(frame), once) == 0.0, "a frame again changes nothing"
        assert stream.thresholds()["head#1.conv"] == 0.2
    stream.set_threshold(0.0)
    for frame in images(3):
        assert_same(stream(frame), dense(model, frame))


def test_copies_snapshots_and_casts(model: Detector) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stream = convert(model)
    frames = list(images(4))
    stream(frames[0])
    kept = stream.snapshot()
    twin = copy.deepcopy(stream)
    assert {t.data_ptr() for t in twin.buffers()}.isdisjoint(t.data_ptr() for t in stream.buffers())
    stream(frames[3])
    stream.restore(kept)
    for frame in frames[1:]:
        expected = dense(model, frame)
        assert_same(stream(frame), expected)
        assert_same(twin(frame), expected)
    twin.double()
    wide = copy.deepcopy(model).double()
    for frame in images(3, dtype=torch.float64):
        assert_same(twin(frame), dense(wide, frame))
    convert(model).double()
    for key, value in model.state_dict().items():
        assert value.dtype == before[key].dtype, "the cast of a stream leaves the model alone"
        assert torch.equal(value, before[key])
    assert all(p.requires_grad for p in model.parameters())
    stream.train()
    assert not any(m.training for m in stream.modules())
    assert_same(stream(frames[0]), dense(model, frames[0]))


def test_inference_mode(model: Detector) -> None:
    frames = list(images(4))
    with torch.inference_mode():
        stream = videoeff.convert(model, frames[0])
        stream(frames[0])
    assert_same(stream(frames[1]), dense(model, frames[1]))
    with torch.inference_mode():
        assert_same(stream(frames[2]), dense(model, frames[2]))


def test_a_part_called_with_another_size_or_more_often() -> None:
    model = CallsAgain().eval()
    frame = torch.rand(1, 3, 16, 20) + 0.5
    stream = videoeff.convert(model, frame)
    assert list(stream.engines) == ["body"]
    assert stream.report().eager[1:] == ()
    for index, shift in enumerate((0.0, 0.0, -0.9, 0.0, 3.0, 3.0, 0.0)):
        given = frame + shift
        given[..., index : index + 2, 4:6] += 0.1
        torch.testing.assert_close(stream(given), dense(model, given), rtol=1e-5, atol=1e-5)
    assert dict(stream.report().eager)["body"].startswith("3 call(s)")
    stream.clear_report()
    assert "body" not in dict(stream.report().eager)


def test_a_module_under_two_names_is_one_part() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
            self.right = self.left

        def forward(self, x: Tensor) -> Tensor:
            y = self.right(self.left(x))
            result: Tensor = y if float(y.sum()) > 0 else -y
            return result

    model = Shared().eval()
    stream = videoeff.convert(model, torch.rand(1, 3, 16, 20))
    assert list(stream.engines) == ["left#1", "left#2"]
    for frame in clip(4, (1, 3, 16, 20)):
        torch.testing.assert_close(stream(frame), dense(model, frame), rtol=1e-5, atol=1e-5)
    assert {name: e.counts.frames for name, e in stream.engines.items()} == {"left#1": 3, "left#2": 3}
    assert stream.report().eager[1:] == ()
    assert stream.report().convolutions_streamed == 1.0


def test_a_part_that_writes_into_its_input() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            y = x - 0.5
            z = self.conv(y)
            result: Tensor = z + y if float(z.sum()) > -1e9 else z
            return result

    model = Writes().eval()
    stream = videoeff.convert(model, torch.rand(1, 3, 16, 20))
    for frame in clip(4, (1, 3, 16, 20)):
        torch.testing.assert_close(stream(frame), dense(model, frame), rtol=1e-5, atol=1e-5)


def test_nothing_to_capture() -> None:
    class OnlyData(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x: Tensor) -> list[Tensor]:
            size = 6 + int(x.sum() * 1000) % 5
            return [self.conv(x[..., :size, :size])]

    with pytest.raises(CaptureError, match=r"no part of it could be captured \(.*conv: the number of things"):
        videoeff.convert(OnlyData().eval(), torch.rand(1, 3, 16, 20))


def test_a_model_that_cannot_be_copied() -> None:
    class Holds(CallsAgain):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    with pytest.raises(CaptureError, match=r"Holds: it cannot be copied .*lock"):
        videoeff.convert(Holds().eval(), torch.rand(1, 3, 16, 20))


def test_partition_leaves_no_hooks(model: Detector) -> None:
    partition(model, (next(images(1)),), {})
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.slow
def test_faster_rcnn() -> None:
    """Its parts' outputs: boxes of random weights are ties, whose order the last bit decides."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    torch.manual_seed(1)
    model = fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, min_size=96, max_size=128, box_score_thresh=0.0
    ).eval()
    model.double()
    size = (3, 96, 128)
    frames = list(images(3, size, dtype=torch.float64))
    stream = videoeff.convert(model, frames[0])
    assert {"backbone", "rpn.head"} == {name.split("#")[0] for name in stream.engines}
    assert isinstance(stream.body, PartitionedModel)
    expected, found = [_outputs_of(m, "backbone", "rpn.head") for m in (model, stream.body.model)]
    for frame in frames:
        boxes = dense(model, frame)[0]["boxes"]
        assert stream(frame)[0]["boxes"].shape == boxes.shape
        assert len(found) == len(expected) > 0
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        found.clear()
        expected.clear()
    assert stream.report().convolutions_streamed > 0.99


def _outputs_of(model: nn.Module, *paths: str) -> list[Tensor]:
    """A list that collects what submodules return."""
    collected: list[Tensor] = []
    for path in paths:
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, outputs: collected.extend(torch.utils._pytree.tree_leaves(outputs))
        )
    return collected
