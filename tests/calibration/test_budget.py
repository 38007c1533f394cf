"""Budgets as users write them, and the metric that judges by one."""

from __future__ import annotations

import pytest
import torch

from videoeff.calibration.budget import Budget, metric_of, own_metric, parse_budget
from videoeff.errors import MetricError


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ("int8", Budget("int8")),
        ("noise", Budget("noise")),
        ("error=0.03", Budget("error", 0.03)),
        ("error=0", Budget("error", 0.0)),
        ("f1=0.98", Budget("f1", 0.98)),
        ("work=0.1", Budget("work", 0.1)),
        ("ms=5", Budget("ms", 5.0)),
        (Budget("ms", 5.0), Budget("ms", 5.0)),
    ],
)
def test_budgets(given: str | Budget, budget: Budget) -> None:
    """Each form."""
    assert parse_budget(given) == budget


@pytest.mark.parametrize(
    "given", ["int4", "0.98", 0.98, "f1", "f1=", "f1=1.5", "work=0", "ms=-1", "error=nan", "x=1"]
)
def test_no_budgets(given: str | float) -> None:
    """The message lists the forms."""
    with pytest.raises(MetricError, match="budget"):
        parse_budget(given)


def test_a_number_is_the_figure_of_the_users_metric() -> None:
    """With a metric a plain number is its figure, of any size; another metric's name is refused."""
    assert parse_budget("0.98", True) == Budget("", 0.98)
    assert parse_budget(-3.0, True) == Budget("", -3.0)
    assert parse_budget("work=0.2", True) == Budget("work", 0.2)
    with pytest.raises(MetricError, match="f1"):
        parse_budget("f1=0.98", True)


def test_what_a_budget_costs() -> None:
    """Work and milliseconds are costs."""
    assert [Budget(k).of_cost for k in ("work", "ms", "int8", "f1")] == [True, True, False, False]
    assert str(Budget("work", 0.1)) == "work=0.1"
    assert str(Budget("int8")) == "int8"


def test_the_metric_of_a_budget() -> None:
    """A label map is judged by what the budget names; what does not suit it is refused, with the names."""
    logits = {"out": torch.randn(1, 4, 8, 8)}
    names = {
        b: metric_of(parse_budget(b), None, logits, (8, 8), None).name
        for b in ("error=0.1", "miou=0.9", "int8")
    }
    assert names == {"error=0.1": "relative error", "miou=0.9": "mIoU", "int8": "pixel agreement"}
    with pytest.raises(MetricError, match="mIoU"):
        metric_of(Budget("f1", 0.9), None, logits, (8, 8), None)


def test_a_function_is_a_metric() -> None:
    """Its own metric is used whatever the outputs are; no function is refused."""

    def same(outputs: object, dense: object) -> float:
        return float(outputs is dense)

    own = own_metric(same)
    assert own is not None
    assert metric_of(Budget("", 0.9), own, None, (8, 8), None) is own
    with pytest.raises(MetricError, match="metric is a int"):
        own_metric(3)  # type: ignore[arg-type]  # what a user may give
