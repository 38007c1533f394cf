"""A stream beside its controls: the same frames, blocks, work and times."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from videoeff.calibration.comparison import Comparison
from videoeff.calibration.controls import Control, Held
from videoeff.calibration.user_metric import UserMetric
from videoeff.runtime.streaming_module import StreamingModule

Frame = NDArray[np.uint8]
FRAME = np.zeros((2, 2, 3), np.uint8)


class Counting:
    """A stream that needs 10 of 100 multiply-accumulates in a frame, and 30 from frame 31 on."""

    def __init__(self) -> None:
        self.frames = 0

    def report(self) -> Any:
        needed = 10 * min(self.frames, 30) + 30 * max(self.frames - 30, 0)
        macs = {"needed": needed / max(self.frames, 1), "dense": 100.0}
        return type("Report", (), {"frames": self.frames, "macs": macs})


class Shifted(Control):
    """Off by a quarter."""

    label, work, note = "shifted", None, "made up"

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def outputs(self, number: int, frame: Frame, dense: float) -> float:
        self.numbers.append(number)
        return dense + 0.25

    def ms(self, dense: Any) -> list[float]:
        return [1.0 + number for number in self.numbers]


def distance(outputs: float, dense: float) -> float:
    return abs(outputs - dense)


distance.better = "lower"  # type: ignore[attr-defined]  # as a user would


def compared(count: int, controls: list[Control]) -> Comparison:
    """Frames whose dense output is their number; the stream is off by 0.125."""
    stream = Counting()
    made = Comparison(cast(StreamingModule, stream), lambda dense: [UserMetric(distance)], controls)
    for number in range(count):
        stream.frames = number
        made.add(FRAME, number + 0.125, float(number))
    return made


def test_figures() -> None:
    shifted = Shifted()
    made = compared(61, [Held(2), Held(4), shifted])
    rows = {row.label: row for row in made.rows([9.0] + [2.0] * 60, [9.0] + [4.0] * 60)}
    assert list(rows) == ["stream", "dense", "every 2nd frame", "every 4th frame", "shifted"]
    assert made.frames == 60
    figures = {label: row.figures["distance"].value for label, row in rows.items() if row.figures}
    # Held outputs are off by 1 in every second frame; by 1, 2 and 3 in three of four.
    assert figures == {"stream": 0.125, "every 2nd frame": 0.5, "every 4th frame": 1.5, "shifted": 0.25}
    assert shifted.numbers == list(range(61))
    stream, half = rows["stream"], rows["every 2nd frame"]
    assert stream.work is not None
    assert stream.work.value == pytest.approx(0.2)
    assert stream.work.low == pytest.approx(0.13, abs=0.04)  # three blocks of 0.1, three of 0.3
    assert half.work is not None
    assert half.work.to_json() == {"value": 0.5, "low": 0.5, "high": 0.5, "frames": 60}
    times = {label: None if row.ms is None else row.ms.value for label, row in rows.items()}
    assert times == {
        "stream": 2, "dense": 4, "every 2nd frame": 2, "every 4th frame": 1, "shifted": 31.5
    }  # fmt: skip
    found = rows["shifted"].stream_minus["distance"]
    assert (found.value, found.low, found.high) == (-0.125, -0.125, -0.125)
    assert rows["shifted"].note == "made up"
    assert rows["shifted"].to_json()["stream_minus"]["distance"]["value"] == -0.125
    assert not stream.stream_minus


def test_the_first_frame_is_not_judged() -> None:
    made = compared(1, [Shifted()])
    (stream, dense, shifted) = made.rows([1.0], [1.0])
    assert made.frames == 0
    assert stream.figures["distance"].value == shifted.figures["distance"].value == 0
    assert (stream.work, stream.ms, dense.ms) == (None, None, None)


def test_no_frame_at_all() -> None:
    assert [row.figures for row in compared(0, [Shifted()]).rows([], [])] == [{}, {}, {}]


def test_frames_behind_the_last_block_count() -> None:
    shifted = Shifted()
    made = compared(14, [shifted])
    assert shifted.numbers == list(range(11))
    rows = made.rows([1.0] * 14, [1.0] * 14)
    assert shifted.numbers == list(range(14))
    assert rows[2].figures["distance"].frames == 13
    assert rows[0].work is not None
    assert rows[0].work.value == pytest.approx(0.1)
