"""Agreement of detections and of label maps, on examples counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videoeff.calibration.agreement import (
    DetectionAgreement,
    ErrorAtDetections,
    MeanIoU,
    PixelAgreement,
    Segmentation,
    SettledAgreement,
)
from videoeff.calibration.boxes import Boxes, pairs
from videoeff.calibration.decoders import Cells, FastestDet, Reading
from videoeff.calibration.metrics import Score

DECODER = FastestDet(score=0.4, high=0.5, low=0.35)


def boxes(*entries: tuple[float, float, int]) -> Boxes:
    """Boxes of 10×10 pixels, each by its left edge, score and class."""
    lefts = np.array([e[0] for e in entries])
    corners = np.stack([lefts, 0 * lefts, lefts + 10, 0 * lefts + 10], 1).reshape(-1, 4)
    return Boxes(corners, np.array([e[1] for e in entries]), np.array([e[2] for e in entries], dtype=int))


def test_pairs() -> None:
    truth = boxes((0, 0.9, 1), (50, 0.9, 1))
    assert pairs(boxes((1, 0.5, 1), (49, 0.5, 1)), truth) == 2
    assert pairs(boxes((1, 0.5, 2), (49, 0.5, 1)), truth) == 1  # another class
    assert pairs(boxes((1, 0.5, 1), (2, 0.5, 1)), truth) == 1  # each once
    assert pairs(boxes((5, 0.5, 1)), truth) == 0  # overlap of a third
    assert pairs(boxes(), truth) == 0


def test_the_largest_overlap_pairs_first() -> None:
    # The one at 2 overlaps both; were it given to the one at 0, the one at 5 would find nobody.
    assert pairs(boxes((2, 0.5, 1), (-2, 0.5, 1)), boxes((0, 0.9, 1), (3, 0.9, 1))) == 2


def test_agreement_and_settled_agreement() -> None:
    dense = Reading((boxes((0, 0.6, 1), (50, 0.45, 1), (100, 0.36, 1)),))
    ours = Reading((boxes((0, 0.38, 1), (50, 0.45, 1), (200, 0.55, 1)),))
    # Above 0.4: two here, two there, one of them the same.
    assert DetectionAgreement(DECODER).frame(ours, dense) == Score(2, 4)
    # Above 0.5 the dense one at 0, found again here at 0.38; ours at 200 is nowhere in the other.
    assert SettledAgreement(DECODER).frame(ours, dense) == Score(1, 2)
    assert SettledAgreement(DECODER).frame(dense, ours) == Score(1, 2)
    assert SettledAgreement(DECODER).frame(dense, dense) == Score(2, 2)


def test_entries_of_the_batch_count_apart() -> None:
    one, other = boxes((0, 0.6, 1)), boxes((50, 0.6, 1))
    metric = DetectionAgreement(DECODER)
    assert metric.frame(Reading((one, other)), Reading((one, other))) == Score(4, 4)
    assert metric.frame(Reading((one, other)), Reading((other, one))) == Score(0, 4)


def test_a_frame_without_detections_says_nothing() -> None:
    nothing = Reading((boxes(),))
    for metric in (DetectionAgreement(DECODER), SettledAgreement(DECODER)):
        assert metric.frame(nothing, nothing) == Score(0, 0)
        assert metric.value(Score()) == 1
    assert ErrorAtDetections(DECODER).value(Score()) == 0


def test_error_is_that_of_the_cells_with_a_detection() -> None:
    values, scores = np.array([[3.0, 4.0], [100.0, 0.0]], np.float32), np.array([0.9, 0.1])
    dense = Reading((boxes(),), (Cells(values, scores),))
    metric = ErrorAtDetections(DECODER)
    background = Reading((boxes(),), (Cells(values + np.array([[0], [5]]), scores),))
    assert metric.frame(background, dense) == Score(0, 1)
    score = metric.frame(Reading((boxes(),), (Cells(1.5 * values, scores),)), dense)
    assert metric.value(score) == pytest.approx(0.5)
    assert metric.frame(dense, Reading((boxes(),), (Cells(values, 0 * scores),))) == Score(0, 0)


def logits(*rows: str) -> torch.Tensor:
    """Logits (1, 3, H, W) whose best classes are the digits."""
    labels = torch.tensor([[int(c) for c in row] for row in rows])
    return torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1)[None].float()


def test_label_maps() -> None:
    dense, ours = logits("0001", "0011"), logits("0001", "0021")
    decoder = Segmentation()
    assert PixelAgreement(decoder).frame(ours, dense) == Score(7, 8)
    # Class 0: 5 of 5, class 1: 2 of 3, class 2: 0 of 1.
    score = MeanIoU(decoder).frame({"out": ours, "aux": dense}, {"out": dense})
    assert score.numerator == pytest.approx(1 + 2 / 3)
    assert score.denominator == 3
    assert MeanIoU(decoder).frame(dense, dense) == Score(2, 2)
    assert MeanIoU(decoder).value(Score(2, 2)) == 1


def test_labels_and_single_classes() -> None:
    decoder = Segmentation()
    labels = logits("0120").argmax(1)
    assert decoder.read(labels).labels.tolist() == [[[0, 1, 2, 0]]]
    assert decoder.read(labels[:, None]).labels.tolist() == [[[0, 1, 2, 0]]]
    single = torch.tensor([[[[-1.0, 0.2, 0.7]]]])
    assert decoder.read(single).labels.tolist() == [[[0, 1, 1]]]
    assert Segmentation(cut=0.5).read(single).labels.tolist() == [[[0, 0, 1]]]
    read = decoder.read(single)
    assert decoder.read(read) is read
