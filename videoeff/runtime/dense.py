"""The dense network of a stream: the same graphs computed whole, while the stream stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.ir.program import Program
from videoeff.runtime.body import StreamBody
from videoeff.runtime.outputs import owned

if TYPE_CHECKING:
    from videoeff.runtime.engine import Engine

#: The flat outputs of a Program, and what it carries after the frame.
Step = tuple[tuple[Any, ...], tuple[Any, ...]]

#: Computes a Program: its engine's name, itself, the tensors of the call, what it carries before the frame.
RunProgram = Callable[[str, Program, Sequence[Tensor], Sequence[Tensor]], Step]


@dataclass
class Carried:
    """What a model carries from frame to frame, beside its stream; nothing for most models.

    Attributes:
        engines: the carried buffers by the name of the engine; those it begins with where there is no entry.
        outside: the buffers that the code around the engines changes, by path; None for the first values.
    """

    engines: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    outside: dict[str, Tensor] | None = None

    @classmethod
    def now(cls, body: StreamBody) -> Carried:
        """A copy of what the stream carries at this moment."""
        found = {
            name: tuple(t.clone() for t in engine.carried.tensors)
            for name, engine in body.engines.items()
            if engine.program.carried
        }
        return cls(found, body.outside.copies() if body.outside.names else None)


def run_plainly(_: str, program: Program, flat: Sequence[Tensor], carried: Sequence[Tensor]) -> Step:
    """A Program as plain PyTorch."""
    return program.run_from(flat, carried)


def is_quantised(engine: Engine) -> bool:
    """Whether an engine keeps values as 8-bit numbers."""
    return any(spec.grid is not None for spec in engine.plan.state)


_twins: WeakKeyDictionary[Engine, tuple[Program, torch.device, Engine]] = WeakKeyDictionary()


def twin_of(engine: Engine) -> Engine:
    """An engine of the same network with a state of its own, kept as long as the first one."""
    from videoeff.runtime.engine import Engine

    found = _twins.get(engine)
    if found is None or found[0] is not engine.program or found[1] != engine.device:
        found = (engine.program, engine.device, Engine(engine.program, engine.backend))
        _twins[engine] = found
    return found[2]


def run_whole(engine: Engine, flat: Sequence[Tensor]) -> tuple[Any, ...]:
    """The dense network of a quantised engine: a first frame, by its own kernels.

    In plain PyTorch the quantised graph is computed in floating point. A value at the edge between two
    numbers then gets the other one here and there, and the layers behind magnify that: it is another network,
    by about what quantising costs. The first frame of a stream is computed whole, whatever the thresholds.
    """
    twin = twin_of(engine)
    twin.forget()
    return tuple(owned(value, twin.storages, twin.memory) for value in twin.step(flat))


def run_dense(
    body: StreamBody,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    carried: Carried,
    run: RunProgram = run_plainly,
) -> Any:
    """The dense model's outputs for one frame. The stream and what it carries stay as they are.

    Args:
        body: what the stream runs.
        args: positional arguments of a call that fits, as the stream sees it: ``zoning.as_seen``.
        kwargs: its keyword arguments.
        carried: what the model carries before the frame; afterwards, what it carries behind it.
        run: computes one Program; if left out plain PyTorch, and quantised ones by their own kernels.

    Returns:
        The model's outputs.
    """

    def compute(name: str, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flat = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        before = carried.engines.get(name, program.initial())
        engine = body.engines.get(name)
        if run is run_plainly and engine is not None and is_quantised(engine) and not program.carried:
            return pytree.tree_unflatten(list(run_whole(engine, flat)), program.out_spec)
        outputs, carried.engines[name] = run(name, program, flat, before)
        return pytree.tree_unflatten(list(outputs), program.out_spec)

    outside = body.outside
    with torch.no_grad():
        if not outside.names:
            return body.run_with(compute, args, kwargs)
        streams = outside.copies()
        outside.restore(outside.initial if carried.outside is None else carried.outside)
        try:
            outputs = body.run_with(compute, args, kwargs)
            carried.outside = outside.copies()
        finally:
            outside.restore(streams)
    return outputs


def channels_last(values: Any) -> Any:
    """The same values, pictures (B, C, H, W) with their channels last in memory, as dense layers like."""
    return pytree.tree_map_only(
        Tensor, lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v, values
    )
