"""Measures sizes of the CUDA kernels on the present GPU, layer by layer of the usual networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from videoeff.bench.cuda_kernels import Kernel, Place, description, places
from videoeff.bench.cuda_sizes import Measured, candidates, choice, require_cuda, save, table_of
from videoeff.bench.network import network
from videoeff.conversion import convert
from videoeff.errors import first_line
from videoeff.kernels.triton.configs import Config
from videoeff.kernels.triton.rules import Table, measured_path

#: The usual networks, with what their height and width are rounded down to.
MODELS: Mapping[str, int] = {
    "torchvision:resnet50": 1,
    "torchvision:mobilenet_v2": 1,
    "torchvision:efficientnet_b0": 1,
    "timm:hrnet_w18": 32,
    "torchvision:deeplabv3_resnet50": 1,
}

#: The share of the tiles in the shorter of the two lists.
PART = 0.05


@dataclass(frozen=True)
class Wanted:
    """What is measured.

    Attributes:
        references: of the networks.
        size: (height, width) of the frames.
        streams: in a batch.
        dtype: of the numbers.
        budget: seconds.
    """

    references: tuple[str, ...] = tuple(MODELS)
    size: tuple[int, int] = (1080, 1920)
    streams: int = 4
    dtype: torch.dtype = torch.float16
    budget: float = 900.0


Measure = Callable[[Place, Config], tuple[float, float]]


def on_device(place: Place, config: Config) -> tuple[float, float]:
    """Milliseconds with everything listed and with ``PART`` of it."""
    kernel = Kernel(place, config)
    return kernel.ms(), kernel.ms(kernel.blob(PART))


def layers(
    found: Sequence[Place], capability: str, deadline: float, note: Callable[[str], None], measure: Measure
) -> list[Measured]:
    """The best sizes of each distinct layer, the largest layers first, until the deadline."""
    distinct: dict[object, Place] = {}
    for place in sorted(found, key=lambda p: -p.call.macs):
        distinct.setdefault(place.layer, place)
    chosen = []
    for number, place in enumerate(distinct.values()):
        if time.monotonic() > deadline:
            note(f"the budget is spent; {len(distinct) - number} layer(s) keep their sizes")
            break
        timed = []
        for config in candidates(place.layer, place.now, capability):
            try:
                full, part = measure(place, config)
            except RuntimeError as error:  # it does not fit the device: shared memory, registers
                note(f"{place.layer}: {config} left out: {first_line(error)}")
                continue
            timed.append(Measured(place.layer, config, full, part))
        if timed:
            best = choice(timed)
            chosen.append(best)
            note(
                f"{place.layer}: {timed[0].full_ms:.4f} and {timed[0].part_ms:.4f} ms -> "
                f"{best.full_ms:.4f} and {best.part_ms:.4f} ms with {best.config}"
            )
    return chosen


def tune(
    wanted: Wanted, out: Path | None, note: Callable[[str], None], measure: Measure = on_device
) -> tuple[Table, Path]:
    """Measure and write; the table, and where it was written.

    Args:
        wanted: what to measure.
        out: the file; by default the one that this device's streams read.
        note: told what happens.
        measure: milliseconds of a layer with some sizes.

    Raises:
        BackendError: there is no CUDA device.
    """
    require_cuda("measuring sizes of blocks")
    name, capability = description()
    path = out or measured_path(name)
    deadline = time.monotonic() + wanted.budget
    chosen: dict[object, Measured] = {}
    for reference in wanted.references:
        multiple = MODELS.get(reference, 1)
        size = [s // multiple * multiple for s in wanted.size]
        model = network(reference).to("cuda", wanted.dtype)
        example = torch.rand(wanted.streams, 3, *size, device="cuda").to(wanted.dtype)
        stream = convert(model, example, backend="triton", threshold=0.1)
        with torch.no_grad():
            stream(example)
        found = [p for p in places(stream.engines) if p.layer not in chosen]
        note(f"{reference}: {len(found)} layer(s)")
        for best in layers(found, capability, deadline, note, measure):
            chosen[best.layer] = best
        save(table_of(name, chosen.values()), path)
        del stream, model
        torch.cuda.empty_cache()
    return table_of(name, chosen.values()), path
