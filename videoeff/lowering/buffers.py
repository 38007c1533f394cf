"""The buffers of a stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from videoeff.analysis.regions import Region
from videoeff.errors import LoweringError
from videoeff.ir.grids import CODES, grid_of
from videoeff.ir.layout import PixelLayout, streamed_info
from videoeff.ir.markers import cache_option
from videoeff.kernels import Backend
from videoeff.kernels.bounded import words
from videoeff.kernels.call import Bound, Prediction, StateSpec
from videoeff.kernels.change_test import is_relative

#: Numbers behind a buffer of them.
_ROOM = 64


def device_of(module: nn.Module) -> torch.device:
    """Where a network's constants lie, and so its state."""
    return next((t.device for t in module.buffers()), torch.device("cpu"))


def allocate(
    specs: Sequence[StateSpec],
    device: torch.device,
    known: Mapping[StateSpec, Tensor] | None = None,
    neighbours: Sequence[Sequence[str]] = (),
) -> dict[str, Tensor]:
    """Buffers for a plan's state: maps channels-last, slices as views of their parent, contents undefined.

    Args:
        specs: the state.
        device: where to.
        known: buffers to take over where the specification is the same.
        neighbours: names of buffers to lay one behind the other, on the CPU, where all are made anew: kernels
            elsewhere want each at a multiple of some bytes.

    Raises:
        LoweringError: a slice does not lie inside its buffer.
    """
    state: dict[str, Tensor] = {}
    known = known or {}
    with torch.inference_mode(False):  # made under it, they could not be written outside
        by_name = {spec.name: spec for spec in specs}
        for names in neighbours if device.type == "cpu" else ():
            row = [by_name[name] for name in names]
            if not any(spec in known for spec in row):
                state.update(_side_by_side(row))
        for spec in specs:
            if spec.parent is None and spec.name not in state:
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
    if spec.pixel_stride:
        rows, channels, height, width = spec.shape
        pixels = torch.zeros(rows, height, width, spec.pixel_stride, dtype=spec.dtype, device=device)
        return pixels[..., :channels].permute(0, 3, 1, 2)
    if spec.grid is not None:
        return _numbers(spec, device)
    lies = torch.channels_last if spec.channels_last else torch.contiguous_format
    return torch.empty(spec.shape, dtype=spec.dtype, device=device, memory_format=lies)


def _side_by_side(specs: Sequence[StateSpec]) -> dict[str, Tensor]:
    """Buffers of values without gaps, one behind the other."""
    sizes = [math.prod(spec.shape) for spec in specs]
    parts = torch.split(torch.empty(sum(sizes), dtype=specs[0].dtype), sizes)
    return {spec.name: _laid(spec, part) for spec, part in zip(specs, parts, strict=True)}


def _laid(spec: StateSpec, memory: Tensor) -> Tensor:
    """Memory of as many elements as a buffer."""
    if not spec.channels_last:
        return memory.view(spec.shape)
    rows, channels, height, width = spec.shape
    return memory.view(rows, height, width, channels).permute(0, 3, 1, 2)


def _numbers(spec: StateSpec, device: torch.device) -> Tensor:
    """A buffer of 8-bit numbers, with room behind the last pixel: kernels read some numbers at a time."""
    memory = torch.empty(math.prod(spec.shape) + _ROOM, dtype=spec.dtype, device=device)
    return _laid(spec, memory[: math.prod(spec.shape)])


def pixel_stride(backends: Sequence[Backend[Any]], channels: int, device: str) -> int:
    """Elements from pixel to pixel that the first backend with a preference wants; 0 for no gap."""
    wishes = (b.pixel_stride_of(channels, device) for b in backends)
    wish = next((w for w in wishes if w), 0)
    return wish if wish > channels else 0


def state_specs(
    found: Sequence[Region],
    predicted: Mapping[str, Prediction],
    bounds: Mapping[str, Bound],
    streams: int,
    stride: Callable[[int], int],
) -> dict[str, StateSpec]:
    """Every buffer that the regions keep: shared ones of concatenations, values, scales, pending energy.

    Args:
        found: the regions.
        predicted: the predicted changes by layer name.
        bounds: the bounded reaches by layer name.
        streams: of the batch.
        stride: from the channels of a pixel to its stride, 0 for no gap.
    """
    specs: dict[str, StateSpec] = {}
    parents: dict[str, list[tuple[fx.Node, tuple[str, int, int, int]]]] = {}
    for region in found:
        into = cache_option(region.cache, "into")
        if into is not None:
            parents.setdefault(into[0], []).append((region.cache, into))
    for name, members in parents.items():
        node, (_, _, _, dim) = members[0]
        value = streamed_info(node)
        shape = list(value.shape)
        ends = (start + (streamed_info(n).shape[dim] - 1) * step + 1 for n, (_, start, step, _) in members)
        shape[dim] = max(ends)
        last, grid = _channels_last(value.layout, len(shape)), grid_of(cache_option(node, "grid"))
        specs[f"{name}.buffer"] = StateSpec(
            f"{name}.buffer",
            tuple(shape),
            value.dtype if grid is None else CODES,
            value.layout.rows,
            channels_last=last,
            pixel_stride=stride(shape[1]) if last else 0,
            grid=grid,
        )
    for region in found:
        cache, value = region.cache, streamed_info(region.cache)
        into = cache_option(cache, "into")
        parent = None if into is None else f"{into[0]}.buffer"
        part = None if into is None else (into[3], into[1], into[2])
        key = f"{region.name}.value"
        last = _channels_last(value.layout, len(value.shape))
        gap = stride(value.shape[1]) if last and parent is None else 0
        grid = grid_of(cache_option(cache, "grid"))
        dtype = value.dtype if grid is None else CODES
        specs[key] = StateSpec(key, value.shape, dtype, value.layout.rows, parent, part, last, gap, grid)
        rows = value.layout.extent(value.shape)[0]
        if needs_scale(cache):
            key = f"{region.name}.scale"
            specs[key] = StateSpec(key, (rows,), torch.float32, 0)
        if region.name in predicted:
            key = f"{region.name}.pending"
            specs[key] = StateSpec(key, value.layout.extent(value.shape), torch.float32, 0)
        if (bound := bounds.get(region.name)) is not None:
            rows, height, width = value.layout.extent(value.shape)
            specs[bound.deferred] = StateSpec(bound.deferred, (rows, height, words(width)), torch.int64, 0)
            if bound.sweep:
                specs[bound.phase] = StateSpec(bound.phase, (streams,), torch.int32, 0)
    return specs


def _channels_last(layout: PixelLayout, ndim: int) -> bool:
    return ndim == 4 and (layout.rows, layout.h, layout.w) == (0, 2, 3)


def needs_scale(cache: fx.Node) -> bool:
    """Whether a cache's change test is relative to the scale of its value."""
    return is_relative(cache_option(cache, "test")) and bool(cache_option(cache, "threshold") > 0)
