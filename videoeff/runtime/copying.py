"""A copy of a model's code with other modules in it, whose weights lie in the original's memory."""

from __future__ import annotations

import copy
import functools
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import nn

from videoeff.errors import CaptureError

#: By the identity of an object of the original: what stands for it in the copy.
Memo = dict[int, Any]


def copy_with_shared_weights(
    model: nn.Module, instead: Mapping[nn.Module, nn.Module] | None = None
) -> nn.Module:
    """A copy of the module tree whose tensors lie in the original's memory.

    They are tensors of their own, so that moving or casting the copy leaves the original where it is. Hooks
    and patched forwards that close over a part of the original close over the copy's part instead.

    Args:
        model: the original.
        instead: for some of its submodules, what takes their place wherever the model holds them. Each gets
            the copy of the submodule as its ``original``.

    Raises:
        CaptureError: the model holds something that cannot be copied.
    """
    memo: Memo = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    places = instead or {}
    memo |= {id(original): place for original, place in places.items()}
    try:
        for original, place in places.items():
            del memo[id(original)]
            place.original = copy.deepcopy(original, memo)
            memo[id(original)] = place
        made = copy.deepcopy(model, memo)
        rebinding = _Rebinding(memo)
        for module in list(made.modules()):
            rebinding.attributes(module)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__}: it cannot be copied ({error}), which capturing it in parts needs; keep "
            "open files, locks and the like out of the model"
        ) from error
    return made


class _Rebinding:
    """Lets functions that close over parts of the original close over what stands for them.

    Args:
        memo: what stands for the parts, as ``copy.deepcopy`` left it.
    """

    def __init__(self, memo: Memo) -> None:
        self.memo = memo
        self._done: dict[int, tuple[Any, Any]] = {}
        self._cells: dict[int, tuple[types.CellType, types.CellType]] = {}

    def attributes(self, module: nn.Module) -> None:
        """Rebind the functions among a module's attributes: its hooks, and a forward that was patched."""
        held = vars(module)
        for key, value in list(held.items()):
            if isinstance(value, dict) and key.endswith("hooks"):
                for number, hook in list(value.items()):
                    value[number] = self.of(hook)
            elif isinstance(value, (types.FunctionType, functools.partial, list, dict, tuple)):
                held[key] = self.of(value)

    def of(self, value: Any) -> Any:
        """What stands for a value in the copy: itself, if it reaches nothing of the original."""
        if id(value) in self.memo and not isinstance(value, types.FunctionType):
            return self.memo[id(value)]
        if id(value) in self._done:
            return self._done[id(value)][1]
        self._done[id(value)] = (value, value)  # kept, so that its identity is not given away
        made = value
        if isinstance(value, types.FunctionType):
            made = self._function(value)
        elif isinstance(value, types.MethodType):
            owner, function = self.of(value.__self__), self.of(value.__func__)
            if owner is not value.__self__ or function is not value.__func__:
                made = types.MethodType(function, owner)
        elif isinstance(value, functools.partial):
            parts = [self.of(value.func), self.of(value.args), self.of(value.keywords)]
            if any(a is not b for a, b in zip(parts, (value.func, value.args, value.keywords), strict=True)):
                made = functools.partial(parts[0], *parts[1], **parts[2])
        elif type(value) in (list, tuple, deque):
            items = [self.of(v) for v in value]
            if any(a is not b for a, b in zip(items, value, strict=True)):
                made = type(value)(items)
        elif isinstance(value, dict):
            entries = {k: self.of(v) for k, v in value.items()}
            if any(entries[k] is not v for k, v in value.items()):
                made = copy.copy(value)
                made.update(entries)
        self._done[id(value)] = (value, made)
        return made

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        cells, changed = [], False
        for cell in function.__closure__ or ():
            try:
                inner = cell.cell_contents
            except ValueError:  # it is empty
                cells.append(cell)
                continue
            new = self.of(inner)
            if new is not inner:  # one cell for all functions that share it
                cell = self._cells.setdefault(id(cell), (cell, types.CellType(new)))[1]
            cells.append(cell)
            changed |= new is not inner
        defaults = self.of(function.__defaults__) if function.__defaults__ else function.__defaults__
        keyword_defaults = self.of(function.__kwdefaults__) if function.__kwdefaults__ else None
        changed |= defaults is not function.__defaults__
        changed |= keyword_defaults is not None and keyword_defaults is not function.__kwdefaults__
        if not changed:
            return function
        made = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, defaults, tuple(cells)
        )
        made.__kwdefaults__ = keyword_defaults
        made.__dict__.update(function.__dict__)
        made.__qualname__ = function.__qualname__
        return made
