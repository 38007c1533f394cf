"""Measures this processor's table of costs: which of two ways of computing an op is the faster one.

From which share of active pixels on everything is computed, and what a product of minimal filtering costs.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from videoeff.bench.clips import BlobClip
from videoeff.conversion import convert
from videoeff.kernels.cpp import costs
from videoeff.kernels.cpp.costs import Costs, measured_path
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.kernels.cpp.winograd import products
from videoeff.kernels.region_spec.producers import Window
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize.files import write_text

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

SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

#: Layers that minimal filtering is timed on: channels of input and result, height, width.
FILTERED = ((64, 64, 90, 120), (64, 128, 60, 80), (256, 256, 23, 40))


def measure(rounds: int = 7) -> Costs:
    """The table of this machine, with as many threads as PyTorch uses.

    Returns:
        For each kind the smallest share of active pixels at which a whole computation is at least as fast,
        the median over its typical layers, 2.0 (never) where it is not even at 95 %; and the cost of minimal
        filtering, the median over :data:`FILTERED`.
    """
    shares = {}
    for kind, layers in LAYERS.items():
        found = [_break_even(make(), height, width, rounds) for make, height, width in layers]
        shares[kind] = statistics.median(found)
    return Costs(shares, statistics.median(_filtered(*layer, rounds) for layer in FILTERED), measured_path())


def write(table: Costs) -> str:
    """Keep the table for this processor; returns where.

    Raises:
        ArtifactError: the cache folder cannot be written.
    """
    path = measured_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(table.to_json(), indent=1) + "\n")
    costs.table.cache_clear()
    return str(path)


def _filtered(inputs: int, channels: int, height: int, width: int, rounds: int) -> float:
    """Time of a product of minimal filtering over that of a plain one, where all of a 3x3 layer changes."""
    times: dict[bool, list[float]] = {True: [], False: []}
    streams = {}
    for on in times:
        stream, _ = _stream(nn.Conv2d(inputs, channels, 3, padding=1), height, width)
        for plan in _plans(stream):
            plan.winograd = on
        streams[on] = stream
    for _ in range(rounds):  # in turn, so that a slow moment of the machine meets both
        for on, stream in streams.items():
            times[on].append(_time(stream, inputs, height, width, 1.0, 1))
    size = (height, width)
    filtered, plain = products(Window((3, 3), padding=(1, 1)), size, size)
    return (statistics.median(times[True]) / filtered) / (statistics.median(times[False]) / plain)


def _break_even(module: nn.Module, height: int, width: int, rounds: int) -> float:
    stream, channels = _stream(module, height, width)
    whole = _time(stream, channels, height, width, 1.0, rounds)
    for share in SHARES:
        if _time(stream, channels, height, width, share, rounds) >= whole:
            return share
    return 2.0


def _stream(module: nn.Module, height: int, width: int) -> tuple[StreamingModule, int]:
    channels = next((m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d)), 0)
    channels = channels or next(
        (m.in_channels for m in module.modules() if isinstance(m, nn.ConvTranspose2d)), 64
    )
    stream = convert(module.eval(), torch.rand(1, channels, height, width), alias_outputs=True)
    for plan in _plans(stream):
        plan.whole_from = 2.0
    return stream, channels


def _plans(stream: StreamingModule) -> Sequence[NativePlan]:
    return [g for e in stream.engines.values() for g in e.plan.groups if isinstance(g, NativePlan)]


def _time(
    stream: StreamingModule, channels: int, height: int, width: int, share: float, rounds: int
) -> float:
    """Nanoseconds in the last layer, the median over frames of which ``share`` changes."""
    clip = BlobClip((height, width), share, channels=channels)
    plan = _plans(stream)[-1]
    layer = plan.calls[-1].name
    times = []
    with torch.no_grad():
        for _ in range(rounds + 2):
            frame: Tensor = torch.from_numpy(clip.next()).unsqueeze(0)
            plan.times(reset=True)
            stream(frame)
            times.append(plan.times()[layer])
    return statistics.median(times[2:])
