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
                state[spec.name] = known[spec] if spec in known else _buffer(spec, device)
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


def _buffer(spec: StateSpec, device: torch.device) -> Tensor:
    if spec.pixel:
        rows, channels, height, width = spec.shape
        pixels = torch.zeros(rows, height, width, spec.pixel, dtype=spec.dtype, device=device)
        return pixels[..., :channels].permute(0, 3, 1, 2)
    form = torch.channels_last if spec.channels_last else torch.contiguous_format
    return torch.empty(spec.shape, dtype=spec.dtype, device=device, memory_format=form)
