"""Budgets: what a stream may lose, or what it may cost; and the metric that judges it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from videoeff.calibration.choice import metric_for, metrics_for
from videoeff.calibration.metrics import Metric, RelativeError
from videoeff.calibration.user_metric import UserMetric, load_metric
from videoeff.errors import MetricError

#: Budgets by a control's error.
CONTROLS = ("int8", "noise")
#: Budgets of cost.
COSTS = ("work", "ms")
#: What a budget may call a figure, and the metric's name.
FIGURES = {
    "error": "",
    "f1": "agreement",
    "agreement": "agreement",
    "settled": "settled agreement",
    "miou": "mIoU",
    "pixels": "pixel agreement",
}

FORMS = "int8, noise, error=0.03, f1=0.98, settled=0.99, miou=0.95, pixels=0.99, work=0.1 or ms=5"

#: What names a metric of the user's: "file.py:function", a function, or a metric.
MetricLike = str | Callable[[Any, Any], Any] | Metric | None


@dataclass(frozen=True)
class Budget:
    """What is asked for.

    Attributes:
        kind: one of :data:`CONTROLS`, :data:`COSTS`, :data:`FIGURES`, or "" for the figure of the user's
            metric.
        value: the figure or cost; None for a control's.
    """

    kind: str
    value: float | None = None

    @property
    def of_cost(self) -> bool:
        """Whether the cost is given and the fidelity is sought."""
        return self.kind in COSTS

    def __str__(self) -> str:
        if self.value is None:
            return self.kind
        return f"{self.kind}={self.value:g}" if self.kind else f"{self.value:g}"


def parse_budget(given: str | float | Budget, own_metric: bool = False) -> Budget:
    """Read a budget.

    Args:
        given: as in :data:`FORMS`; with a metric of the user's also a plain number, its figure.
        own_metric: whether there is such a metric.

    Raises:
        MetricError: it is none of these, or a number that cannot be.
    """
    if isinstance(given, Budget):
        return given
    if isinstance(given, str) and given in CONTROLS:
        return Budget(given)
    kind, equals, text = str(given).rpartition("=")
    kind = kind.strip()
    if own_metric and equals and kind not in (*COSTS, "metric", "error"):
        raise MetricError(
            f"budget {given!r}: {kind} is a metric, and metric= names another; with one of your own give "
            "its figure alone, such as 0.95"
        )
    if kind == "metric" or (own_metric and kind == "error"):
        kind = ""
    if (not kind and not own_metric) or (kind and kind not in (*COSTS, *FIGURES)):
        raise MetricError(f"budget {given!r} is unknown; give {FORMS}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    least = 0.0 if kind else -math.inf
    if not math.isfinite(value) or value < least or (kind in COSTS and value == 0.0):
        raise MetricError(f"budget {given!r}: {text!r} is no number that can be one; give {FORMS}")
    if kind in FIGURES and kind != "error" and value > 1:
        raise MetricError(f"budget {given!r}: {kind} is at most 1; give for instance {kind}=0.98")
    return Budget(kind, value)


def own_metric(given: MetricLike) -> Metric | None:
    """The metric of the user's, None if there is none.

    Raises:
        MetricError: it cannot be read, or is none.
    """
    if given is None or isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return load_metric(given)
    if callable(given):
        return UserMetric(given)
    raise MetricError(
        f"metric is a {type(given).__name__}; give a function of (outputs, dense), or 'file.py:function'"
    )


def metric_of(
    budget: Budget, own: Metric | None, dense: Any, size: tuple[int, int], decoder: str | None
) -> Metric:
    """The metric that judges by a budget.

    Args:
        budget: the budget.
        own: the user's metric.
        dense: the dense network's outputs for one frame.
        size: (H, W) of the network's input.
        decoder: how outputs are read; None recognises them.

    Raises:
        MetricError: the outputs cannot be judged by what the budget names.
    """
    if own is not None:
        return own
    if budget.kind not in FIGURES:
        return metric_for(dense, size, decoder)
    found = metrics_for(dense, size, decoder)
    if budget.kind == "error":
        return found[0] if found[0].better == "lower" else RelativeError()
    name = FIGURES[budget.kind]
    for metric in found:
        if metric.name == name:
            return metric
    raise MetricError(
        f"budget {budget}: these outputs are judged by {', '.join(m.name for m in found)}, not by {name}; "
        "name their form with decoder= (--decoder), or give error=0.03 or a metric of your own"
    )
