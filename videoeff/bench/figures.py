"""The arithmetic of the report: medians, spreads, and what follows from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from videoeff.bench.spec import DENSE, PYTORCH


def summary(times: Sequence[float]) -> dict[str, float | int]:
    """Median, quartiles, least and number of some times.

    Raises:
        ValueError: there are none.
    """
    if not times:
        raise ValueError("no times were taken")
    ordered = sorted(times)
    return {
        "median": statistics.median(ordered),
        "low": quantile(ordered, 0.25),
        "high": quantile(ordered, 0.75),
        "min": ordered[0],
        "count": len(ordered),
    }


def quantile(ordered: Sequence[float], at: float) -> float:
    """A quantile of sorted values, linear in between."""
    place = at * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def best(medians: Mapping[str, float], among: Iterable[str] = DENSE) -> str | None:
    """The fastest of some contenders, None where none of them was measured."""
    names = [n for n in among if n in medians]
    return min(names, key=lambda n: medians[n]) if names else None


def compare(
    stream_ms: float, dense_ms: Mapping[str, float], scheduled: float, needed: float
) -> dict[str, Any]:
    """What a streaming time means beside the dense ones.

    Args:
        stream_ms: median time of a streaming frame.
        dense_ms: median time of each dense runtime that was measured.
        scheduled: A/D, multiply-accumulates worked on over dense ones.
        needed: E/D, those that had to be recomputed over dense ones.

    Returns:
        The best peer, the best PyTorch, the speed-up over each, the time relative to the best peer and the
        efficiency: best dense time x (A/D) / streaming time, without what a kernel computes a second time
        instead of keeping it, which would count in its favour: that is E/D.
    """
    peer, pytorch = best(dense_ms), best(dense_ms, PYTORCH)
    row: dict[str, Any] = {
        "ms": stream_ms,
        "scheduled_share": scheduled,
        "needed_share": needed,
        "best_peer": peer,
        "best_pytorch": pytorch,
    }
    if peer is not None:
        row["best_peer_ms"] = dense_ms[peer]
        row["speedup"] = dense_ms[peer] / stream_ms
        row["time_share"] = stream_ms / dense_ms[peer]
        row["efficiency"] = dense_ms[peer] * min(scheduled, needed) / stream_ms
    if pytorch is not None:
        row["speedup_pytorch"] = dense_ms[pytorch] / stream_ms
    if peer is not None:
        row["of_needed"] = row["speedup"] * needed  # speed-up over the factor of MACs that could be saved
    return row


def geometric_mean(values: Sequence[float], weights: Sequence[float] | None = None) -> float:
    """Weighted geometric mean.

    Raises:
        ValueError: there are no values, one is not above 0, or the weights are all 0.
    """
    weights = list(weights) if weights is not None else [1.0] * len(values)
    if not values or min(values) <= 0 or sum(weights) <= 0:
        raise ValueError("a geometric mean needs values above 0 with weights")
    total = sum(w * math.log(v) for v, w in zip(values, weights, strict=True))
    return math.exp(total / sum(weights))
