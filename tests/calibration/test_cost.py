"""The time of a layer as a line over its active share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from videoeff.calibration.cost import LayerTimes, Sample, line


def test_a_line_through_points() -> None:
    """Fixed part and slope come back."""
    shares = np.linspace(0.05, 0.9, 9)
    fixed, slope = line(shares, 100 + 900 * shares)
    assert (fixed, slope) == pytest.approx((100, 900), rel=1e-3)


def test_a_slow_moment_does_not_matter() -> None:
    """Points that another program slowed down do not move the line."""
    shares = np.linspace(0.05, 0.9, 12)
    times = 100 + 900 * shares
    times[[3, 8]] *= 20
    assert line(shares, times) == pytest.approx((100, 900), rel=0.02)


def test_neither_part_is_negative() -> None:
    """A line that would cross 0 goes through the origin; one that would fall is level."""
    shares = np.array([0.2, 0.4, 0.8])
    assert line(shares, np.array([10.0, 400.0, 1000.0]))[0] == 0.0
    assert line(shares, np.array([3.0, 2.0, 1.0])) == pytest.approx((2.0, 0.0), abs=0.7)


def test_a_trial_is_timed_by_all_of_them() -> None:
    """A sample whose own time was disturbed costs what the lines of its layers say."""
    times = LayerTimes()
    for share in (0.1, 0.2, 0.5, 0.9):
        layers = {"a": 1e6 * (1 + 4 * share), "b": 2e6}
        times.add(Sample({"a": share, "b": 1.0}, layers, sum(layers.values()) / 1e6 + 0.5, share, 10))
    slow = Sample({"a": 0.3, "b": 1.0}, {"a": 90e6, "b": 40e6}, 150.0, 0.3, 10)
    times.add(slow)
    assert times.ms(slow) == pytest.approx(1 + 4 * 0.3 + 2 + 0.5, rel=0.1)


def test_what_is_done_beside_computing_costs() -> None:
    """Trials of one kind share what lies off the lines, though another kind has as much to compute."""
    times = LayerTimes()
    for share in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9):
        for kind, more in (("", 0.0), ("predict", 0.6)):
            layers = {"a": 1e6 * (1 + 4 * share + more), "b": 2e6}
            times.add(Sample({"a": share, "b": 1.0}, layers, sum(layers.values()) / 1e6, share, 10, kind))
    plain = Sample({"a": 0.4, "b": 1.0}, {"a": 1.0, "b": 1.0}, 0.0, 0.4, 10)
    assert times.ms(replace(plain, kind="predict")) - times.ms(plain) == pytest.approx(0.6, rel=0.2)
    assert times.ms(plain) == pytest.approx(1 + 4 * 0.4 + 2, rel=0.1)


def test_without_times_of_layers_a_call_counts() -> None:
    """A backend that does not time its layers is timed from outside."""
    times = LayerTimes()
    sample = Sample({"a": 0.3}, {}, 7.0, 0.3, 10)
    for _ in range(4):
        times.add(sample)
    assert times.ms(sample) == 7.0
