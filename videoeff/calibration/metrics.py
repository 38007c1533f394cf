"""What a metric is: it compares a contender's outputs with the dense network's, frame by frame."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.utils._pytree as pytree
from torch import Tensor

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Score:
    """What a metric says of one frame, or of several together: scores add up.

    Attributes:
        numerator: what was counted, for instance twice the pairs of detections.
        denominator: out of how much, for instance the detections of both. 0 where the frame says nothing.
    """

    numerator: float = 0.0
    denominator: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(self.numerator + other.numerator, self.denominator + other.denominator)


def total(scores: Iterable[Score]) -> Score:
    """The sum of scores."""
    return sum(scores, Score())


class Metric(abc.ABC):
    """Compares outputs with the dense network's.

    A figure over several frames is :meth:`value` of the sum of their scores.

    Attributes:
        name: what tables call it.
        better: whether higher or lower figures are better.
        decoder: what reads the outputs first; metrics that share it share what it read. None for raw outputs.
    """

    name: str
    better: Better
    decoder: Any = None

    def prepare(self, outputs: Any) -> Any:
        """What :meth:`frame` needs of outputs, computed once where they are judged several times.

        :meth:`frame` takes outputs as they are or prepared; preparing what is prepared changes nothing.
        """
        return outputs

    @abc.abstractmethod
    def frame(self, outputs: Any, dense: Any) -> Score:
        """The score of one frame: the contender's outputs against the dense network's."""

    def value(self, score: Score) -> float:
        """The figure a score stands for; the best there is (1 or 0) where there was nothing to judge."""
        if score.denominator == 0:
            return 1.0 if self.better == "higher" else 0.0
        return score.numerator / score.denominator


def prepared(metrics: Sequence[Metric], outputs: Any) -> list[Any]:
    """What each metric needs of outputs, read once by each decoder."""
    read: dict[int, Any] = {}
    for metric in metrics:
        key = id(metric if metric.decoder is None else metric.decoder)
        if key not in read:
            read[key] = metric.prepare(outputs)
    return [read[id(m if m.decoder is None else m.decoder)] for m in metrics]


class RelativeError(Metric):
    """||outputs − dense|| / ||dense|| over all tensors of the outputs and all frames."""

    name = "relative error"
    better: Better = "lower"

    def frame(self, outputs: Any, dense: Any) -> Score:
        """Squared length of the difference, over that of the dense outputs.

        The numerator is infinite where the outputs have other shapes, or where only one of both is finite.
        """
        ours, theirs = _tensors(outputs), _tensors(dense)
        squares = sum(float(_double(b).nan_to_num(0, 0, 0).square().sum()) for b in theirs)
        if [v.shape for v in ours] != [v.shape for v in theirs]:
            return Score(math.inf, squares or 1.0)
        difference = sum(_squared_distance(a, b) for a, b in zip(ours, theirs, strict=True))
        return Score(difference, squares)

    def value(self, score: Score) -> float:
        """The square root of the ratio."""
        if score.denominator == 0:
            return 0.0 if score.numerator == 0 else math.inf
        return math.sqrt(score.numerator / score.denominator)


def _squared_distance(found: Tensor, dense: Tensor) -> float:
    a, b = _double(found), _double(dense)
    same = (a == b) | (a.isnan() & b.isnan())
    difference = torch.where(same, torch.zeros_like(a), a - b)
    return float(difference.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf).square().sum())


def _tensors(outputs: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64)
