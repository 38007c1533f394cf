"""The settings that calibration tries, and which lie next to which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from videoeff.calibration.settings import InputTest, Settings
from videoeff.passes.bound_reach import REFRESH

Value = TypeVar("Value")


@dataclass(frozen=True)
class Space:
    """The values that are tried.

    Attributes:
        inputs: tests of the input, of each form the least sharp first.
        reaches: bounds in pixels; None for none.
        lates: bounds of the last layers, where there is a reach; None for the same.
        thresholds: of all layers.
        refreshes: frames within which is computed what a bounded reach puts off.
        predicts: factors of predicted changes, where there is a threshold.
    """

    inputs: tuple[InputTest, ...]
    reaches: tuple[float | None, ...] = (None, 16.0, 8.0, 0.0)
    lates: tuple[float | None, ...] = (math.inf, 32.0, 16.0, 8.0, None)
    refreshes: tuple[int, ...] = (16, REFRESH, 256)
    thresholds: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2)
    predicts: tuple[float, ...] = (0.0, 1.0, 1.5)

    def steps(self) -> Iterator[Callable[[Settings], list[Settings]]]:
        """What each step makes of settings, in order.

        Tests of the input are tried with the smallest reach: without a bound what they mark grows over most
        of the picture, and the sharpest costs hardly less than the others.
        """
        yield lambda s: [replace(s, input=i, reach=self.reaches[-1]) for i in self.inputs]
        yield lambda s: [replace(s, reach=r, refresh=n, late=f) for r, n, f in self.bounds()]
        yield lambda s: [replace(s, threshold=t) for t in self.thresholds]
        yield lambda s: [replace(s, predict=p) for p in self.predicts if s.threshold or not p]

    def unbounded(self) -> list[Settings]:
        """The tests of the input alone, for where no bound is small enough to do without."""
        return [Settings(i) for i in self.inputs]

    def bounds(self) -> list[tuple[float | None, int, float | None]]:
        """Reaches, each with its refreshes or else with its bounds of the last layers."""
        found: list[tuple[float | None, int, float | None]] = [(None, REFRESH, None)]
        for reach in self.reaches:
            if reach is not None:
                found += [(reach, n, None) for n in self.refreshes if n == REFRESH or not reach]
                found += [(reach, REFRESH, f) for f in self.lates if f is not None and f > 2 * reach]
        return found

    def neighbours(self, settings: Settings) -> list[Settings]:
        """Settings that differ in one value, by one place."""
        alike = [i for i in self.inputs if not i.levels or i.form == settings.input.form]
        found = [replace(settings, input=i) for i in _beside(alike, settings.input)]
        same = [i for i in self.inputs if i.levels == settings.input.levels and i != settings.input]
        found += [replace(settings, input=i) for i in same]
        found += [replace(settings, reach=r) for r in _beside(self.reaches, settings.reach)]
        if settings.reach is not None:
            found += [replace(settings, refresh=n) for n in _beside(self.refreshes, settings.refresh)]
            found += [replace(settings, late=f) for f in _beside(self.lates, settings.late)]
        found += [replace(settings, threshold=t) for t in _beside(self.thresholds, settings.threshold)]
        if settings.threshold:
            found += [replace(settings, predict=p) for p in _beside(self.predicts, settings.predict)]
        return list(dict.fromkeys(p for s in found if (p := _plain(s)) != settings))

    def thinned(self) -> Space:
        """About every other value, for where trials are slow."""
        return Space(
            self.inputs[:1] + self.inputs[1::2],
            self.reaches[:1] + self.reaches[2:],
            tuple(f for f in self.lates if f is None or f == 16.0),
            self.refreshes[1:],
            self.thresholds[:1] + self.thresholds[2:4],
            self.predicts[:2],
        )

    def size(self, beam: int) -> int:
        """About how many trials on few frames the search makes, with so many settings in each step."""
        each = len(self.bounds()) + len(self.thresholds) + len(self.predicts)
        return 1 + len(self.inputs) + beam * (each - 3)


def _plain(settings: Settings) -> Settings:
    """Without values that do nothing: a refresh without a bound, a prediction without a threshold."""
    reach, late = settings.reach, settings.late
    return replace(
        settings,
        predict=settings.predict if settings.threshold else 0.0,
        refresh=REFRESH if reach is None else settings.refresh,
        late=None if reach is None or late is None or late <= reach else late,
    )


def _beside(values: Sequence[Value], value: Value) -> list[Value]:
    at = values.index(value) if value in values else -1
    return [values[i] for i in (at - 1, at + 1) if at >= 0 and 0 <= i < len(values)]
