"""Observation: the masks of one frame, for those who want to look inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.kernels.call import Context
from videoeff.runtime.engine import Observer


@dataclass
class Observation:
    """What the last frame did, by layer name.

    Attributes:
        active: pixels computed, bool (R, H, W).
        changed: pixels passed on, bool (R, H, W).
    """

    active: dict[str, Tensor] = field(default_factory=dict)
    changed: dict[str, Tensor] = field(default_factory=dict)

    def heat(self, height: int, width: int) -> Tensor:
        """Share of layers computing at each place, float (R, height, width), averaged over all layers."""
        maps = [m for m in self.active.values() if m.shape[1] * m.shape[2] > 1]
        maps = [m for m in maps if m.shape[0] == maps[0].shape[0]]
        if not maps:
            return torch.zeros(1, height, width)
        total = torch.zeros(maps[0].shape[0], height, width)
        for mask in maps:
            image = mask.to("cpu", torch.float32).unsqueeze(1)
            total += nn.functional.interpolate(image, size=(height, width), mode="nearest").squeeze(1)
        return total / len(maps)

    def observer(self, prefix: str) -> Observer:
        """What an engine of this name shows its frames to."""

        def look(context: Context, _: tuple[Any, ...]) -> None:
            for layer, mask in context.active_masks.items():
                self.active[layer_name(prefix, layer)] = mask
            for layer, mask in context.masks.items():
                self.changed[layer_name(prefix, layer)] = mask

        return look


def layer_name(engine: str, layer: str) -> str:
    """What a user calls a layer: the engine's name, if it has one, and the layer's in it."""
    return f"{engine}.{layer}" if engine else layer
