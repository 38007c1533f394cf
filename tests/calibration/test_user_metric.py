"""Metrics of the user's, and what is said where they fail."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from videoeff.calibration.metrics import Score, total
from videoeff.calibration.user_metric import UserMetric, load_metric
from videoeff.errors import MetricError

CODE = """
def peak(outputs, dense):
    if dense.max() < 0:
        return None
    return (outputs.max() == dense.max()).float()

def distance(outputs, dense):
    return float((outputs - dense).abs().max())

distance.better = "lower"

def fails(outputs, dense):
    return outputs["boxes"]

def wrong(outputs, dense):
    return outputs

def undecided(outputs, dense):
    return 1.0

undecided.better = "smaller"
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_a_function_is_a_metric(code: Path) -> None:
    metric = load_metric(f"{code}:peak")
    assert (metric.name, metric.better) == ("peak", "higher")
    dense = torch.tensor([1.0, 2.0])
    scores = [metric.frame(a, b) for a, b in ((dense, dense), (dense / 2, dense), (dense, -dense))]
    assert scores == [Score(1, 1), Score(0, 1), Score(0, 0)]
    assert metric.value(total(scores)) == 0.5
    lower = load_metric(f"{code}:distance")
    assert lower.better == "lower"
    assert lower.frame(dense, dense + 0.5) == Score(0.5, 1)


def test_numbers_of_other_kinds() -> None:
    for value in (1, True, np.float32(1), np.ones((1, 1)), torch.ones(1)):
        assert UserMetric(lambda a, b: a).frame(value, None) == Score(1, 1)


def test_refused(code: Path, tmp_path: Path) -> None:
    with pytest.raises(MetricError, match=rf"metric fails failed at {code}:13: KeyError: 'boxes'"):
        load_metric(f"{code}:fails").frame({}, {})
    with pytest.raises(MetricError, match=r"metric wrong returned Tensor \[2\]; return a finite number"):
        load_metric(f"{code}:wrong").frame(torch.ones(2), None)
    with pytest.raises(MetricError, match="returned nan"):
        UserMetric(lambda a, b: math.nan).frame(None, None)
    with pytest.raises(MetricError, match="returned 'good'"):
        UserMetric(lambda a, b: "good").frame(None, None)
    with pytest.raises(MetricError, match="better is 'smaller'"):
        load_metric(f"{code}:undecided")
    with pytest.raises(MetricError, match="no function 'absent'"):
        load_metric(f"{code}:absent")
    with pytest.raises(MetricError, match="there is no file"):
        load_metric(f"{tmp_path}/nothing.py:peak")
    with pytest.raises(MetricError, match=r"write file\.py:function"):
        load_metric("peak")
    code.write_text("x = 1\ny = = 2\n")
    with pytest.raises(MetricError, match=rf"{code}:2: SyntaxError"):
        load_metric(f"{code}:peak")
