"""The arithmetic of the report, on numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from videoeff.bench.figures import best, compare, geometric_mean, quantile, summary


def test_summary() -> None:
    found = summary([4.0, 1.0, 3.0, 2.0, 10.0])
    assert found == {"median": 3.0, "low": 2.0, "high": 4.0, "min": 1.0, "count": 5}
    with pytest.raises(ValueError, match="no times"):
        summary([])


@pytest.mark.parametrize("at", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_quantile_is_numpys(at: float) -> None:
    values = sorted(np.random.default_rng(0).random(17).tolist())
    assert quantile(values, at) == pytest.approx(float(np.quantile(values, at)))
    assert quantile([2.0], at) == 2.0


def test_best() -> None:
    times = {"eager": 4.0, "openvino": 2.0, "videoeff": 1.0}
    assert best(times) == "openvino"
    assert best(times, ("eager", "compile")) == "eager"
    assert best({}) is None


def test_compare() -> None:
    row = compare(5.0, {"eager": 40.0, "compile": 30.0, "onnxruntime": 20.0}, scheduled=0.2, needed=0.1)
    assert row["best_peer"] == "onnxruntime"
    assert row["best_pytorch"] == "compile"
    assert row["speedup"] == 4.0
    assert row["speedup_pytorch"] == 6.0
    assert row["time_share"] == 0.25
    assert row["efficiency"] == pytest.approx(0.4)  # 20 x 0.1 / 5: what is worked on beside it is no merit
    assert row["of_needed"] == pytest.approx(0.4)  # 4 times as fast, a tenth of the work


def test_compare_without_peers() -> None:
    row = compare(5.0, {}, 0.2, 0.1)
    assert row["best_peer"] is None
    assert "speedup" not in row


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([1.0, 4.0], [3.0, 1.0]) == pytest.approx(2.0**0.5)
    for values, weights in (([], []), ([1.0, 0.0], [1.0, 1.0]), ([1.0], [0.0])):
        with pytest.raises(ValueError, match="geometric mean"):
            geometric_mean(values, weights)
