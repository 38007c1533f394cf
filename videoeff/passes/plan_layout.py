"""Plan where channels lie, so that concatenations, splits and shuffles copy nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from videoeff.analysis.regions import planned_slice
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_option, concat, delta_cache, is_cache
from videoeff.ir.program import Program, arguments, input_node, module_path
from videoeff.ops.base import bind, normal, op_name, op_of, overload_name
from videoeff.passes.base import Notes, Pass


@dataclass(frozen=True)
class PlanLayout(Pass):
    """Let producers write into their slice of a shared buffer.

    A concatenation of channels becomes one buffer that its parts are slices of; one that repeats part of a
    longer concatenation (DenseNet) is a slice of that. A channel shuffle behind a concatenation interleaves
    the slices; one in front of a convolution is folded into its weights. A part that cannot be written in
    place (it lies in another buffer already) is copied where it changes. Exact.
    """

    name: ClassVar[str] = "plan-layout"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Plan shuffles first, then concatenations, the longest first."""
        changed = False
        for node in list(program.nodes):
            if node.users and _is_shuffle(node):
                changed |= _plan_shuffle(program, node, note)
        found = [n for n in program.nodes if op_name(n) == "cat"]
        for node in sorted(found, key=lambda n: -len(arguments(n)[0])):
            changed |= _plan_concat(program, node, note)
        for node in [n for n in program.nodes if op_name(n) == "cat"]:
            changed |= _turn(program, node)
        return edit.sweep(program) or changed


def _turn(program: Program, node: fx.Node) -> bool:
    """Permute the parts of a concatenation behind which nothing is kept, rather than their concatenation.

    Detectors hand out (B, places, channels). Joined with the channels in front, as many of them do first, all
    values are transposed in every frame; as they are kept, channels side by side, they are only copied.
    """
    turn = next(iter(node.users), None)
    if turn is None or len(node.users) != 1 or overload_name(turn) != "permute.default" or _is_kept(node):
        return False
    bound = bind(turn)
    order = [normal(int(d), len(bound["dims"])) for d in bound["dims"]]
    parts, dim = arguments(node)[0], normal(int(bind(node)["dim"]), len(order))
    target, inner = turn.target, node.target
    turned = [edit.call(program, part, target, (part, order)) for part in parts]
    joined = edit.call(program, turn, inner, (turned, order.index(dim)))
    turn.replace_all_uses_with(joined)
    return True


def _is_kept(node: fx.Node) -> bool:
    """Whether anything behind a node is kept."""
    seen, left = {node}, [node]
    while left:
        current = left.pop()
        if is_cache(current):
            return True
        left += [user for user in current.users if user not in seen]
        seen.update(current.users)
    return False


#: How channels are split into groups, and how groups are made channels again.
_SPLITS = ("view.default", "reshape.default")
_FLATTENS = (*_SPLITS, "flatten.using_ints")


def _where(node: fx.Node) -> str:
    return f"{module_path(node)}/{node.name}" if module_path(node) else node.name


def _shuffle_groups(node: fx.Node) -> tuple[fx.Node, int] | None:
    """(shuffled value, groups) of view -> transpose -> reshape, the usual spelling of a channel shuffle."""
    if op_name(node) == "channel_shuffle":
        return input_node(node), int(arguments(node)[1])
    if overload_name(node) not in _FLATTENS:
        return None
    swap = node.args[0]
    if not (isinstance(swap, fx.Node) and op_name(swap) == "transpose" and len(swap.users) == 1):
        if not (isinstance(swap, fx.Node) and op_name(swap) == "clone"):
            return None
        swap = swap.args[0]
        if not (isinstance(swap, fx.Node) and op_name(swap) == "transpose"):
            return None
    split = swap.args[0]
    if not (isinstance(split, fx.Node) and overload_name(split) in _SPLITS and len(split.users) == 1):
        return None
    source = input_node(split)
    before, middle = info(source).shape or (), info(split).shape or ()
    if sorted(int(d) % len(middle) for d in arguments(swap)[1:3]) != [1, 2]:
        return None
    fits = len(before) == 4 and info(node).shape == before and len(middle) == 5
    if not fits or (middle[0], *middle[3:]) != (before[0], *before[2:]):
        return None
    return source, middle[1]


def _is_shuffle(node: fx.Node) -> bool:
    return node.op == "call_function" and (_shuffle_groups(node) is not None or _is_permutation(node))


def _is_permutation(node: fx.Node) -> bool:
    """Whether the node is an ``index_select`` that puts all channels of a map in a constant order."""
    if op_name(node) != "index_select":
        return False
    bound = bind(node)
    shape = info(node).shape or ()
    same = len(shape) == 4 and shape == info(bound["self"]).shape and int(bound["dim"]) % 4 == 1
    return same and bound["index"].op == "get_attr" and not info(node).dense


def _order(program: Program, node: fx.Node) -> tuple[fx.Node, Tensor]:
    """(the shuffled value, the source channel of each result channel)."""
    found = _shuffle_groups(node)
    if found is None:
        bound = bind(node)
        return bound["self"], program.tensor(bound["index"]).cpu()
    return found[0], _interleaved((info(node).shape or ())[1], found[1])


def _interleaved(channels: int, groups: int) -> Tensor:
    return torch.arange(channels).view(groups, channels // groups).t().flatten()


def _plan_shuffle(program: Program, node: fx.Node, note: Notes) -> bool:
    source, order = _order(program, node)
    if not torch.equal(order.sort().values, torch.arange(order.numel())):
        return False
    parts: list[fx.Node] = list(arguments(source)[0]) if op_name(source) == "cat" else []
    if parts and len(source.users) == 1 and order.numel() % len(parts) == 0:
        sizes = {(info(p).shape or ())[1] for p in parts}
        dim = int(bind(source)["dim"]) % 4
        even = len(sizes) == 1 and dim == 1 and all(info(p).layout is not None for p in parts)
        if even and torch.equal(order, _interleaved(order.numel(), len(parts))):
            return _place(program, node, parts, 1, len(parts), note)
    return _fold_into_convolution(program, node, source, order, note)


def _fold_into_convolution(
    program: Program, node: fx.Node, source: fx.Node, order: Tensor, note: Notes
) -> bool:
    users = list(node.users)
    conv = users[0]
    if len(users) != 1 or op_name(conv) != "conv2d":
        note(_where(node), "channel shuffle copied: it is not read by one convolution alone")
        return False
    bound = bind(conv)
    weight = bound["weight"]
    if int(bound["groups"]) != 1 or weight.op != "get_attr" or len(weight.users) > 1:
        note(
            _where(node), "channel shuffle copied: the convolution after it is grouped or shares its weights"
        )
        return False
    old = program.tensor(weight)
    folded = torch.empty_like(old)
    folded[:, order.to(old.device)] = old
    constant = edit.add_constant(program, conv, f"{weight.target}_shuffled", folded)
    conv.args = (source, constant, *conv.args[2:])
    edit.touch(conv)
    return True


def _plan_concat(program: Program, node: fx.Node, note: Notes) -> bool:
    parts: list[fx.Node] = list(arguments(node)[0])
    layout, shape = info(node).layout, info(node).shape or ()
    dim = normal(int(bind(node)["dim"]), len(shape))
    if layout is None or dim in (layout.rows, layout.h, layout.w) or not info(node).is_spatial:
        return False
    if info(node).dense or any(info(p).layout is None for p in parts):
        note(_where(node), "concatenation copied: a part of it is a constant or computed densely")
        return False
    if any((info(p).shape or ())[dim] == 0 for p in parts):
        return False
    return _place(program, node, parts, dim, 1, note)


def _place(program: Program, node: fx.Node, parts: list[fx.Node], dim: int, step: int, note: Notes) -> bool:
    """Replace ``node`` by a planned concatenation of ``parts``, giving each its place."""
    with program.graph.inserting_before(node):
        made = program.graph.call_function(concat, (list(parts), _where(node)), {"dim": dim, "step": step})
    made.meta["module"] = node.meta.get("module", "")
    made.meta["value"] = info(node)
    if planned_slice(made) is None:
        made.args = (_give_places(program, made, parts, dim, step, note), made.args[1])
    node.replace_all_uses_with(made)
    return True


def _give_places(
    program: Program, made: fx.Node, parts: list[fx.Node], dim: int, step: int, note: Notes
) -> list[fx.Node]:
    buffer, start, placed = str(made.args[1]), 0, []
    grids = [_grid(part) for part in parts]
    common = grids[0] if all(g == grids[0] for g in grids) else ()
    for index, part in enumerate(parts):
        size = (info(part).shape or ())[dim]
        free = is_cache(part) and cache_option(part, "into") is None and cache_option(part, "kind") == "map"
        alike = not is_cache(part) or cache_option(part, "grid") == common
        if not free or part in placed or not alike or not _same_buffer_layout(part, made):
            why = _why_copied(part) if alike else "another part is kept on another grid, or on none"
            note(buffer, f"part {index} is copied where it changes: {why}")
            part = _copy(program, made, part, f"{buffer}/part{index}", common)
        edit.set_option(part, into=(buffer, start, step, dim))
        placed.append(part)
        start += 1 if step > 1 else size
    return placed


def _grid(node: fx.Node) -> tuple[Any, ...]:
    """The grid, of one scale, that a value lies on: a cache's own, a view's if all it shows lies on it."""
    if is_cache(node):
        grid = tuple(cache_option(node, "grid"))
        return grid if grid and grid[-1] < 0 else ()
    op = op_of(node)
    if op is None or op.role != "layout":
        return ()
    found = {_grid(source) for source in node.all_input_nodes}
    return found.pop() if len(found) == 1 else ()


def _why_copied(part: fx.Node) -> str:
    if not is_cache(part):
        return "it is a view of another buffer"
    if cache_option(part, "kind") != "map":
        return f"it is a value of kind {cache_option(part, 'kind')}"
    return "it already lies in another concatenation"


def _same_buffer_layout(part: fx.Node, made: fx.Node) -> bool:
    a, b = info(part).layout, info(made).layout
    if a is None or b is None:
        return False
    return a.extent(info(part).shape or ()) == b.extent(info(made).shape or ())


def _copy(program: Program, made: fx.Node, part: fx.Node, name: str, grid: tuple[Any, ...]) -> fx.Node:
    layout, value = info(part).layout, info(part)
    assert layout is not None  # checked by the caller
    options: dict[str, Any] = {
        "kind": "map" if value.is_spatial else "global",
        "layout": (layout.rows, layout.h, layout.w),
    }
    if layout.streams is not None:
        options["streams"] = layout.streams
    if grid:
        options["grid"] = grid
    with program.graph.inserting_before(made):
        cache = program.graph.call_function(delta_cache, (part, name), options)
    cache.meta["module"] = made.meta.get("module", "")
    cache.meta["value"] = value
    return cache
