"""A frame as one operator of PyTorch, so that ``torch.compile`` and ``torch.export`` see no Python.

``videoeff::frame(frames, state, outputs, engine)`` runs one frame of an engine of this process. That it
mutates the engine's buffers keeps frames in their order.
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

_ENGINES: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
_NUMBERS = itertools.count(1)


def register(engine: Engine) -> int:
    """A number by which the operator finds an engine, as long as it lives."""
    number = next(_NUMBERS)
    _ENGINES[number] = engine
    return number


def _engine(number: int) -> Engine:
    found = _ENGINES.get(number)
    if found is None:
        raise StateError(
            f"videoeff::frame: there is no stream {number} in this process; a compiled or exported program "
            "runs only beside the stream it was made from: keep it, or convert and compile again"
        )
    return found


@torch.library.custom_op("videoeff::frame", mutates_args={"state", "outputs"})
def frame(frames: Sequence[Tensor], state: Sequence[Tensor], outputs: Sequence[Tensor], engine: int) -> None:
    """One frame.

    Args:
        frames: the tensor inputs, flattened.
        state: all buffers of the engine.
        outputs: where the tensors among the outputs are written.
        engine: its number.
    """
    values = (value for value in _engine(engine).step(frames) if isinstance(value, Tensor))
    for output, value in zip(outputs, values, strict=True):
        output.copy_(value)


def call(engine: Engine, frames: Sequence[Tensor]) -> list[Any]:
    """The flat outputs of an engine's frame by way of the operator; the tensors are new."""
    outputs = [torch.empty(shape, dtype=dtype, device=engine.device) for shape, dtype in engine.returns]
    frame(list(frames), engine.owned, outputs, engine.number)
    tensors = iter(outputs)
    return [next(tensors) if literal is None else literal[0] for literal in engine.returned]
