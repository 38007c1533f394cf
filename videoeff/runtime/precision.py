"""The precision of a stream: that of its conversion, also where the caller is inside ``torch.autocast``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_KINDS = ("cpu", "cuda")


def is_cast(device: torch.device) -> bool:
    """Whether ``torch.autocast`` is on for a device, in this thread."""
    kind = device.type
    return kind in _KINDS and torch.is_autocast_enabled(kind)


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """A block in which ``torch.autocast`` is off: what it casts, a Program casts by itself."""
    return torch.autocast(device.type, enabled=False) if is_cast(device) else nullcontext()
