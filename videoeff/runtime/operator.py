"""A frame as one operator of PyTorch, so that ``torch.compile`` and ``torch.export`` see no Python.

``videoeff::frame(frames, ticket, outputs, stream)`` runs one frame of a stream of this process. The stream's
buffers are no argument: a compiler may pass copies of what an operator writes and put them back afterwards,
while the stream writes its own. What keeps frames in their order, and keeps a frame whose outputs go unused,
is that the operator writes its ticket.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import StateError

Run = Callable[[Sequence[Tensor]], Sequence[Any]]

_STREAMS: dict[int, weakref.WeakMethod[Run]] = {}
_NUMBERS = itertools.count(1)


def register(run: Run) -> int:
    """Register a method that runs one frame, as long as its object lives; returns its number."""
    number = next(_NUMBERS)
    _STREAMS[number] = weakref.WeakMethod(run, lambda _: _STREAMS.pop(number, None))
    return number


def _find(number: int) -> Run:
    reference = _STREAMS.get(number)
    run = None if reference is None else reference()
    if run is None:
        raise StateError(
            f"videoeff::frame: there is no stream {number} in this process; a compiled or exported program "
            "runs only beside the stream it was made from: keep it, or convert and compile again"
        )
    return run


@torch.library.custom_op("videoeff::frame", mutates_args={"ticket", "outputs"})
def frame(frames: Sequence[Tensor], ticket: Tensor, outputs: Sequence[Tensor], stream: int) -> None:
    """One frame.

    Args:
        frames: the tensor inputs, flattened.
        ticket: one element, [1] int64 on the CPU; grows by one.
        outputs: where the tensors among the flat outputs are written.
        stream: its number.

    Raises:
        StateError: the stream is gone or busy, or the frame holds NaN or infinity.
    """
    values = (value for value in _find(stream)(frames) if isinstance(value, Tensor))
    ticket += 1
    for output, value in zip(outputs, values, strict=True):
        output.copy_(value)
