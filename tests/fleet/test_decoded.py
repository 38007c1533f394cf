"""Outputs as JSON: boxes on the camera's frame, shares of classes without padding, numbers with a bound."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from tests.support.outputs import Made, Shot, fastestdet
from videoeff.errors import FleetError
from videoeff.fleet.decoded import MOST_VALUES, OutputReader, decoded
from videoeff.video.preprocess import Preprocess

SIZE = (64, 96)


def read(made: Made, word: str | None = None) -> dict[str, Any]:
    """What an output says, after a way through JSON that allows no NaN."""
    found: dict[str, Any] = json.loads(json.dumps(decoded(made, word), allow_nan=False))
    return found


def test_boxes_are_in_pixels_of_the_frame() -> None:
    made = Made(fastestdet(SIZE, 2, 3), Shot((128, 96)), Preprocess(size=SIZE))
    centre, (height, width) = (48, 32), (SIZE[0] / 3, SIZE[1] / 3)
    expected = [
        centre[0] - width / 2,
        (centre[1] - height / 2) * 2,
        centre[0] + width / 2,
        (centre[1] + height / 2) * 2,
    ]
    found = read(made)
    assert found["kind"] == "detections"
    assert found["boxes"] == [pytest.approx(expected, abs=0.01)]
    assert found["scores"] == [1.0]
    assert found["classes"] == [7]


def test_the_padding_of_a_letterbox_is_taken_off() -> None:
    made = Made(
        [{"boxes": [[30.0, 20, 60, 60]], "scores": [0.9], "labels": [3]}],
        Shot((128, 128)),
        Preprocess(size=SIZE, fit="letterbox"),
    )
    one = {key: torch.tensor(value) for key, value in made.outputs[0].items()}
    found = read(Made([one], made.picture, made.preprocess))
    assert found["boxes"] == [
        [28.0, 40.0, 88.0, 120.0]
    ]  # 16 pixels of padding at the left, then twice as large


def test_only_what_scores_enough_and_the_best_first() -> None:
    one = {
        "boxes": torch.tensor([[0.0, 0, 5, 5], [1, 1, 9, 9], [2, 2, 8, 8]]),
        "scores": torch.tensor([0.45, 0.6, 0.9]),  # the decoder reads from 0.4, and detects above 0.5
        "labels": torch.tensor([1, 2, 3]),
    }
    found = read(Made([one]))
    assert found["classes"] == [3, 2]
    assert found["scores"] == [0.9, 0.6]


def test_no_detections() -> None:
    found = read(Made(torch.zeros(1, 300, 6)))
    assert found == {"kind": "detections", "boxes": [], "scores": [], "classes": []}


def test_how_a_camera_is_read_is_kept() -> None:
    """An end-to-end head selects nothing: with no rows there is nothing to recognise."""
    reader = OutputReader()
    assert reader(Made(torch.zeros(1, 3, 6)))["kind"] == "detections"
    assert reader(Made(torch.zeros(1, 0, 6)))["kind"] == "detections"
    assert OutputReader()(Made(torch.zeros(1, 0, 6)))["kind"] == "values"


def test_another_size_is_recognised_anew() -> None:
    reader = OutputReader()
    assert reader(Made(fastestdet(SIZE, 1, 1)))["kind"] == "detections"
    smaller = Made(fastestdet((32, 64), 1, 1), preprocess=Preprocess(size=(32, 64)))
    assert reader(smaller)["classes"] == [7]


def test_shares_of_classes_are_of_the_frame_without_padding() -> None:
    logits = torch.zeros(1, 3, SIZE[0] // 4, SIZE[1] // 4)
    logits[0, 2] = 1.0  # everywhere, also where only padding is
    logits[0, 1, :4, 4:20] = 2.0  # a quarter of the rows of a square frame
    made = Made({"out": logits}, Shot((128, 128)), Preprocess(size=SIZE, fit="letterbox"))
    found = read(made)
    assert found["kind"] == "segmentation"
    assert found["classes"] == [{"class": 2, "share": 0.75}, {"class": 1, "share": 0.25}]


def test_numbers() -> None:
    many = torch.arange(2.0 * MOST_VALUES).reshape(2, -1)
    odd = torch.tensor([1.5, math.nan, math.inf])
    found = read(Made({"many": many, "odd": (odd, torch.tensor(True), 4, None)}))
    assert found["kind"] == "values"
    first, second, third, fourth = found["outputs"]
    assert first["name"] == "['many']"
    assert first["shape"] == [2, MOST_VALUES]
    assert first["values"] == list(range(MOST_VALUES))
    assert first["cut"] is True
    assert second == {
        "name": "['odd'][0]", "shape": [3], "dtype": "float32", "values": [1.5, None, None], "cut": False,
    }  # fmt: skip
    assert third["values"] == [True]
    assert third["dtype"] == "bool"
    assert fourth == {"name": "['odd'][2]", "shape": [], "dtype": "int", "values": [4], "cut": False}


def test_half_precision_and_complex_numbers() -> None:
    found = read(Made([torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.complex64)]))
    assert [row["values"] for row in found["outputs"]] == [[1.0, 1.0], []]
    assert [row["cut"] for row in found["outputs"]] == [False, True]


def test_a_word_decides() -> None:
    assert read(Made(fastestdet(SIZE, 1, 1)), "none")["kind"] == "values"
    assert read(Made(torch.rand(1, 4, 16, 24)), "segmentation")["kind"] == "segmentation"


@pytest.mark.parametrize("word", ["yolo", "fastestdet"])
def test_a_word_that_does_not_fit_is_refused(word: str) -> None:
    with pytest.raises(FleetError, match=r"camera door: .*(unknown|expects)"):
        decoded(Made(torch.rand(1, 10)), word)


def test_several_frames_at_once_are_refused() -> None:
    with pytest.raises(FleetError, match="of 2 pictures"):
        decoded(Made(torch.zeros(2, 300, 6)))
    with pytest.raises(FleetError, match="of 2 pictures"):
        decoded(Made({"out": torch.zeros(2, 3, 8, 8)}))
