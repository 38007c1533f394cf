"""Everything that a model holds: through its attributes, containers, hooks and closures."""

from __future__ import annotations

import functools
import sys
import types
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

#: Where looking ends: a model that holds a whole application is not searched to its last object.
_MOST = 200_000

PLAIN = (bool, int, float, complex, str, bytes, type(None))

# Classes of the standard library that are used to hold values; all others are left alone.
_HOLDERS = frozenset({"types.SimpleNamespace", "argparse.Namespace"})


def walk(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module, tensor, container, function and object that a model holds, each once, with a name.

    The variables of its classes, and the global variables that its code names, are found too: as
    :class:`Variables`.

    Args:
        model: the outermost module.

    Yields:
        A name such as ``head.cache['grid']``, and the object. What is plain (numbers, text) is found in the
        object that holds it.
    """
    seen: set[int] = set()
    spaces: dict[int, Variables] = {}
    queue: deque[tuple[str, Any]] = deque([("", model)])
    while queue and len(seen) < _MOST:
        name, value = queue.popleft()
        if id(value) in seen or isinstance(value, PLAIN):
            continue
        seen.add(id(value))
        yield name, value
        queue.extend(children(name, value))
        if isinstance(value, types.FunctionType):
            queue.extend(_named_globals(value, spaces))
        elif isinstance(value, nn.Module):
            queue.extend(_of_classes(value, spaces))


def _of_classes(module: nn.Module, spaces: dict[int, Variables]) -> Iterator[tuple[str, Any]]:
    """The functions and variables of a module's classes, those of PyTorch left out."""
    for kind in type(module).__mro__:
        if id(kind) in spaces or _is_foreign(kind.__module__):
            continue
        spaces[id(kind)] = Variables(kind)
        spaces[id(kind)].names.update(k for k, v in vars(kind).items() if k[:2] != "__" and is_data(v))
        yield kind.__name__, spaces[id(kind)]
        functions = [f for f in vars(kind).values() if isinstance(f, types.FunctionType)]
        yield from ((kind.__name__, function) for function in functions)


def _named_globals(function: types.FunctionType, spaces: dict[int, Variables]) -> Iterator[tuple[str, Any]]:
    """The global variables that a function's code names, and the functions beside it that it names."""
    if _is_foreign(function.__module__ or ""):
        return
    names = function.__globals__
    if id(names) not in spaces:
        spaces[id(names)] = Variables(names)
    for key in _names_of(function.__code__):
        value = names.get(key)
        if isinstance(value, types.FunctionType):
            yield key, value
        elif key in names and key[:2] != "__" and is_data(value):
            spaces[id(names)].names.add(key)
            yield f"global {key}", value
    yield "global", spaces[id(names)]


def _names_of(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*(_names_of(c) for c in inner))


def _is_foreign(module: str) -> bool:
    top = module.partition(".")[0]
    return top in ("torch", "numpy", "videoeff") or (top in sys.stdlib_module_names and top != "__main__")


def has_function_caches(model: nn.Module) -> bool:
    """Whether code of the model calls functions whose results ``functools.lru_cache`` remembers."""
    found: list[Any] = []
    for _, value in walk(model):
        if isinstance(value, Variables) and isinstance(value.owner, type):
            found += vars(value.owner).values()
        elif isinstance(value, types.FunctionType) and not _is_foreign(value.__module__ or ""):
            names = _names_of(value.__code__)
            held = [value.__globals__[n] for n in names if n in value.__globals__]
            modules = [m for m in held if isinstance(m, types.ModuleType) and not _is_foreign(m.__name__)]
            found += held + [vars(m)[n] for m in modules for n in names if n in vars(m)]
    return any(isinstance(v, functools._lru_cache_wrapper) and not _is_foreign(v.__module__) for v in found)


def children(name: str, value: Any) -> Iterable[tuple[str, Any]]:
    """What an object holds, by name."""
    if isinstance(value, nn.Module):
        return _of_module(name, value)
    if isinstance(value, dict):
        return [(f"{name}[{k!r}]", v) for k, v in list(value.items())]
    if isinstance(value, (list, tuple, deque)):
        return [(f"{name}[{i}]", v) for i, v in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(f"{name}{{}}", v) for v in value]
    if isinstance(value, types.MethodType):
        return [(name, value.__self__), (name, value.__func__)]
    if isinstance(value, functools.partial):
        return [(name, value.func), (name, value.args), (name, value.keywords)]
    if isinstance(value, types.FunctionType):
        return _of_function(name, value)
    held = fields(value)
    return [] if held is None else [(f"{name}.{k}", v) for k, v in held.items()]


def _of_module(name: str, module: nn.Module) -> Iterator[tuple[str, Any]]:
    for key, value in list(vars(module).items()):
        if key in ("_parameters", "_buffers", "_modules"):
            yield f"{name}({key})", value
            yield from ((_join(name, str(k)), v) for k, v in list(value.items()))
        elif value is not None:
            yield _join(name, key), value


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _of_function(name: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        yield f"{name}:{variable}", cell
    yield from ((name, v) for v in function.__defaults__ or ())
    yield from ((f"{name}:{k}", v) for k, v in (function.__kwdefaults__ or {}).items())
    wrapped = vars(function).get("__wrapped__")
    if wrapped is not None:
        yield name, wrapped


def fields(value: Any) -> dict[str, Any] | None:
    """The attributes of an object of a user's class; None for all else, which is left alone."""
    if isinstance(value, types.CellType):
        try:
            return {"cell_contents": value.cell_contents}
        except ValueError:  # it is empty
            return {}
    kind = type(value)
    if isinstance(value, Variables):
        return value.read()
    if _is_foreign(kind.__module__) and f"{kind.__module__}.{kind.__qualname__}" not in _HOLDERS:
        return None
    if isinstance(value, (type, types.ModuleType)):
        return None
    held = dict(getattr(value, "__dict__", {}))
    for slot in (s for c in kind.__mro__ for s in _slots(c)):
        if hasattr(value, slot):
            held[slot] = getattr(value, slot)
    return held


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(s for s in names if s not in ("__dict__", "__weakref__") and not s.startswith("__"))


def is_data(value: Any) -> bool:
    """Whether a value may be what a forward remembers, and no function, class or module."""
    return isinstance(value, (*PLAIN, Tensor, np.ndarray, dict, list, tuple, set, deque))


class Variables:
    """Variables of a class or of a Python module.

    Args:
        owner: a class, or the dictionary of a module's global variables.
    """

    def __init__(self, owner: type | dict[str, Any]) -> None:
        self.owner = owner
        #: Those that are looked at.
        self.names: set[str] = set()

    def read(self) -> dict[str, Any]:
        """Their values."""
        held = self.owner if isinstance(self.owner, dict) else vars(self.owner)
        return {k: held[k] for k in sorted(self.names) if k in held}

    def write(self, name: str, value: Any) -> None:
        """Set one."""
        if isinstance(self.owner, dict):
            self.owner[name] = value
        else:
            setattr(self.owner, name, value)

    def delete(self, name: str) -> None:
        """Take one away."""
        if isinstance(self.owner, dict):
            self.owner.pop(name, None)
        else:
            delattr(self.owner, name)
