"""The buffers of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from videoeff.errors import LoweringError
from videoeff.program import StateSpec


def device_of(module: nn.Module) -> torch.device:
    """Where a network's constants lie, and so its state."""
    return next((t.device for t in module.buffers()), torch.device("cpu"))


def allocate(
    specs: Sequence[StateSpec], device: torch.device, known: Mapping[StateSpec, Tensor] | None = None
) -> dict[str, Tensor]:
    """Buffers for a plan's state: maps channels-last, slices as views of their parent, contents undefined.

    Args:
        specs: the state.
        device: where to.
        known: buffers to take over where the specification is the same.

    Raises:
        LoweringError: a slice does not lie inside its buffer.
    """
    state: dict[str, Tensor] = {}
    known = known or {}
    with torch.inference_mode(False):  # made under it, they could not be written outside
        for spec in specs:
            if spec.parent is None:
                form = torch.channels_last if spec.channels_last else torch.contiguous_format
                if spec in known:
                    state[spec.name] = known[spec]
                else:
                    state[spec.name] = torch.empty(
                        spec.shape, dtype=spec.dtype, device=device, memory_format=form
                    )
        for spec in specs:
            if spec.parent is not None and spec.channels is not None:
                dim, start, step = spec.channels
                key: list[slice] = [slice(None)] * len(spec.shape)
                key[dim] = slice(start, start + (spec.shape[dim] - 1) * step + 1, step)
                part = state[spec.parent][tuple(key)]
                if tuple(part.shape) != spec.shape:
                    raise LoweringError(
                        f"{spec.name}: channels {start} to {key[dim].stop} do not lie in {spec.parent}, "
                        f"which is {list(state[spec.parent].shape)}; plan the layout anew"
                    )
                state[spec.name] = part
    return state
