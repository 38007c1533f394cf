"""The precision of a stream: that of its conversion, also where the caller is inside ``torch.autocast``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_KINDS = ("cpu", "cuda")


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which ``torch.autocast`` is off: what it casts, a Program casts by itself."""
    on = device.type in _KINDS and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()
