"""Small, safe edits of a Program's graph. Every new node keeps the module path of the one it serves."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.ir.layout import info, invalidate
from videoeff.ir.markers import cache_name, cache_option, is_cache, quantized
from videoeff.ir.program import Program, input_node, set_tensor


def call(program: Program, after: fx.Node, target: Any, args: tuple[Any, ...], **kwargs: Any) -> fx.Node:
    """A new call right behind ``after``, with its origin."""
    with program.graph.inserting_after(after):
        node = program.graph.call_function(target, args, kwargs)
    node.meta["module"] = after.meta.get("module", "")
    return node


def replace(old: fx.Node, new: fx.Node) -> None:
    """Let all users of ``old`` read ``new``, except ``new`` itself."""
    old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def add_constant(program: Program, before: fx.Node, path: str, tensor: Tensor) -> fx.Node:
    """A new constant under a path that is not taken yet, read in front of ``before``."""
    unique, count = path, 0
    while _has(program, unique):
        count += 1
        unique = f"{path}_{count}"
    set_tensor(program.module, unique, tensor)
    with program.graph.inserting_before(before):
        node = program.graph.create_node("get_attr", unique)
    node.meta["module"] = before.meta.get("module", "")
    return node


def _has(program: Program, path: str) -> bool:
    module: Any = program.module
    for part in path.split("."):
        module = getattr(module, part, None)
        if module is None:
            return False
    return True


def sweep(program: Program) -> bool:
    """Erase nodes nobody reads, and constants no node names; True if any went."""
    changed = False
    for node in reversed(list(program.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            program.graph.erase_node(node)
            changed = True
    program.module.delete_all_unused_submodules()
    named = {str(n.target) for n in program.nodes if n.op == "get_attr"}
    named |= {c.initial for c in program.carried}
    for path, _ in list(program.module.named_buffers(remove_duplicate=False)):
        if path not in named:
            *parents, leaf = path.split(".")
            module: Any = program.module
            for part in parents:
                module = getattr(module, part)
            del module._buffers[leaf]
    return changed


def set_option(cache: fx.Node, **options: Any) -> bool:
    """Set options of a ``delta_cache``; True if one of them is new."""
    changed = False
    for key, value in options.items():
        if cache.kwargs.get(key) != value:
            cache.kwargs = {**cache.kwargs, key: value}
            changed = True
    return changed


def touch(node: fx.Node) -> None:
    """Forget the facts of a node whose arguments changed, and of all that follows."""
    pending = [node]
    while pending:
        current = pending.pop()
        if current.op != "output" and "value" in current.meta:
            invalidate(current)
            pending.extend(current.users)


def caches(program: Program) -> Iterator[fx.Node]:
    """The ``delta_cache`` nodes in order."""
    return (n for n in program.nodes if is_cache(n))


def cache_by_name(program: Program) -> dict[str, fx.Node]:
    """The ``delta_cache`` nodes by layer name."""
    return {cache_name(n): n for n in caches(program)}


def rewrite_devices(program: Program, device: torch.device) -> None:
    """Let operators that name a device name this one."""

    def there(value: Any) -> Any:
        return device if isinstance(value, torch.device) else value

    for node in program.nodes:
        node.args = tuple(there(a) for a in node.args)
        node.kwargs = {k: there(v) for k, v in node.kwargs.items()}


def to_device(program: Program, device: torch.device) -> Program:
    """A copy of a Program whose constants lie on a device; the given one's stay where they are."""
    moved = program.clone()
    moved.module.to(device)
    rewrite_devices(moved, device)
    return moved


def drop_caches(program: Program, names: Collection[str]) -> Program:
    """A copy of a Program in which these values are no longer kept; on the grid that they have they stay."""
    left = program.clone()
    for name, cache in cache_by_name(left).items():
        if name in names:
            value = input_node(cache)
            if grid := cache_option(cache, "grid"):
                rounded = call(left, cache, quantized, (value, *grid))
                rounded.meta["value"] = info(cache)
                value = rounded
            cache.replace_all_uses_with(value)
            left.graph.erase_node(cache)
    left.module.recompile()
    return left
