"""Kernels compiled before they are needed: networks planned without a GPU, launches compiled by many cores.

Compiling the kernels of a network one after the other takes minutes, of which a benchmark has eight. A plan
on tensors without memory gives the same launches, and Triton's cache then holds what a frame asks for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from torch import nn

if TYPE_CHECKING:  # Triton is imported where it is used
    from videoeff.kernels.triton.binding import Launch


@dataclass(frozen=True)
class Ahead:
    """What is to be compiled.

    Attributes:
        reference: of the network; or ``conv:`` and the arguments of a single convolution.
        size: (height, width).
        streams: in a batch.
        dtype: by name.
        threshold: of all layers.
        device: full name.
        capability: 80, 90, ...
    """

    reference: str
    size: tuple[int, int]
    streams: int
    dtype: str
    threshold: float
    device: str
    capability: int


def gpu_by_driver() -> tuple[str, int, str]:
    """Name, compute capability (90) and driver version of the first GPU, without waking it.

    Raises:
        OSError: there is no driver.
    """
    fields = "name,compute_cap,driver_version"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except subprocess.SubprocessError as error:
        raise OSError(f"nvidia-smi tells nothing: {error}") from error
    name, capability, driver = (f.strip() for f in said.stdout.splitlines()[0].split(","))
    return name, int(capability.replace(".", "")), driver


@contextlib.contextmanager
def as_if_there_were(device: str, capability: int) -> Iterator[None]:
    """Lets networks be planned for a GPU on a machine without one."""
    from videoeff.kernels.triton import plan
    from videoeff.kernels.triton.configs import Device
    from videoeff.kernels.triton.region import TritonBackend
    from videoeff.lowering import lower

    there = Device(device, f"sm_{capability}")
    with (
        mock.patch.object(lower, "device_of", return_value=torch.device("cuda")),
        mock.patch.object(plan, "present", return_value=there),
        mock.patch.object(TritonBackend, "unavailable", return_value=""),
    ):
        yield


@lru_cache(maxsize=1)
def launches(wanted: Ahead) -> list[Launch]:
    """Every launch of a network, its tensors without memory."""
    from videoeff.bench.network import network
    from videoeff.conversion import convert
    from videoeff.kernels.call import Context
    from videoeff.kernels.triton.plan import TritonPlan

    dtype = getattr(torch, wanted.dtype)
    with torch.device("meta"):
        model = convolution(wanted.reference) or network(wanted.reference)
        channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    example = torch.empty(wanted.streams, channels, *wanted.size, dtype=dtype, device="meta")
    with as_if_there_were(wanted.device, wanted.capability):
        stream = convert(model.to(dtype).eval(), example, backend="auto", threshold=wanted.threshold)
    found: list[Launch] = []
    for engine in stream.engines.values():
        fresh = torch.zeros(wanted.streams, dtype=torch.bool, device="meta")
        context = Context((), engine.state, engine._constants, fresh, any_fresh=True, all_fresh=True)
        for group in engine.plan.groups:
            if isinstance(group, TritonPlan):
                group._bind(context)
                found += group.launches
    return found


def convolution(reference: str) -> nn.Module | None:
    """The single convolution that ``conv:`` and seven numbers and pairs name, None for anything else."""
    if not reference.startswith("conv:"):
        return None
    inputs, outputs, kernel, stride, padding, dilation, groups = (
        tuple(int(n) for n in part.split(",")) for part in reference[5:].split("/")
    )
    return nn.Conv2d(inputs[0], outputs[0], kernel, stride, padding, dilation, groups[0])  # type: ignore[arg-type]


def compile_part(wanted: Ahead, part: int, parts: int) -> tuple[int, int]:
    """Compile every ``parts``-th launch from the ``part``-th on; how many were and how many could not be."""
    from triton.runtime import driver

    from benchmarks.ahead import Pretended

    torch.set_num_threads(1)
    driver.set_active(Pretended(wanted.capability))
    done = failed = 0
    for launch in launches(wanted)[part::parts]:
        try:
            launch.warm()
            done += 1
        except Exception:  # noqa: BLE001 - the frame itself will meet it, and say where
            failed += 1
    return done, failed


class Compiler:
    """Processes that compile ahead, beside the one that measures."""

    def __init__(self, workers: int | None = None) -> None:
        count = workers or max(1, (os.cpu_count() or 2) - 2)
        context = multiprocessing.get_context("spawn")  # nothing of CUDA is inherited
        self.workers = count
        self.pool = ProcessPoolExecutor(count, mp_context=context)
        self.found: dict[Ahead, list[Future[tuple[int, int]]]] = {}

    def ask(self, wanted: Ahead, parts: int) -> None:
        """Begin with a network; ``parts`` processes plan it and share its launches."""
        if wanted not in self.found:
            self.found[wanted] = [self.pool.submit(compile_part, wanted, i, parts) for i in range(parts)]

    def wait(self, wanted: Sequence[Ahead], seconds: float) -> str:
        """Wait for networks asked for; what came of it, in words."""
        futures = [f for w in wanted for f in self.found.get(w, [])]
        concurrent_wait(futures, seconds)
        done = failed = lost = 0
        for future in futures:
            if not future.done():
                lost += 1
            elif future.exception() is not None:
                failed += 1
            else:
                made, not_made = future.result()
                done, failed = done + made, failed + not_made
        return f"{done} kernels compiled ahead, {failed} failed, {lost} part(s) not done"

    def stop(self) -> None:
        """Let go of everything."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def concurrent_wait(futures: Sequence[Future[Any]], seconds: float) -> None:
    """Wait for all, so long."""
    from concurrent.futures import wait

    wait(futures, timeout=max(0.0, seconds))
