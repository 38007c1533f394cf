"""The benchmark of fleets: rows become tables, and figures are what their names say."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import fleet

MACHINE = {
    "cpu": "x", "cores": 2, "instruction_sets": [], "caches": {}, "threads": 2, "python": "3", "versions": {},
}  # fmt: skip


def _document(rows: dict[str, Any]) -> dict[str, Any]:
    return {"runs": [{"command": "python x", "machine": MACHINE}], "sections": {fleet.MARK: rows}}


def test_throughput_is_measured_in_the_mix_of_clips() -> None:
    """Two clips, one twice as dear: half of the time for each would be 50 and 25 pictures."""
    row = {
        "cameras": 2,
        "single_fps": {"a": 100.0, "b": 50.0},
        "free": [{"fps": [50.0, 25.0]}, {"fps": [60.0, 30.0]}],
        "paced": {"fps": [10.0, 5.0], "late": [0.0, 1.0]},
    }
    assert fleet.throughput(row) == pytest.approx((1.0 + 1.2) / 2)
    text = fleet.render(_document({"sixteen": row}))["sixteen"]
    assert "compute **1.10** times" in text
    assert "| b | 50 a second | 27.5 | 5.0 | 1.0 |" in text
    assert "camera has 25.0 pictures a second" in text


def test_overhead_is_of_times_at_a_cameras_rate_and_of_speed_otherwise() -> None:
    common = {"loop_stream": 2.0, "loop_preprocess": 1.0}
    paced = common | {"loop_total": 4.0, "fleet_total": 4.2}
    free = common | {"loop_fps": 210.0, "fleet_fps": 200.0}
    text = fleet.render(_document({"overhead": {"paced": paced, "free": free}}))["overhead"]
    assert "| 4.00 ms | 4.20 ms | **+5.0 %** |" in text
    assert "| 210 a second | 200 a second | **+5.0 %** |" in text


def test_memory_is_less_that_of_the_sources() -> None:
    row = {"cameras": 3, "fleet": {"grown": 130e6, "state": 100e6}, "sources": {"grown": 25e6, "state": 0}}
    assert "**1.05** times the states" in fleet.render(_document({"memory": row}))["memory"]


def test_this_process_holds_memory() -> None:
    assert 10e6 < fleet.memory() < 1e12
