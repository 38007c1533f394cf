"""What a call of a submodule leaves behind in the model, beside its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.capture.frames import copied
from videoeff.capture.keeping import content_of, same
from videoeff.capture.reachable import PLAIN, walk
from videoeff.ir.module import FORWARD_HOOKS


@contextmanager
def without_hooks(module: nn.Module) -> Iterator[None]:
    """Within the block the module's own forward hooks do not run; those of its submodules do."""
    held = vars(module)
    before = {name: held[name] for name in FORWARD_HOOKS if name in held}
    held.update({name: type(hooks)() for name, hooks in before.items()})
    try:
        yield
    finally:
        held.update(before)


def kept_by_call(
    root: nn.Module, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[str]:
    """The names of what one call of a submodule changes in the model around it.

    A stream calls the submodule's engine instead, which changes none of it. Buffers that were written in
    place are left out: an engine carries them.

    Args:
        root: the whole model.
        module: the submodule.
        args: positional arguments of the call, which should be another one than the last.
        kwargs: its keyword arguments.
    """
    own = {id(b) for b in module.buffers()}
    before = _marks(root)
    call = copied((tuple(args), dict(kwargs)))
    with torch.no_grad():
        module(*call[0], **call[1])
    after = _marks(root)
    return [n for n, mark in after.items() if not (n in before and _unchanged(before[n], mark, own))]


def _marks(model: nn.Module) -> dict[str, tuple[Any, int]]:
    """Plain values and tensors by name, each with the number of times a tensor was written."""
    found: dict[str, tuple[Any, int]] = {}
    for name, value in list(walk(model)):
        if isinstance(value, Tensor):
            found[name] = (value, 0 if value.is_inference() else value._version)
        elif not isinstance(value, (list, tuple)):
            for key, item in list((content_of(value) or {}).items()):
                if isinstance(item, PLAIN):
                    found[f"{name}.{key}"] = (item, 0)
    return found


def _unchanged(before: tuple[Any, int], after: tuple[Any, int], own: set[int]) -> bool:
    if before[0] is after[0]:
        return before[1] == after[1] or id(after[0]) in own
    return same(before[0], after[0])
