"""How a model is called: the form of the example's call, and the parameters by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from videoeff.ir.layout import info
from videoeff.ir.program import Argument, Program, arguments


class FrameSpec(NamedTuple):
    """Shape and dtype of one tensor of a call."""

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Signature:
    """The call a stream was made for.

    Attributes:
        in_spec: structure of the example's ``(args, kwargs)``.
        literals: the example's flattened values, ``Argument.TENSOR`` for tensors.
        frame_specs: shape and dtype of the tensors, in order.
    """

    in_spec: pytree.TreeSpec
    literals: tuple[Any, ...]
    frame_specs: tuple[FrameSpec, ...]

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
        """The signature of an example call."""
        leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
        literals = tuple(Argument.TENSOR if isinstance(v, Tensor) else v for v in leaves)
        return cls(spec, literals, tuple(FrameSpec(tuple(v.shape), v.dtype) for v in _tensors(leaves)))

    def call(self, frames: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call (args, kwargs) with these tensors in it."""
        tensors = iter(frames)
        leaves = [next(tensors) if v is Argument.TENSOR else v for v in self.literals]
        args, kwargs = pytree.tree_unflatten(leaves, self.in_spec)
        return tuple(args), dict(kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        return self  # nothing in it changes, and a literal may equal nothing but itself


@dataclass(frozen=True)
class OutputSignature:
    """What a model returns.

    Attributes:
        spec: structure of its outputs.
        literals: the flattened values, ``Argument.TENSOR`` for tensors.
        specs: shape and dtype of the tensors, in order.
    """

    spec: pytree.TreeSpec
    literals: tuple[Any, ...]
    specs: tuple[FrameSpec, ...]

    @classmethod
    def of(cls, program: Program) -> OutputSignature:
        """What an annotated Program returns."""
        flat, _ = program.parted(tuple(arguments(program.output)[0]))
        infos = [info(v) for v in flat if isinstance(v, fx.Node)]
        specs = tuple(FrameSpec(i.shape or (), i.dtype or torch.get_default_dtype()) for i in infos)
        literals = tuple(Argument.TENSOR if isinstance(v, fx.Node) else v for v in flat)
        return cls(program.out_spec, literals, specs)

    def outputs(self, tensors: Sequence[Tensor]) -> Any:
        """The outputs with these tensors in them."""
        given = iter(tensors)
        leaves = [next(given) if v is Argument.TENSOR else v for v in self.literals]
        return pytree.tree_unflatten(leaves, self.spec)


def _tensors(leaves: Sequence[Any]) -> list[Tensor]:
    return [v for v in leaves if isinstance(v, Tensor)]


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model's ``forward``.

    Attributes:
        names: those that may be passed by position, in order.
        defaults: default values by name, also of keyword-only parameters.
    """

    names: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Parameters:
        """The parameters of a function; none where they cannot be told, as with ``*args``."""
        try:
            found = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError):
            return cls()
        if any(p.kind is p.VAR_POSITIONAL for p in found):
            return cls()
        names = tuple(p.name for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        return cls(names, {p.name: p.default for p in found if p.default is not p.empty})

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary; defaults without a JSON form are left out."""
        plain = {k: v for k, v in self.defaults.items() if isinstance(v, (bool, int, float, str, type(None)))}
        return {"names": list(self.names), "defaults": plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Parameters:
        """What :meth:`to_json` wrote."""
        return cls(tuple(str(n) for n in value["names"]), dict(value["defaults"]))

    def arrange(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], spec: pytree.TreeSpec
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same call with its arguments placed as in the example.

        Keywords may come in any order, arguments by position or by name, and defaults may be written out.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            spec: structure of the example's ``(args, kwargs)``.

        Returns:
            The rearranged (args, kwargs), or the given ones where they are no such call.
        """
        known, keywords = pytree.tree_unflatten([None] * spec.num_leaves, spec)
        count = len(known)
        if not self.names or count > len(self.names) or len(args) > len(self.names):
            if len(args) == count and set(kwargs) == set(keywords):
                return args, {k: kwargs[k] for k in keywords}
            return args, dict(kwargs)
        given = dict(zip(self.names, args, strict=False))
        if set(given) & set(kwargs):
            return args, dict(kwargs)
        given |= kwargs
        wanted = [*self.names[:count], *keywords]
        for name in set(given) - set(wanted):
            if name not in self.defaults or not _same(given.pop(name), self.defaults[name]):
                return args, dict(kwargs)
        for name in wanted:
            if name not in given:
                if name not in self.defaults:
                    return args, dict(kwargs)
                given[name] = self.defaults[name]
        return tuple(given[n] for n in self.names[:count]), {k: given[k] for k in keywords}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return type(a) is type(b) and bool(a == b)


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call in a few words: ``(tensor, 1.0, mask=tensor)``."""
    parts = [*(_describe(v) for v in args), *(f"{k}={_describe(v)}" for k, v in kwargs.items())]
    return f"({', '.join(parts)})"


def _describe(value: Any) -> str:
    if isinstance(value, Tensor) or value is Argument.TENSOR:
        return "tensor"
    if isinstance(value, (list, tuple)) and len(value) <= 4:
        inner = ", ".join(_describe(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict) and len(value) <= 4:
        return "{" + ", ".join(f"{k!r}: {_describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (bool, int, float, str, type(None))):
        return repr(value)
    return type(value).__name__


def describe_example(signature: Signature) -> str:
    """The example's call in a few words."""
    return describe(*pytree.tree_unflatten(list(signature.literals), signature.in_spec))
