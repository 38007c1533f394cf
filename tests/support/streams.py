"""Shortcuts from a module to a Program, an Engine and a stream, without the checks of ``convert``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff import kernels
from videoeff.capture.export import capture
from videoeff.ir.parser import text_to_program
from videoeff.ir.program import Program
from videoeff.passes import Pass, parse_passes, recipe, run_passes
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule

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
    return StreamingModule(Engine(planned(captured(model, *args), passes), backend), **options)


def named(program: Program, word: str) -> list[fx.Node]:
    """The calls whose operator's name holds a word."""
    return [n for n in program.nodes if n.op == "call_function" and word in str(n.target)]


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
