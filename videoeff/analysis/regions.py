"""Regions: the part of the graph between one cache and the caches it is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from videoeff.analysis.cost import macs
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option, is_cache, is_concat
from videoeff.ir.program import Program, arguments, input_node
from videoeff.ops.base import op_of


@dataclass(frozen=True)
class Region:
    """What is computed to fill one cache.

    Attributes:
        cache: the ``delta_cache`` node.
        nodes: the calls between, in order, the cache left out.
        reads: the caches (or, for an input, the placeholder) read, each once, in order.
        constants: the constants read.
    """

    cache: fx.Node
    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    constants: tuple[fx.Node, ...]

    @property
    def name(self) -> str:
        """The cache's layer name."""
        return cache_name(self.cache)

    @property
    def anchors(self) -> tuple[fx.Node, ...]:
        """The calls that look at a neighbourhood or multiply weights: at most one after fusion."""
        return tuple(n for n in self.nodes if _is_anchor(n))

    @property
    def dense(self) -> str:
        """Why the region is computed whole, "" where pixels can be followed through it."""
        marked = str(cache_option(self.cache, "dense"))
        if marked:
            return marked
        for node in self.nodes:
            if info(node).dense:
                return info(node).dense
        value = info(self.cache)
        if not value.is_spatial:
            return "its result has no pixels"
        return ""

    @property
    def traced(self) -> bool:
        """Whether every pixel can be followed through it, even where it is computed whole for its size."""
        asked = str(cache_option(self.cache, "dense")).startswith("asked")
        return not asked and not any(info(n).dense for n in self.nodes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of computing it whole."""
        return sum(macs(n) for n in self.nodes)


def _is_anchor(node: fx.Node) -> bool:
    op = op_of(node)
    return op is None or op.role == "window"


def cone(node: fx.Node) -> list[fx.Node]:
    """The uncached calls a value is computed by, ``node`` last; caches, inputs and constants end it."""
    order: list[fx.Node] = []
    seen: set[fx.Node] = set()
    stack: list[tuple[fx.Node, bool]] = [(node, False)]
    while stack:
        current, done = stack.pop()
        if done:
            order.append(current)
            continue
        if current in seen or current.op != "call_function" or is_cache(current):
            continue
        seen.add(current)
        stack.append((current, True))
        stack.extend((n, False) for n in reversed(current.all_input_nodes))
    return order


def region_of(cache: fx.Node) -> Region:
    """The region of one cache."""
    nodes = cone(input_node(cache))
    inside = set(nodes)
    reads: dict[fx.Node, None] = {}
    constants: dict[fx.Node, None] = {}
    for node in [*nodes, cache]:
        for source in node.all_input_nodes:
            if source in inside:
                continue
            (constants if source.op == "get_attr" else reads)[source] = None
    return Region(cache, tuple(nodes), tuple(reads), tuple(constants))


def regions(program: Program) -> list[Region]:
    """All regions in the order they are computed."""
    return [region_of(n) for n in program.nodes if is_cache(n)]


def planned_slice(node: fx.Node) -> tuple[str, int, int, int, int] | None:
    """Where a planned concatenation already lies: (buffer, dim, first channel, step, last + 1), else None."""
    if not is_concat(node):
        return None
    options: dict[str, Any] = dict(node.kwargs)
    dim, step = int(options["dim"]), int(options.get("step", 1))
    parts: list[fx.Node] = list(arguments(node)[0])
    expected: tuple[str, int] | None = None
    first = last = 0
    for index, part in enumerate(parts):
        into = cache_option(part, "into") if is_cache(part) else None
        if into is None or into[2] != step or into[3] != dim:
            return None
        if cache_option(part, "grid") != cache_option(parts[0], "grid"):
            return None
        size = (info(part).shape or ())[dim]
        if expected is None:
            first = into[1]
        elif (into[0], into[1]) != expected:
            return None
        ahead = 1 if step > 1 else size
        expected = (into[0], into[1] + ahead)
        last = first + size * len(parts) if step > 1 else into[1] + size
        if step > 1 and index == 0 and step != len(parts):
            return None
    assert expected is not None  # a concatenation has parts
    return expected[0], dim, first, 1, last
