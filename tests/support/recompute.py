"""What a buffer should hold: recomputed from the buffers it was computed from."""

from __future__ import annotations

from torch import Tensor

from videoeff.kernels.call import Input, RegionCall
from videoeff.kernels.change_test import distance
from videoeff.runtime.engine import Engine


def gap(call: RegionCall, engine: Engine, new: Tensor) -> tuple[Tensor, Tensor | float]:
    """How far a recomputed value is from its buffer, in the test's own units, and how far it may be."""
    old, state = engine.values()[call.name], engine.state
    limit: Tensor | float = call.test.threshold
    if call.scale:
        limit = limit * state[call.scale].view(-1, 1, 1)
    kind = call.test.kind if call.test.threshold > 0 else "max"
    return distance(new, old, call.layout, kind, call.test.noise), limit


def recomputed(engine: Engine, call: RegionCall, frame: tuple[Tensor, ...]) -> Tensor:
    if isinstance(call.source, Input):
        return frame[call.source.index]
    constants = dict(engine.network.named_buffers(remove_duplicate=False))
    new: Tensor = call.source.run(engine.state, constants)
    return new
