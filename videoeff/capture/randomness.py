"""Random numbers in a forward: which operators draw them, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from videoeff.errors import CaptureError
from videoeff.ir.program import Program, module_path
from videoeff.ops.base import bind, bound_arguments, op_name


def random_call(program: Program) -> str:
    """The first operator of a Program that draws random numbers, and its module; "" if there is none."""
    for node in program.nodes:
        if node.op == "call_function" and _draws(node.target, bind(node)):
            return f"{op_name(node)} in {module_path(node) or program.name}"
    return ""


def require_none(program: Program) -> None:
    """Raise unless a Program draws no random numbers.

    Raises:
        CaptureError: it does; the operator and its module are named.
    """
    if found := random_call(program):
        raise CaptureError(f"{program.name}: {advice(found)}")


def advice(found: str) -> str:
    """What to say of a model in which an operator (named) draws random numbers."""
    return (
        f"its forward draws random numbers ({found}), so its result is never the same twice; a stream, which "
        "keeps what did not change, cannot give that: switch that off (dropout: model.eval(), or "
        "training=self.training in F.dropout), or make the random numbers an argument of the forward"
    )


def _draws(function: Any, given: Mapping[str, Any]) -> bool:
    if torch.Tag.nondeterministic_seeded not in getattr(function, "tags", ()):
        return False
    off = given.get("train") is False or given.get("training") is False
    return not (off or given.get("dropout_p") == 0 or given.get("p") == 0)


class RandomWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
    """While it is active, notes the operators that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        #: Their names, in the order in which they were called first.
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and note it if it is random."""
        name = op_name(func)
        if name not in self.found and _draws(func, bound_arguments(func, args, kwargs or {})):
            self.found.append(name)
        return func(*args, **(kwargs or {}))
