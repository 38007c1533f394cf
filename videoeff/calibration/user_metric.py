"""A metric of the user's: a function of both outputs that returns a number."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from videoeff.calibration.metrics import Better, Metric, Score
from videoeff.errors import MetricError
from videoeff.serialize.functions import failure, load_function


class UserMetric(Metric):
    """The mean over frames of what a function returns.

    Args:
        function: called with the contender's outputs and the dense network's; returns a number, or None where
            a frame says nothing. Its attribute ``better``, "higher" or "lower", tells which way is better;
            higher if it has none.
        name: what to call it; the function's name if left out.
        path: its file, for messages.

    Raises:
        MetricError: its attribute ``better`` is something else.
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str = "", path: Path | None = None) -> None:
        self.name = name or getattr(function, "__name__", type(function).__name__)
        better: Better = getattr(function, "better", "higher")
        if better not in ("higher", "lower"):
            raise MetricError(
                f"metric {self.name}: its attribute better is {better!r}; set it to 'higher' or 'lower'"
            )
        self.better = better
        self._function, self._path = function, path

    def frame(self, outputs: Any, dense: Any) -> Score:
        """The function's number, and 1.

        Raises:
            MetricError: the function fails, or returns no finite number.
        """
        try:
            value = self._function(outputs, dense)
        except Exception as error:
            where = failure(error, self._path or Path(self.name))
            raise MetricError(f"metric {self.name} failed at {where}") from error
        if value is None:
            return Score()
        return Score(self._number(value), 1)

    def _number(self, value: Any) -> float:
        number = math.nan
        if isinstance(value, (int, float, np.generic, np.ndarray, Tensor)):
            with contextlib.suppress(TypeError, ValueError, RuntimeError):  # several values, or no number
                number = float(value.item() if hasattr(value, "item") else value)
        if not math.isfinite(number):
            text = f"{type(value).__name__} {list(value.shape)}" if hasattr(value, "shape") else repr(value)
            raise MetricError(
                f"metric {self.name} returned {text[:80]}; return a finite number, or None where a frame "
                "says nothing"
            )
        return number


def load_metric(reference: str) -> UserMetric:
    """The metric that ``file.py:function`` names. Runs the file.

    Raises:
        MetricError: there is no such file or function, or the file fails.
    """
    function, path = load_function(reference, "--metric", MetricError)
    return UserMetric(function, reference.rpartition(":")[2], path)
