"""Detections out of raw outputs whose boxes are known, and how outputs are recognised."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from videoeff.calibration.boxes import Boxes
from videoeff.calibration.choice import advice, decoder_for, metric_for, metrics_for
from videoeff.calibration.decoders import (
    Decoder,
    FastestDet,
    Torchvision,
    Ultralytics,
    UltralyticsSelected,
    Yolox,
)
from videoeff.errors import MetricError

SIZE = (64, 96)
CELLS = 8 * 12 + 4 * 6 + 2 * 3


def only(decoder: Decoder, outputs: object) -> Boxes:
    (found,) = decoder.read(outputs).found
    return found


def fastestdet(cells: dict[tuple[int, int], tuple[float, int, float]]) -> Tensor:
    """An output with a class and its probability at some cells (row, column); boxes of a quarter."""
    output = torch.zeros(1, 85, SIZE[0] // 16, SIZE[1] // 16)
    output[0, 84] = 1.0  # elsewhere the last class, and no object
    for (row, column), (shift, label, share) in cells.items():
        output[0, 0, row, column] = 1.0
        output[0, 1, row, column] = math.atanh(shift)
        output[0, 3:5, row, column] = -math.log(3)
        output[0, 84, row, column] = 1 - share
        output[0, 5 + label, row, column] = share
    return output


def yolox(number: int) -> Tensor:
    """A box of 2×3 strides at a cell; everywhere else nothing of half a stride."""
    output = torch.zeros(1, CELLS, 85)
    output[0, :, 2:4] = math.log(0.5)
    output[0, number, :5] = torch.tensor([0.25, 0.5, math.log(2), math.log(3), 0.8])
    output[0, number, 5 + 2] = 0.5
    return output


def ultralytics(classes: int = 80, more: int = 0) -> Tensor:
    """A box of 20×10 pixels around (40, 30), of class 3, and behind the classes values beyond 0..1."""
    output = torch.full((1, 4 + classes + more, CELLS), 0.01)
    output[0, :4, 7] = torch.tensor([40.0, 30.0, 20.0, 10.0])
    output[0, 4 + 3, 7] = 0.9
    output[:, 4 + classes :] = -3.0
    return output


def test_fastestdet() -> None:
    found = only(FastestDet(size=SIZE), fastestdet({(2, 3): (0.5, 7, 0.9)}))
    assert found.labels.tolist() == [7]
    assert found.scores == pytest.approx([0.9**0.4])
    x, y = (3 + 0.5) * 16, 2 * 16
    assert found.boxes[0] == pytest.approx([x - 12, y - 8, x + 12, y + 8], rel=1e-5)


@pytest.mark.parametrize(
    ("number", "stride", "row", "column"), [(0, 8, 0, 0), (30, 8, 2, 6), (100, 16, 0, 4), (125, 32, 1, 2)]
)
def test_yolox(number: int, stride: int, row: int, column: int) -> None:
    found = only(Yolox(size=SIZE), yolox(number))
    assert found.labels.tolist() == [2]
    assert found.scores == pytest.approx([0.4])
    x, y = (column + 0.25) * stride, (row + 0.5) * stride
    expected = [x - stride, y - 1.5 * stride, x + stride, y + 1.5 * stride]
    assert found.boxes[0] == pytest.approx(expected, rel=1e-5, abs=1e-5)  # logarithms are float32


def test_yolox_that_decodes_by_itself() -> None:
    output = torch.full((1, CELLS, 85), 1.0)
    output[..., 4:] = 0
    output[0, 9, :5] = torch.tensor([40.0, 30.0, 20.0, 10.0, 0.9])
    output[0, 9, 6] = 0.9
    decoder = decoder_for(output, SIZE)
    assert decoder == Yolox(size=SIZE, raw=False)
    assert only(Yolox(size=SIZE, raw=False), output).boxes.tolist() == [[30, 25, 50, 35]]


def test_ultralytics() -> None:
    for outputs in (ultralytics(), (ultralytics(more=51), [torch.zeros(1, 64, 8, 12)])):
        found = only(Ultralytics(), outputs)
        assert found.boxes.tolist() == [[30, 25, 50, 35]]
        assert found.labels.tolist() == [3]
        assert found.scores == pytest.approx([0.9])


def test_ultralytics_end_to_end() -> None:
    rows = torch.zeros(2, 300, 6)
    rows[1, 0] = torch.tensor([30.0, 25.0, 50.0, 35.0, 0.9, 3.0])
    rows[1, 1] = torch.tensor([31.0, 25.0, 50.0, 35.0, 0.5, 3.0])  # the network has selected: no suppression
    found = UltralyticsSelected().read(rows).found
    assert [len(f) for f in found] == [0, 2]
    assert found[1].boxes[0].tolist() == [30, 25, 50, 35]
    assert found[1].labels.tolist() == [3, 3]


def test_torchvision() -> None:
    detections = {
        "boxes": torch.tensor([[30.0, 25, 50, 35], [0, 0, 5, 5]]),
        "scores": torch.tensor([0.9, 0.3]),
        "labels": torch.tensor([3, 1]),
    }
    nothing = {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.long),
    }
    found = Torchvision().read([detections, nothing]).found
    assert found[0].boxes.tolist() == [[30, 25, 50, 35]]
    assert found[0].labels.tolist() == [3]
    assert len(found[1]) == 0


def test_of_boxes_that_overlap_the_best_of_a_class_stays() -> None:
    output = fastestdet({(1, 1): (0.9, 3, 0.9), (1, 2): (0.0, 3, 0.6), (3, 1): (0.9, 4, 0.8)})
    found = only(FastestDet(size=SIZE), output)
    assert found.labels.tolist() == [3, 4]
    assert found.scores == pytest.approx([0.9**0.4, 0.8**0.4])


def test_half_precision_is_read() -> None:
    output = fastestdet({(2, 3): (0.5, 7, 0.9)})
    exact, half = (only(FastestDet(size=SIZE), o) for o in (output, output.bfloat16()))
    np.testing.assert_allclose(half.boxes, exact.boxes, atol=0.2)


def test_what_was_read_stays() -> None:
    decoder = FastestDet(size=SIZE)
    reading = decoder.read(fastestdet({(2, 3): (0.5, 7, 0.9)}))
    assert decoder.read(reading) is reading


# ---------------------------------------------------------------- which decoder


def test_outputs_are_recognised() -> None:
    assert decoder_for(fastestdet({(2, 3): (0.5, 7, 0.9)}), SIZE) == FastestDet(size=SIZE)
    assert decoder_for([yolox(3)], SIZE) == Yolox(size=SIZE)
    assert decoder_for(ultralytics(), SIZE) == Ultralytics(classes=80)
    selected = torch.zeros(1, 300, 6)
    assert decoder_for((selected, [torch.zeros(1, 64, 8, 12)]), SIZE) == UltralyticsSelected()
    empty = [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0)}]
    assert decoder_for(empty, SIZE) == Torchvision()


def test_channels_behind_the_classes_are_told_apart() -> None:
    masks = torch.zeros(1, 32, 16, 24)
    pose = ultralytics(classes=1 + 3, more=51)
    assert decoder_for(pose, SIZE) == Ultralytics(classes=4)  # keypoints lie beyond 0..1
    silent = ultralytics(classes=80, more=32)
    silent[:, 84:] = 0.5  # coefficients that might be scores: the masks say how many there are
    assert decoder_for((silent, masks), SIZE) == Ultralytics(classes=80)
    beside = (silent, {"one2one": {"scores": torch.zeros(1, 80, CELLS)}})
    assert decoder_for(beside, SIZE) == Ultralytics(classes=80)
    assert decoder_for(silent, SIZE, "ultralytics:80") == Ultralytics(classes=80)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("yolov8n", Ultralytics(classes=80)),
        ("yolo11n-seg", Ultralytics(classes=80)),
        ("yolo11n-pose", Ultralytics(classes=80)),
        ("yolo26n-seg", UltralyticsSelected()),
        ("yolo26n-pose", UltralyticsSelected()),
    ],
)
def test_outputs_of_ultralytics(name: str, expected: Decoder) -> None:
    ultralytics = pytest.importorskip("ultralytics")
    torch.manual_seed(0)
    model = ultralytics.YOLO(f"{name}.yaml").model.eval()
    model.model[-1].end2end = isinstance(expected, UltralyticsSelected)  # a model made of a file has it off
    with torch.no_grad():
        assert decoder_for(model(torch.rand(1, 3, *SIZE)), SIZE) == expected


@pytest.mark.parametrize(
    "outputs",
    [
        torch.rand(1, 85, 4, 6),  # of FastestDet's form, but no probabilities
        torch.rand(1, 21, 64, 96),  # logits of classes, or a picture of 21 channels
        torch.randn(1, CELLS, 85),
        torch.randn(1, 300, 6),
        [torch.rand(1, 8, 32, 48), torch.rand(1, 16, 16, 24)],
        torch.rand(1, 1000),
        {},
    ],
)
def test_what_is_in_doubt_is_judged_as_numbers(outputs: object) -> None:
    assert decoder_for(outputs, SIZE) is None
    assert metric_for(outputs, SIZE).name == "relative error"


def test_advice() -> None:
    assert "--decoder segmentation" in advice(torch.rand(1, 21, 64, 96), SIZE)
    assert not advice(torch.rand(1, 1000), SIZE)
    assert not advice(fastestdet({}), SIZE)
    assert not advice({"out": torch.rand(1, 21, 64, 96)}, SIZE)


def test_a_word_overrides() -> None:
    logits = torch.rand(1, 85, 4, 6)
    assert decoder_for(logits, SIZE, "fastestdet") == FastestDet(size=SIZE)
    assert metric_for(logits, SIZE, "segmentation").name == "pixel agreement"
    assert decoder_for(fastestdet({}), SIZE, "none") is None
    assert decoder_for(torch.rand(1, 84, 17), SIZE, "ultralytics") == Ultralytics(classes=80)


def test_the_metrics_of_a_network() -> None:
    def names(outputs: object) -> list[str]:
        return [m.name for m in metrics_for(outputs, SIZE)]

    assert names(ultralytics()) == ["error at detections", "agreement", "settled agreement"]
    assert names(torch.zeros(1, 300, 6)) == ["agreement", "settled agreement"]  # no cells to compare
    assert names({"out": torch.rand(1, 21, 8, 8)}) == ["relative error", "mIoU", "pixel agreement"]
    assert names(torch.rand(1, 1000)) == ["relative error"]


@pytest.mark.parametrize(
    ("word", "outputs", "message"),
    [
        ("yolo", torch.rand(1, 1000), "decoder 'yolo' is unknown; known: fastestdet, yolox"),
        ("yolox:3", torch.rand(1, 1000), "unknown"),
        ("ultralytics:x", torch.rand(1, 1000), "unknown"),
        ("fastestdet", torch.rand(1, 1000), r"expects one tensor \(B, 5 \+ classes, 4, 6\).* \[1, 1000\]"),
        ("yolox", torch.rand(1, 12, 85), r"expects one tensor \(B, 126, 5 \+ classes\) for 64×96 pixels"),
        ("ultralytics", torch.rand(1, 12), "expects a first tensor"),
        ("ultralytics:80", torch.rand(1, 60, CELLS), r"\(B, 84 or more, N\)"),
        ("torchvision", [torch.rand(1, 12)], "expects a list of dictionaries"),
        ("segmentation", torch.rand(1, 12), r"expects logits \(B, C, H, W\)"),
        ("segmentation", {}, "no tensor"),
    ],
)
def test_a_word_that_does_not_fit_is_refused(word: str, outputs: object, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        metrics_for(outputs, SIZE, word)
