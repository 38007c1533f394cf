"""Outputs of detectors whose boxes are known, and outputs of a camera around them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from videoeff.video.preprocess import Preprocess


@dataclass(frozen=True)
class Shot:
    """A picture without pixels."""

    size: tuple[int, int]
    number: int = 0
    time: float | None = 0.0
    wall: float = 0.0


@dataclass(frozen=True)
class Made:
    """An output of a camera, as the fleet hands them out."""

    outputs: Any
    picture: Shot = field(default_factory=lambda: Shot((64, 96)))
    preprocess: Preprocess = field(default_factory=lambda: Preprocess(size=(64, 96)))
    camera: str = "door"
    number: int = 0
    time: float | None = 0.0
    wall: float = 0.0


def fastestdet(size: tuple[int, int], row: int, column: int, label: int = 7) -> Tensor:
    """One object of a third of the input at a cell of 16 pixels, sure of its class."""
    output = torch.zeros(1, 85, size[0] // 16, size[1] // 16)
    output[0, 84] = 1.0  # elsewhere the last class, and no object
    output[0, 0, row, column] = 1.0
    output[0, 3:5, row, column] = -math.log(2)
    output[0, 84, row, column] = 0.0
    output[0, 5 + label, row, column] = 1.0
    return output
