"""A lowered Program: the calls of a frame in order, and the state they keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from videoeff.ir.program import Program
from videoeff.kernels import Group
from videoeff.kernels.call import Context, RegionCall, StateSpec
from videoeff.kernels.computation import Computation


@dataclass(frozen=True)
class Instruction:
    """One call, who runs it and why.

    Attributes:
        call: what is computed.
        kernel: the backend's name.
        reason: why not one with a higher priority, "" for the first.
        streams: whether pixels can be followed through it.
        convolution_macs: multiply-accumulates of its convolutions.
    """

    call: RegionCall
    kernel: str
    reason: str
    streams: bool
    convolution_macs: int


@dataclass(frozen=True)
class Plan:
    """A lowered Program.

    Attributes:
        program: the Program it was made of, less the caches whose values are recomputed.
        instructions: the calls in order.
        runners: what runs them, in order; one may run several.
        groups: those that run several calls as one.
        state: every buffer.
        frame_specs: (shape, dtype) of each input tensor.
        outputs: from the caches' buffers to the flat outputs (views of them where nothing is moved).
        neighbours: buffers that the outputs join, by name, to be kept one behind the other.
    """

    program: Program
    instructions: tuple[Instruction, ...]
    runners: tuple[Callable[[Context], None], ...]
    groups: tuple[Group, ...]
    state: tuple[StateSpec, ...]
    frame_specs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    outputs: Computation[tuple[Any, ...]]
    neighbours: tuple[tuple[str, ...], ...] = ()

    @property
    def state_bytes(self) -> int:
        """Bytes of all buffers, all streams."""
        return sum(s.nbytes for s in self.state)

    def run(self, context: Context) -> None:
        """Run one frame: every call in order."""
        for run in self.runners:
            run(context)

    def read(self, context: Context) -> tuple[Any, ...]:
        """The outputs of the frame that was run."""
        return tuple(self.outputs.run(context.state, context.constants))
