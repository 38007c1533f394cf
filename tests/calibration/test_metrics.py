"""Scores that add up, the relative error, and how sure a figure is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from videoeff.calibration.intervals import difference, interval
from videoeff.calibration.metrics import Metric, RelativeError, Score, total


class Shares(Metric):
    """Scores are what it is given."""

    name = "share"
    better = "higher"

    def frame(self, outputs: Score, dense: object) -> Score:
        return outputs


SHARES = Shares()


def test_scores_add_up() -> None:
    assert total([Score(1, 2), Score(2, 6)]) == Score(3, 8)
    assert SHARES.value(Score(3, 8)) == 0.375
    assert SHARES.value(total([])) == 1  # nothing to judge: the best there is


def test_relative_error() -> None:
    metric = RelativeError()
    dense = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}
    ours = {"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([1.2])}
    score = metric.frame(ours, dense)
    assert (score.numerator, score.denominator) == pytest.approx((0.25 + 1.44, 25))
    assert metric.value(score) == pytest.approx(1.3 / 5)
    assert metric.value(score + metric.frame(dense, dense)) == pytest.approx(1.3 / math.sqrt(50))
    assert metric.value(metric.frame(torch.zeros(3), torch.zeros(3))) == 0
    assert metric.value(metric.frame(torch.ones(3), torch.zeros(3))) == math.inf
    assert metric.value(Score()) == 0


def test_relative_error_of_what_cannot_be_compared_is_infinite() -> None:
    metric, nan = RelativeError(), torch.tensor([math.nan, 1.0])
    assert metric.value(metric.frame(nan, nan)) == 0
    assert metric.value(metric.frame(torch.ones(2), nan)) == math.inf
    assert metric.value(metric.frame(torch.ones(3), torch.ones(2))) == math.inf


def test_intervals_are_of_blocks() -> None:
    blocks = np.random.default_rng(3).random(40) < 0.8
    scores = [Score(int(b), 1) for b in blocks for _ in range(10)]  # all frames of a block alike
    found = interval(SHARES, scores)
    assert found.frames == 400
    assert found.value == pytest.approx(blocks.mean())
    assert found.low is not None
    assert found.high is not None
    deviation = math.sqrt(blocks.mean() * (1 - blocks.mean()) / 40)
    assert found.low == pytest.approx(blocks.mean() - 1.96 * deviation, abs=0.03)
    assert found.high == pytest.approx(blocks.mean() + 1.96 * deviation, abs=0.03)
    frames = interval(SHARES, scores, block=1)
    assert frames.low is not None
    assert frames.high is not None
    assert frames.high - frames.low < 0.5 * (found.high - found.low)


def test_the_interval_of_a_constant_series_has_no_width() -> None:
    found = interval(SHARES, [Score(3, 4)] * 60)
    assert (found.value, found.low, found.high) == (0.75, 0.75, 0.75)
    assert interval(SHARES, [Score()] * 60).value == 1


def test_few_blocks_tell_no_interval() -> None:
    scores = [Score(1, 2)] * 40
    assert interval(SHARES, scores).low is None
    assert interval(SHARES, [*scores, Score(1, 2)]).low == 0.5  # a fifth block, of one frame
    assert interval(SHARES, scores, block=8).low == 0.5
    assert interval(SHARES, []).to_json() == {"value": 1.0, "low": None, "high": None, "frames": 0}
    with pytest.raises(ValueError, match="at least one frame"):
        interval(SHARES, scores, block=0)


def test_an_infinite_figure_has_no_interval() -> None:
    found = interval(RelativeError(), [Score(math.inf if i < 10 else 1, 4) for i in range(60)])
    assert (found.value, found.low, found.high) == (math.inf, None, None)


def test_paired_differences() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(30)  # scenes differ widely, the contenders by little
    ours = [Score(h, 1) for h in hard for _ in range(10)]
    theirs = [Score(h - 0.01, 1) for h in hard for _ in range(10)]
    found = difference(SHARES, ours, theirs)
    assert found.value == pytest.approx(0.01)
    assert found.low == pytest.approx(0.01)
    assert found.excludes_zero
    wide = interval(SHARES, ours)
    assert wide.low is not None
    assert wide.value - wide.low > 0.05  # unpaired, it would drown
    same = difference(SHARES, ours, ours)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert not same.excludes_zero
    assert not difference(SHARES, ours[:20], theirs[:20]).excludes_zero
    with pytest.raises(ValueError, match="same frames"):
        difference(SHARES, ours, theirs[:-1])
