"""The buffers that a model's own forward changes, as a stream carries them from frame to frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from videoeff.errors import StateError
from videoeff.ir.program import Program
from videoeff.runtime.moving import Move


@dataclass(frozen=True)
class CarriedBuffer:
    """One buffer that a stream carries for its model, as reports name it.

    Attributes:
        name: its dotted path in the model.
        shape: its shape.
        shared: whether all entries of the batch share it.
        nbytes: its bytes.
    """

    name: str
    shape: tuple[int, ...]
    shared: bool
    nbytes: int

    def __str__(self) -> str:
        whose = ", shared by the batch" if self.shared else ""
        return f"{self.name} {list(self.shape)}{whose}"


class CarriedState:
    """The values that the model's buffers have between two frames; none for most models.

    Args:
        program: the network; its constants hold the values the buffers begin with.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self.tensors: list[Tensor] = [t.clone() for t in program.initial()]

    @property
    def buffers(self) -> tuple[CarriedBuffer, ...]:
        """What is carried."""
        return tuple(
            CarriedBuffer(c.name, tuple(t.shape), c.shared, t.nbytes)
            for c, t in zip(self._program.carried, self.tensors, strict=True)
        )

    def advance(self, values: Sequence[Tensor]) -> None:
        """Take over the values after a frame, which may lie in memory that the next frame overwrites."""
        with torch.no_grad():
            for tensor, value in zip(self.tensors, values, strict=True):
                tensor.copy_(value)

    def check_reset(self, stream: int | None) -> None:
        """Whether one stream's values may begin anew.

        Raises:
            StateError: the batch shares a buffer; named.
        """
        shared = [c.name for c in self._program.carried if c.shared]
        if stream is not None and shared and self._program.streams > 1:
            raise StateError(
                f"{self._program.name}: stream {stream} cannot be reset alone: the forward changes the "
                f"buffer {shared[0]!r}, which all {self._program.streams} entries of the batch share; "
                "reset() resets all of them, or give the buffer the batch as its first dimension"
            )

    def reset(self, stream: int | None = None) -> None:
        """Let the values of one stream, or all, be those the buffers began with."""
        self.check_reset(stream)
        with torch.no_grad():
            for tensor, initial in zip(self.tensors, self._program.initial(), strict=True):
                if stream is None or self._program.streams == 1:
                    tensor.copy_(initial)
                else:
                    tensor[stream].copy_(initial[stream])

    def copies(self) -> dict[str, Tensor]:
        """Copies of the values by path."""
        return {c.name: t.clone() for c, t in zip(self._program.carried, self.tensors, strict=True)}

    def check_fits(self, values: Mapping[str, Tensor]) -> None:
        """Whether :meth:`copies` were made of the same buffers.

        Raises:
            StateError: they were not.
        """
        shapes = {c.name: t.shape for c, t in zip(self._program.carried, self.tensors, strict=True)}
        if {name: t.shape for name, t in values.items()} != shapes:
            odd = sorted(set(values) ^ set(shapes)) or sorted(shapes)
            raise StateError(
                f"the snapshot does not fit this stream: the model's buffer {odd[0]!r} is not the same in "
                "both; restore it into a stream of the same network, size and batch"
            )

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`copies` gave."""
        for carried, tensor in zip(self._program.carried, self.tensors, strict=True):
            tensor.copy_(values[carried.name])

    def move(self, move: Move) -> None:
        """Move or cast the values."""
        self.tensors = [move(tensor) for tensor in self.tensors]
