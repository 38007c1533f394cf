"""How sure a figure over the frames of a clip is: bootstrap over blocks of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.calibration.metrics import Metric, Score

#: Frames of a block: neighbouring frames are alike, so single frames tell less than their number says.
BLOCK = 10
RESAMPLES = 4000
#: Fewer for medians, which take longer.
_MEDIANS = 1000
#: With fewer blocks there is no telling how sure a figure is.
FEWEST = 5

Array = NDArray[Any]


@dataclass(frozen=True)
class Interval:
    """A figure and between what it lies with 95 % certainty.

    Attributes:
        value: over all frames.
        low: lower end; None where there are fewer than five blocks, or figures that are not finite.
        high: upper end, None where the lower one is.
        frames: how many the figure is over.
    """

    value: float
    low: float | None
    high: float | None
    frames: int

    @property
    def excludes_zero(self) -> bool:
        """Of a difference: whether it is none of chance, as far as 95 % go."""
        return self.low is not None and self.high is not None and not self.low <= 0.0 <= self.high

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {"value": self.value, "low": self.low, "high": self.high, "frames": self.frames}


def interval(metric: Metric, scores: Sequence[Score], block: int = BLOCK) -> Interval:
    """A metric's figure over frames, with its interval.

    Args:
        metric: what the scores are of.
        scores: of consecutive frames.
        block: consecutive frames that are drawn together.
    """
    return _interval([_blocks(scores, block)], lambda sums: _values(metric, sums[0]), len(scores))


def difference(
    metric: Metric, scores: Sequence[Score], others: Sequence[Score], block: int = BLOCK
) -> Interval:
    """The figure of one contender minus that of another on the same frames: a paired test.

    The same blocks are drawn of both, so that what a scene does to both cancels. The difference is more than
    chance where :attr:`Interval.excludes_zero`.

    Args:
        metric: what the scores are of.
        scores: of consecutive frames.
        others: of the other contender on the same frames.
        block: consecutive frames that are drawn together.
    """
    if len(scores) != len(others):
        raise ValueError(f"{len(scores)} and {len(others)} frames: a paired test needs the same frames")
    pairs = [_blocks(scores, block), _blocks(others, block)]
    return _interval(pairs, lambda sums: _values(metric, sums[0]) - _values(metric, sums[1]), len(scores))


def ratio(scores: Sequence[Score], block: int = BLOCK) -> Interval:
    """The sum of numerators over that of denominators, with its interval; such as the work of a stream.

    Args:
        scores: of consecutive frames or groups of frames, at least one with a denominator.
        block: consecutive scores that are drawn together.
    """
    return _interval([_blocks(scores, block)], lambda sums: sums[0][:, 0] / sums[0][:, 1], len(scores))


def median(values: Sequence[float], block: int = BLOCK) -> Interval:
    """The median over frames, with its interval.

    Args:
        values: of consecutive frames; at least one.
        block: consecutive frames that are drawn together.
    """
    array = np.asarray(values, dtype=np.float64)
    value = float(np.median(array))
    starts = range(0, len(array), block)
    if len(starts) < FEWEST:
        return Interval(value, None, None, len(array))
    blocks = [array[i : i + block] for i in starts]
    draws = np.random.default_rng(0).integers(0, len(blocks), (_MEDIANS, len(blocks)))
    drawn = [np.median(np.concatenate([blocks[i] for i in row])) for row in draws]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), len(array))


def _interval(sums: Sequence[Array], figure: Callable[[Sequence[Array]], Array], frames: int) -> Interval:
    """The figure of sums (blocks, 2) of each contender, and of blocks drawn anew."""
    count = len(sums[0])
    value = float(figure([s.sum(0)[None] for s in sums])[0])
    if count < FEWEST:
        return Interval(value, None, None, frames)
    draws = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    drawn = figure([s[draws].sum(1) for s in sums])
    if not np.isfinite(drawn).all():
        return Interval(value, None, None, frames)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, float(low), float(high), frames)


def _blocks(scores: Sequence[Score], block: int) -> Array:
    """Sums of blocks of frames, (blocks, 2)."""
    if block < 1:
        raise ValueError(f"block={block}: a block has at least one frame")
    array = np.array([(s.numerator, s.denominator) for s in scores], dtype=np.float64).reshape(-1, 2)
    return np.add.reduceat(array, range(0, len(array), block)) if len(array) else array


def _values(metric: Metric, sums: Array) -> Array:
    """The figures of sums (n, 2)."""
    return np.array([metric.value(Score(float(a), float(b))) for a, b in sums])
