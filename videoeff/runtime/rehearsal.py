"""A model in parts is tried before it streams, with the captured Programs in the place of its engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.ir.program import Program
from videoeff.runtime.partitioned import PartitionedModel


class CapturedPart(Protocol):
    """A call of a submodule that was captured."""

    @property
    def path(self) -> str:
        """The submodule's path."""

    @property
    def program(self) -> Program:
        """What was captured."""


class Trial:
    """Runs a model in parts without its engines, and notes which parts it calls.

    Args:
        body: the model in parts; its Python code runs, so it is not to be used afterwards.
        parts: what was captured, in the order of the engines.
    """

    def __init__(self, body: PartitionedModel, parts: Sequence[CapturedPart]) -> None:
        self._body = body
        self._programs = dict(zip(body.engines, (p.program for p in parts), strict=True))
        self._called: set[str] = set()
        #: The buffers that a stream carries, by path.
        self.carried = [f"{p.path}.{c.name}" for p in parts for c in p.program.carried]
        self.carried += [name.replace(".original.", ".") for name in body.outside.names]

    def begin(self) -> Callable[[tuple[tuple[Any, ...], dict[str, Any]]], list[Any]]:
        """A function that runs one frame after the other and returns the flat outputs."""
        carried = {name: program.initial() for name, program in self._programs.items()}

        def compute(name: str, _: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._called.add(name)
            program = self._programs[name]
            flat = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
            outputs, carried[name] = program.run_from(flat, carried[name])
            return pytree.tree_unflatten(list(outputs), program.out_spec)

        return lambda call: pytree.tree_leaves(self._body.run_with(compute, *call))

    def uncalled(self) -> list[str]:
        """The captured submodules of which no call was seen."""
        sites = self._body.call_sites
        return [path for path, site in sites.items() if not self._called & set(site.engines)]
