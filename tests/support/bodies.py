"""A module of two convolutions and whatever a test does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


class Body(nn.Module):
    """Two convolutions ``c`` and ``d`` of three channels; ``body(self, *args)`` is the forward."""

    def __init__(self, body: Callable[..., Any]) -> None:
        super().__init__()
        self.c, self.d = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.body = body
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the test does."""
        return self.body(self, *args, **kwargs)
