"""Counts of what the layers of a stream did."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from videoeff.kernels.backend import Counted


@dataclass
class Activity:
    """Counts of one layer since the last reset of the report, frames after a stream's first only.

    Attributes:
        frames: frames counted.
        pixels: pixels of the layer in these frames.
        active: pixels computed.
        scheduled: pixels the kernel worked on.
        more_needed, more_scheduled: multiply-accumulates beside those of these pixels.
    """

    frames: int = 0
    pixels: int = 0
    active: int | Tensor = 0
    scheduled: int | Tensor = 0
    more_needed: float = 0.0
    more_scheduled: float = 0.0

    def add_frame(self, pixels: int, active: int | Tensor, scheduled: int | Tensor) -> None:
        """Count one frame of a layer of ``pixels`` pixels."""
        self.frames += 1
        self.pixels += pixels
        self.active = self.active + active
        self.scheduled = self.scheduled + scheduled

    def add(self, counted: Counted, pixels: int) -> None:
        """Add what a group of calls counted by itself, of a layer of ``pixels`` pixels."""
        self.frames += counted.frames
        self.pixels += counted.frames * pixels
        self.active = self.active + counted.active
        self.scheduled = self.scheduled + counted.scheduled
        self.more_needed += counted.more_needed
        self.more_scheduled += counted.more_scheduled


@dataclass
class Counts:
    """Frames seen and the activity of every layer."""

    frames: int = 0
    layers: dict[str, Activity] = field(default_factory=dict)

    def of(self, layer: str) -> Activity:
        """The activity of a layer, made where there is none."""
        found = self.layers.get(layer)
        if found is None:
            found = self.layers[layer] = Activity()
        return found
