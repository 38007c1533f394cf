"""The nesting of a call or an output as JSON: tuples, lists, dictionaries and named tuples of leaves."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Iterable
from typing import Any

import torch.utils._pytree as pytree

from videoeff.errors import ArtifactError
from videoeff.ir.program import Argument


class _Leaf:
    """A place in the structure."""


def spec_to_json(spec: pytree.TreeSpec, where: str) -> Any:
    """A structure as nested lists; None is a leaf.

    Raises:
        ArtifactError: it holds a class that has no file form.
    """
    return _to_json(pytree.tree_unflatten([_Leaf()] * spec.num_leaves, spec), where)


def _to_json(value: Any, where: str) -> Any:
    if isinstance(value, _Leaf):
        return None
    kind = type(value)
    if kind in (tuple, list):
        return [kind.__name__, *(_to_json(v, where) for v in value)]
    if kind in (dict, OrderedDict) and all(isinstance(k, (str, int, bool, type(None))) for k in value):
        return [kind.__name__, *([k, _to_json(v, where)] for k, v in value.items())]
    fields = getattr(value, "_fields", None)
    if isinstance(value, tuple) and fields is not None:
        return ["namedtuple", kind.__name__, list(fields), *(_to_json(v, where) for v in value)]
    raise ArtifactError(
        f"{where}: it takes or returns a {kind.__module__}.{kind.__qualname__}, which has no file form; use "
        "tensors, tuples, named tuples, lists and dictionaries"
    )


def spec_from_json(value: Any) -> pytree.TreeSpec:
    """The structure that :func:`spec_to_json` wrote; named tuples are made anew from name and fields.

    Raises:
        ValueError: it is none.
    """
    return pytree.tree_structure(_from_json(value))


def _from_json(value: Any) -> Any:
    if value is None:
        return 0
    if not isinstance(value, list) or not value:
        raise ValueError(f"{value!r} is no structure")
    kind, *rest = value
    if kind in ("tuple", "list"):
        inner = [_from_json(v) for v in rest]
        return tuple(inner) if kind == "tuple" else inner
    if kind in ("dict", "OrderedDict"):
        pairs = [(k, _from_json(v)) for k, v in rest]
        return dict(pairs) if kind == "dict" else OrderedDict(pairs)
    if kind == "namedtuple":
        name, fields, *inner = rest
        return namedtuple(str(name), [str(f) for f in fields])(*(_from_json(v) for v in inner))
    raise ValueError(f"{kind!r} is no kind of structure")


def literals_to_json(literals: Iterable[Any], where: str) -> list[Any]:
    """The values an example had, ``{"tensor": true}`` for tensors.

    Raises:
        ArtifactError: one of them has no file form.
    """
    found: list[Any] = []
    for value in literals:
        if value is Argument.TENSOR:
            found.append({"tensor": True})
        elif isinstance(value, (bool, int, float, str, type(None))):
            found.append(value)
        else:
            raise ArtifactError(
                f"{where}: an argument of type {type(value).__name__} was fixed at conversion and has no "
                "file form; pass plain numbers or strings"
            )
    return found


def literals_from_json(values: Iterable[Any]) -> tuple[Any, ...]:
    """What :func:`literals_to_json` wrote."""
    return tuple(Argument.TENSOR if isinstance(v, dict) else v for v in values)
