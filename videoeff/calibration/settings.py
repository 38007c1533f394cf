"""What calibration chooses: the input's test, the reach, a threshold and the factor of predicted changes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from videoeff.passes.base import Pass
from videoeff.passes.bound_reach import REFRESH, BoundReach
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.thresholds import rewrite
from videoeff.video.preprocess import Preprocess

#: The last layers are those with at most this share of the work behind them.
LAST = 0.3
#: Share of the level that a block next to a hit has to exceed, where hits grow.
WEAK = 0.4


@dataclass(frozen=True)
class InputTest:
    """Which pixels of a frame count as changed.

    Attributes:
        levels: root mean square of the difference over the channels, in grey levels 0..255, that a block's
            mean has to exceed; 0 compares exactly.
        block: edge of the blocks in pixels.
        dilation: blocks marked around each.
        grow: how often hits grow to neighbours that exceed :data:`WEAK` of it.
        noise: ``levels`` are standard deviations of the camera's noise.
    """

    levels: float = 0.0
    block: int = 1
    dilation: int = 0
    grow: int = 0
    noise: bool = False

    @property
    def form(self) -> tuple[int, int, int, bool]:
        """All but the level."""
        return self.block, self.dilation, self.grow, self.noise

    def __str__(self) -> str:
        if not self.levels:
            return "exact input"
        around = f" + {self.dilation}" if self.dilation else " growing" if self.grow else ""
        return f"input {self.levels:g} {'σ' if self.noise else 'grey levels'}, blocks of {self.block}{around}"


@dataclass(frozen=True)
class Units:
    """What the input's test is measured in.

    Attributes:
        level: a grey level 0..255 in units of the network's input.
        noise: the camera's noise in these units, as ``convert(noise=...)`` takes it; empty where unknown.
    """

    level: float = 1 / 255
    noise: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Settings:
    """One way to run a stream. The defaults are the exact stream.

    Attributes:
        input: the input's test.
        reach: bound of the reach in pixels of the frame; None for none.
        threshold: τ of all layers.
        predict: π of the predicted changes.
        refresh: frames within which what the bound put off is computed.
        late: bound of the last layers in pixels, larger than the reach; None for the same.
        layers: multiples of the threshold, by layer name; 1 for others.
    """

    input: InputTest = InputTest()
    reach: float | None = None
    threshold: float = 0.0
    predict: float = 0.0
    refresh: int = REFRESH
    late: float | None = None
    layers: tuple[tuple[str, float], ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the stream equals the dense network."""
        return not (self.input.levels or self.threshold) and self.reach is None

    @property
    def kind(self) -> str:
        """What the stream does besides computing; settings of one kind share what that costs."""
        parts = {
            "test": self.input.levels,
            "grow": self.input.grow,
            "noise": self.input.noise,
            "reach": self.reach is not None,
            "threshold": self.threshold,
            "predict": self.threshold and self.predict,
        }
        return " ".join(name for name, used in parts.items() if used)

    def passes(self, units: Units) -> tuple[Pass, ...]:
        """The passes that set this."""
        own = self.input
        thresholds = InsertThresholds(
            self.threshold,
            predict=self.predict if self.threshold else 0.0,
            input_threshold=own.levels if own.noise else own.levels * units.level,
            input_test="rms",
            block=own.block,
            dilation=own.dilation,
            noise=units.noise if own.noise else (),
            weak=WEAK if own.grow else 1.0,
            grow=own.grow,
        )
        reach = math.inf if self.reach is None else float(self.reach)
        found: tuple[Pass, ...] = (thresholds, BoundReach(reach, self.refresh))
        if self.late is not None and self.reach is not None:
            found += (BoundReach(self.late, self.refresh, last=LAST),)
        return found

    def _late(self) -> str:
        return "none" if self.late == math.inf else f"{self.late:g}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "input_levels": self.input.levels,
            "block": self.input.block,
            "dilation": self.input.dilation,
            "grow": self.input.grow,
            "noise": self.input.noise,
            "reach": self.reach,
            "refresh": self.refresh if self.reach is not None else None,
            "late": None if self.reach is None or self.late is None else _plain(self.late),
            "last": LAST if self.reach is not None and self.late is not None else None,
            "threshold": self.threshold,
            "predict": self.predict,
            "layers": {name: self.threshold * factor for name, factor in self.layers},
        }

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        parts = [str(self.input)]
        if self.reach is not None:
            late = "" if self.late is None else f" ({self._late()} in the last layers)"
            parts.append(f"reach {self.reach:g}{late}, refresh {self.refresh}")
        if self.threshold:
            own = ", layer by layer" if self.layers else ""
            parts.append(f"τ = {self.threshold:.3g}{own}")
        if self.predict and self.threshold:
            parts.append(f"π = {self.predict:g}")
        return ", ".join(parts)


EXACT = Settings()


def is_coarser(one: Settings, other: Settings) -> bool:
    """Whether ``one`` saves at least as much as ``other`` in every respect, so that it errs at least as much.

    Input tests with other blocks are not compared.
    """
    a, b = one.input, other.input
    if a.form != b.form and b.levels:
        return False
    if one.layers != other.layers or (other.reach is not None and one.refresh < other.refresh):
        return False
    return (
        a.levels >= b.levels
        and all(x <= y for x, y in zip(_bounds(one), _bounds(other), strict=True))
        and one.threshold >= other.threshold
        and one.predict >= other.predict
    )


def _plain(pixels: float) -> float | str:
    """A bound as JSON can say it."""
    return pixels if math.isfinite(pixels) else "none"


def _bounds(settings: Settings) -> tuple[float, float]:
    """The bound of the first layers and of the last ones."""
    reach = math.inf if settings.reach is None else settings.reach
    late = reach if settings.late is None or settings.reach is None else settings.late
    return reach, max(late, reach)


def grey_level(preprocess: Preprocess | None) -> float:
    """A grey level 0..255 in units of a network's input; 1/255 where frames come as tensors of 0..1."""
    if preprocess is None:
        return 1 / 255
    spread = preprocess.std or (1.0,)
    return abs(preprocess.scale) * len(spread) / sum(spread)


def apply(stream: StreamingModule, settings: Settings, units: Units, record: bool = False) -> None:
    """Give a stream settings. It starts afresh.

    Args:
        stream: the stream.
        settings: the settings.
        units: of the input's test.
        record: note them in the stream's history, as if it had been converted so.
    """
    for engine in stream.engines.values():
        rewrite(engine, *settings.passes(units), record=record)
    if settings.layers and settings.threshold:
        known = stream.thresholds()
        stream.set_thresholds({n: settings.threshold * f for n, f in settings.layers if n in known})
    stream.reset()
