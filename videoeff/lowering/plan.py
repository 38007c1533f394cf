"""A lowered Program: the calls of a frame in order, and the state they keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from videoeff.ir.program import Program
from videoeff.kernels import Group
from videoeff.kernels.call import Context, RegionCall, StateSpec
from videoeff.kernels.computation import Computation

#: Runs one call, or several as one, for a frame.
Runner = Callable[[Context], None]


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
        build: makes runners and groups anew, for another stream.
    """

    program: Program
    instructions: tuple[Instruction, ...]
    runners: tuple[Runner, ...]
    groups: tuple[Group, ...]
    state: tuple[StateSpec, ...]
    frame_specs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    outputs: Computation[tuple[Any, ...]]
    build: Callable[[], tuple[tuple[Runner, ...], tuple[Group, ...]]]
    neighbours: tuple[tuple[str, ...], ...] = ()

    def twin(self) -> Plan:
        """The same Plan for another stream: what runs it keeps nothing of this one's."""
        runners, groups = self.build()
        return replace(self, runners=runners, groups=groups)

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
