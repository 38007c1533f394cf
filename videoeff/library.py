"""A frame as one operator of PyTorch, so that ``torch.compile`` and ``torch.export`` see no Python.

``videoeff::frame(frames, ticket, outputs, stream)`` runs one frame of a stream of this process. The stream's
buffers are no argument: a compiler may pass copies of what an operator writes and put them back afterwards,
while the stream writes its own. What keeps frames in their order, and keeps a frame whose outputs go unused,
is that the operator writes its ticket.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from videoeff.errors import StateError

if TYPE_CHECKING:
    from videoeff.engine import Engine
    from videoeff.runtime import StreamingModule

_STREAMS: weakref.WeakValueDictionary[int, StreamingModule] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def register(stream: StreamingModule) -> int:
    """A number by which the operator finds a stream, as long as it lives."""
    number = next(_NUMBERS)
    _STREAMS[number] = stream
    return number


def _find(number: int) -> StreamingModule:
    found = _STREAMS.get(number)
    if found is None or found.engine is None:
        raise StateError(
            f"videoeff::frame: there is no stream {number} in this process; a compiled or exported program "
            "runs only beside the stream it was made from: keep it, or convert and compile again"
        )
    return found


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
    values = (value for value in _find(stream).eager(frames) if isinstance(value, Tensor))
    ticket += 1
    for output, value in zip(outputs, values, strict=True):
        output.copy_(value)


def call(stream: StreamingModule, engine: Engine, frames: Sequence[Tensor]) -> list[Any]:
    """The flat outputs of a stream's frame by way of the operator; the tensors are new."""
    outputs = [torch.empty(shape, dtype=dtype, device=engine.device) for shape, dtype in engine.returns]
    frame(list(frames), stream.ticket, outputs, stream.number)
    tensors = iter(outputs)
    return [next(tensors) if literal is None else literal[0] for literal in engine.returned]
