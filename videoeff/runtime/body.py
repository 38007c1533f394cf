"""StreamBody: what a stream runs, whichever way its model was captured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from videoeff.ir.program import Program
from videoeff.kernels import Group
from videoeff.runtime.engine import Engine
from videoeff.runtime.freezing import Freezer
from videoeff.runtime.outside import OutsideState
from videoeff.runtime.signature import OutputSignature, Signature

#: Computes a call that an engine would run, from the engine's name, its Program, args and kwargs.
Compute = Callable[[str, Program, tuple[Any, ...], dict[str, Any]], Any]


@dataclass(frozen=True)
class Surroundings:
    """The model around the engines of a model captured in parts, as it is saved.

    Attributes:
        signature: of the whole model's call.
        calls: how many engines there are for each submodule, by path.
        left: what runs as it is (its path), and why.
        convolution_macs: multiply-accumulates of the whole dense model's convolutions.
        weights: the model's state dict.
        outside: the buffers that the code around the engines changes, by path.
        bfloat16: whether the model, given float32, computes in bfloat16.
    """

    signature: Signature
    calls: Mapping[str, int]
    left: tuple[tuple[str, str], ...]
    convolution_macs: int
    weights: Mapping[str, Tensor]
    outside: tuple[str, ...] = ()
    bfloat16: bool = False


class StreamBody(Protocol):
    """What a stream runs: a torch module that computes a frame from a call.

    There are two: an :class:`~videoeff.runtime.engine.Engine` is a model captured whole, a
    :class:`~videoeff.runtime.partitioned.PartitionedModel` one captured in parts.
    """

    @property
    def signature(self) -> Signature:
        """The call it was made for."""

    @property
    def outputs(self) -> OutputSignature | None:
        """What it returns; None where that depends on the frame."""

    @property
    def engines(self) -> Mapping[str, Engine]:
        """The engines by name: one named "" for a model captured whole."""

    @property
    def device(self) -> torch.device:
        """Where it lives."""

    @property
    def streams(self) -> int:
        """Independent streams in a batch."""

    @property
    def refuses(self) -> bool:
        """Whether it refuses NaN and infinity by itself, if asked to, before anything changes."""

    @property
    def watchers(self) -> Sequence[Group]:
        """The groups that find NaN and infinity in the frames, if together they look at all of them."""

    @property
    def convolution_macs(self) -> int:
        """Multiply-accumulates of the whole dense model's convolutions."""

    @property
    def left(self) -> tuple[tuple[str, str], ...]:
        """What of the model runs as it is (its path), and why: nothing of a model captured whole."""

    @property
    def eager(self) -> tuple[tuple[str, str], ...]:
        """What ran as it is since counting began: :attr:`left`, and calls that did not fit an engine."""

    @property
    def outside(self) -> OutsideState:
        """The buffers that the code around the engines changes."""

    @property
    def freezer(self) -> Freezer | None:
        """What keeps the ignored pixels of its frames; None where there are none, or its inputs keep them."""

    @property
    def idle(self) -> tuple[str, ...]:
        """The captured submodules that no frame has called since counting began."""

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call is one tensor such as it was planned for, so that nothing more need be asked."""

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frames: Sequence[Tensor],
        *,
        refuse: bool = False,
        alias: bool = False,
    ) -> Any:
        """One frame of every stream.

        Args:
            args: positional arguments of a call that fits.
            kwargs: its keyword arguments.
            frames: the tensors among both, flattened.
            refuse: whether to refuse NaN and infinity, where it :attr:`refuses`.
            alias: whether outputs may be the buffers themselves.

        Returns:
            The model's outputs.

        Raises:
            NotFinite: it was refused; nothing has changed.
        """

    def run_with(self, compute: Compute, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call, with ``compute`` in the place of every engine; the state is left alone."""

    def surroundings(self) -> Surroundings | None:
        """What lies around the engines, to be saved; None where there is nothing."""

    def clear_counts(self) -> None:
        """Start counting anew."""

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Any:
        """Move or cast it, state included, as ``torch.nn.Module.to``."""
