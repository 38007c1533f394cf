"""Shortcuts from a module to a Program, an Engine and a stream, without the checks of ``convert``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff import kernels
from videoeff.capture.export import capture
from videoeff.ir.parser import text_to_program
from videoeff.ir.program import Program
from videoeff.kernels.call import Input
from videoeff.kernels.change_test import mask_like
from videoeff.passes import Pass, parse_passes, recipe, run_passes
from videoeff.runtime.engine import Engine
from videoeff.runtime.observation import Observation
from videoeff.runtime.options import Options
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import TOLERANCES, relative_error

#: Every way to compute on this machine: the reference, and "auto" where there is more. A backend that may
#: decline a region is met in "auto", beside the reference.
BACKENDS = ["reference"] + ["auto"] * (sum(not i.unavailable() for i in kernels.BACKENDS) > 1)


def captured(model: nn.Module, *args: Any) -> Program:
    """A captured Program of a module in evaluation mode."""
    return capture(model.eval(), args)


def planned(program: Program, passes: str | Sequence[Pass] = "delta") -> Program:
    """The Program after a recipe, or a list of passes as text or objects."""
    if isinstance(passes, str):
        passes = recipe(passes) if passes in ("delta", "exact") else parse_passes(passes)
    return run_passes(program, passes)


def stream_of(
    model: nn.Module,
    *args: Any,
    passes: str | Sequence[Pass] = "delta",
    backend: str = "auto",
    **options: Any,
) -> StreamingModule:
    """A stream of a module that need not have a convolution."""
    return StreamingModule(Engine(planned(captured(model, *args), passes), backend), Options(**options))


def named(program: Program, word: str) -> list[fx.Node]:
    """The calls whose operator's name holds a word."""
    return [n for n in program.nodes if n.op == "call_function" and word in str(n.target)]


def node_errors(stream: StreamingModule, seen: Observation) -> dict[str, float]:
    """How far each layer's buffer is from its value computed in float64 from the buffers it reads.

    Args:
        stream: a stream of which the last frame was observed.
        seen: what that frame did. Behind a threshold only the pixels that it passed on are compared, within a
            bounded reach only those that were computed.

    Returns:
        By layer, frames left out, the relative error.
    """
    errors: dict[str, float] = {}
    for engine in stream.engines.values():
        constants = dict(engine.network.named_buffers(remove_duplicate=False))
        for call in (i.call for i in engine.plan.instructions):
            if isinstance(call.source, Input):
                continue
            reads = {r.state: widened(engine.state[r.state]) for r in call.source.reads}
            with torch.no_grad():
                truth = call.source.run(reads, {c: widened(constants[c]) for c in call.source.constants})
            stored = engine.state[call.value.name]
            if (grid := call.value.grid) is not None:  # the other number where a value lies between two
                steps = int((grid.encode(truth).int() - stored.int()).abs().max())
                errors[call.name] = 0.0 if steps <= 1 else float(steps)
                continue
            if call.test.threshold > 0 or call.bound is not None:
                some = seen.changed if call.test.threshold > 0 else seen.active
                passed = mask_like(some[call.name], stored, call.layout)
                stored = torch.where(passed, stored, truth.to(stored.dtype))
            truth = truth.to(torch.float64 if stored.is_floating_point() else stored.dtype)
            errors[call.name] = relative_error(widened(stored), truth)
    assert errors, "the stream has no layers"
    return errors


def widened(tensor: Tensor) -> Tensor:
    """A floating-point tensor in float64, any other as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def assert_nodes_close(stream: StreamingModule, seen: Observation) -> None:
    """Raise unless every layer's buffer is within the table's tolerance of one node: ``node_errors``."""
    for name, error in node_errors(stream, seen).items():
        row = TOLERANCES.get(stream.values()[name].dtype)
        limit, why = (row.node, row.node_reason) if row else (0.0, "whole numbers are exact")
        assert error <= limit, f"{name}: {error:.2g} exceeds {limit:g} ({why})"


def tensors_of(program: Program) -> dict[str, Tensor]:
    """The constants by name."""
    return {str(n.target): program.tensor(n) for n in program.nodes if n.op == "get_attr"}


def read_back(program: Program) -> Program:
    """The Program after it went through its text."""
    text = str(program)
    return text_to_program(
        text, tensors_of(program), program.in_spec, program.out_spec, tuple(program.literals)
    )


def outputs_of(program: Program, *args: Any) -> list[Any]:
    """The flat outputs of a Program run as plain PyTorch."""
    return list(program.run(*[v for v in pytree.tree_leaves(args) if isinstance(v, Tensor)]))
