"""Measures this processor's table of costs: which of two ways of computing an op is the faster one.

From which share of active pixels on everything is computed, and what a product of minimal filtering costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from videoeff.bench.clips import BlobClip
from videoeff.conversion import convert
from videoeff.errors import ArtifactError
from videoeff.kernels.cpp import costs
from videoeff.kernels.cpp.costs import Costs, measured_path
from videoeff.kernels.cpp.first_use import break_even, leave_out
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.kernels.cpp.winograd import products
from videoeff.kernels.region_spec.producers import Window
from videoeff.runtime.streaming_module import StreamingModule

#: Typical layers of each kind, with the size of their input map.
LAYERS: dict[str, tuple[tuple[Callable[[], nn.Module], int, int], ...]] = {
    "pointwise": ((lambda: nn.Sequential(nn.Conv2d(3, 32, 1), nn.MaxPool2d(1), nn.Tanh()), 90, 120),),
    "convolution": (
        (lambda: nn.Conv2d(64, 64, 3, padding=1), 90, 120),
        (lambda: nn.Conv2d(256, 256, 3, padding=1), 23, 40),
    ),
    "convolution-1x1": (
        (lambda: nn.Conv2d(64, 256, 1), 90, 120),
        (lambda: nn.Conv2d(512, 128, 1), 45, 80),
    ),
    "depthwise": (
        (lambda: nn.Conv2d(96, 96, 3, padding=1, groups=96), 90, 120),
        (lambda: nn.Conv2d(240, 240, 5, padding=2, groups=240), 45, 80),
    ),
    "pooling": ((lambda: nn.Sequential(nn.Conv2d(16, 64, 1), nn.MaxPool2d(3, 2, 1)), 180, 240),),
    "resampling": (
        (lambda: nn.Sequential(nn.Conv2d(16, 64, 1), nn.Upsample(scale_factor=2, mode="bilinear")), 45, 60),
    ),
    "transposed": ((lambda: nn.ConvTranspose2d(64, 64, 4, 2, 1), 45, 60),),
}

#: A share of active pixels below which no frame that is timed falls.
ALWAYS = 1e-6

#: Layers that minimal filtering is timed on: channels of input and result, height, width.
FILTERED = ((64, 64, 90, 120), (64, 128, 60, 80), (256, 256, 23, 40))


def measure(rounds: int = 10) -> Costs:
    """The table of this machine, with as many threads as PyTorch uses.

    Returns:
        For each kind the share of active pixels from which on a whole computation is faster, the largest of
        its typical layers, 2.0 (never) where it is not even at 95 %; and the cost of minimal
        filtering, the median over :data:`FILTERED`.
    """
    leave_out()
    shares = {}
    for kind, layers in LAYERS.items():
        found = [_break_even(make(), height, width, rounds) for make, height, width in layers]
        shares[kind] = max(found)
    return Costs(shares, statistics.median(_filtered(*layer, rounds) for layer in FILTERED), measured_path())


def write(table: Costs) -> str:
    """Keep the table for this processor; returns where.

    Raises:
        ArtifactError: the cache folder cannot be written.
    """
    try:
        return str(costs.keep(table, costs.TUNE).path)
    except OSError as error:
        raise ArtifactError(f"{measured_path()}: cannot be written ({error.strerror or error})") from error


def _filtered(inputs: int, channels: int, height: int, width: int, rounds: int) -> float:
    """Time of a product of minimal filtering over that of a plain one, where all of a 3x3 layer changes."""
    streams = []
    for on in (True, False):
        stream, _ = _stream(nn.Conv2d(inputs, channels, 3, padding=1), height, width)
        for plan in _plans(stream):
            plan.winograd, plan.whole_from = on, 2.0
        streams.append(stream)
    times = _times(streams, inputs, height, width, 1.0, rounds)
    size = (height, width)
    filtered, plain = products(Window((3, 3), padding=(1, 1)), size, size)
    return (times[0] / filtered) / (times[1] / plain)


def _break_even(module: nn.Module, height: int, width: int, rounds: int) -> float:
    streams, channels = [], 0
    for whole_from in (2.0, ALWAYS):
        stream, channels = _stream(module, height, width)
        for plan in _plans(stream):
            plan.whole_from = whole_from
        streams.append(stream)

    def times(share: float) -> tuple[float, float]:
        partly, whole = _times(streams, channels, height, width, share, rounds)
        return partly, whole

    return break_even(times)


def _stream(module: nn.Module, height: int, width: int) -> tuple[StreamingModule, int]:
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 0)
    channels = channels or next(
        (m.in_channels for m in module.modules() if isinstance(m, nn.ConvTranspose2d)), 64
    )
    return convert(module.eval(), torch.rand(1, channels, height, width), alias_outputs=True), channels


def _plans(stream: StreamingModule) -> Sequence[NativePlan]:
    return [g for e in stream.engines.values() for g in e.plan.groups if isinstance(g, NativePlan)]


def _times(
    streams: Sequence[StreamingModule], channels: int, height: int, width: int, share: float, rounds: int
) -> list[float]:
    """Nanoseconds in the last layer of each stream, the least over frames of which ``share`` changes.

    Whatever else the machine does only ever adds to a time. Each frame goes to all streams in turn.
    """
    clip = BlobClip((height, width), share, channels=channels)
    times: list[list[float]] = [[] for _ in streams]
    with torch.no_grad():
        for _ in range(rounds + 2):
            frame: Tensor = torch.from_numpy(clip.next()).unsqueeze(0)
            for stream, kept in zip(streams, times, strict=True):
                plan = _plans(stream)[-1]
                plan.times(reset=True)
                stream(frame)
                kept.append(plan.times()[plan.calls[-1].name])
    return [min(kept[2:]) for kept in times]
