"""What a buffer should hold: recomputed from the buffers it was computed from."""

from __future__ import annotations

from torch import Tensor

from videoeff.kernels.call import RegionCall
from videoeff.kernels.change_test import distance
from videoeff.runtime.engine import Engine


def gap(call: RegionCall, engine: Engine, new: Tensor) -> tuple[Tensor, Tensor | float]:
    """How far a recomputed value is from its buffer, in the test's own units, and how far it may be."""
    old, state = engine.values()[call.name], engine.state
    limit: Tensor | float = call.test.threshold
    if call.scale:
        limit = limit * state[call.scale].view(-1, 1, 1)
    kind = call.test.kind if call.test.threshold > 0 else "max"
    return distance(new, old, call.layout, kind), limit


def recomputed(engine: Engine, call: RegionCall, frame: tuple[Tensor, ...]) -> Tensor:
    if call.kind == "input":
        return frame[call.input_index]
    reads = [engine.state[r.state] for r in call.reads]
    reads = [
        t if r.part is None else t.narrow(r.part[0], r.part[1], r.part[2] - r.part[1])
        for r, t in zip(call.reads, reads, strict=True)
    ]
    constants = dict(engine.network.named_buffers(remove_duplicate=False))
    return call.compute(*reads, *(constants[c] for c in call.constants))
