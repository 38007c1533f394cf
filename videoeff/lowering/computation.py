"""Part of a planned graph as a computation: its operators in order, over buffers and constants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from torch import fx

from videoeff.analysis.regions import planned_slice
from videoeff.errors import LoweringError
from videoeff.ir.grids import grid_of
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import arguments
from videoeff.kernels.computation import (
    Computation,
    FromConstant,
    FromRead,
    FromStep,
    Operand,
    Read,
    Step,
)


def computation_of(value: fx.Node) -> Computation[Operand]:
    """How a value is computed from caches."""
    walk = _Walk([value])
    return Computation(walk.steps(), walk.operand(value), walk.reads, walk.constants)


def outputs_of(values: Iterable[Any]) -> Computation[tuple[Any, ...]]:
    """How several values are; literals stay as they are."""
    leaves = tuple(values)
    walk = _Walk([n for n in leaves if isinstance(n, fx.Node)])
    result = tuple(walk.operand(n) if isinstance(n, fx.Node) else n for n in leaves)
    return Computation(walk.steps(), result, walk.reads, walk.constants)


def _read(node: fx.Node, state: str, part: tuple[int, int, int] | None, cache: fx.Node) -> Read:
    """A read of a buffer that is kept as ``cache`` says."""
    grid = grid_of(cache_option(cache, "grid"))
    return Read(state, part) if grid is None else Read(state, part, grid, info(node).dtype)


class _Walk:
    """The nodes some values are computed by, each once, in an order in which they can be computed.

    Caches, constants and planned concatenations are where it ends: what lies behind them is not evaluated.
    """

    def __init__(self, values: Iterable[fx.Node]) -> None:
        self._read: dict[fx.Node, Read] = {}
        self._constant: dict[fx.Node, str] = {}
        self._step: dict[fx.Node, int] = {}
        self._places: dict[fx.Node, int] = {}
        seen: set[fx.Node] = set()
        stack = [(v, False) for v in reversed(list(values))]
        while stack:
            node, done = stack.pop()
            if done:
                self._step[node] = len(self._step)
            elif node not in seen:
                seen.add(node)
                if not self._ends(node):
                    stack.append((node, True))
                    stack.extend((n, False) for n in reversed(node.all_input_nodes))
        for found in (self._read, self._constant):
            self._places.update({node: index for index, node in enumerate(found)})

    def _ends(self, node: fx.Node) -> bool:
        if is_cache(node):
            self._read[node] = _read(node, f"{cache_name(node)}.value", None, node)
        elif node.op == "get_attr":
            self._constant[node] = str(node.target)
        elif (part := planned_slice(node)) is not None:
            buffer, dim, first, _, last = part
            self._read[node] = _read(node, f"{buffer}.buffer", (dim, first, last), arguments(node)[0][0])
        else:
            return False
        return True

    @property
    def reads(self) -> tuple[Read, ...]:
        """The buffers."""
        return tuple(self._read.values())

    @property
    def constants(self) -> tuple[str, ...]:
        """The constants by name."""
        return tuple(self._constant.values())

    def steps(self) -> tuple[Step, ...]:
        """The operators, in order."""
        return tuple(self._made(node) for node in self._step)

    def _made(self, node: fx.Node) -> Step:
        known, function = info(node), cast(Any, node.target)
        args: Any = fx.map_arg(node.args, cast(Any, self.operand))
        kwargs: Any = fx.map_arg(node.kwargs, cast(Any, self.operand))
        return Step(
            function, tuple(args), dict(kwargs), known.shape, known.dtype, known.layout, not known.dense
        )

    def operand(self, node: fx.Node) -> Operand:
        """What stands for a node."""
        if node in self._step:
            return FromStep(self._step[node])
        index, known = self._places[node], info(node)
        if node in self._constant:
            return FromConstant(index, known.shape or ())
        if known.shape is None or known.dtype is None or known.layout is None:
            raise LoweringError(f"{node.name}: it is read as a buffer and does not stream; report the model")
        caches = [node] if is_cache(node) else arguments(node)[0]
        masks = tuple(cache_name(n) for n in caches)
        return FromRead(index, known.shape, known.dtype, known.layout, masks)
