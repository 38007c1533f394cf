"""What the code around captured parts changes: state of the stream, like the buffers that the parts carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.errors import StateError
from videoeff.runtime.carried import CarriedBuffer
from videoeff.runtime.moving import Move

_Place = tuple[dict[str, Any], str]


class OutsideState:
    """Buffers and parameters of a copied model that its code writes, with the values they began with.

    Args:
        model: the copy; it gets tensors of its own for them.
        names: their dotted paths in it.
        streams: entries of a batch, all of which share them.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], streams: int) -> None:
        self.names, self._streams = tuple(names), streams
        self._places = [_place(model, name) for name in names]
        self._initial = [held[key] for held, key in self._places]
        self.reset()

    @property
    def buffers(self) -> tuple[CarriedBuffer, ...]:
        """What is carried."""
        return tuple(
            CarriedBuffer(name, tuple(t.shape), self._streams > 1, t.nbytes)
            for name, t in zip(self.names, self._initial, strict=True)
            if t is not None
        )

    @property
    def initial(self) -> dict[str, Tensor]:
        """The values they began with, by path."""
        return {n: t for n, t in zip(self.names, self._initial, strict=True) if t is not None}

    def check_reset(self, stream: int | None) -> None:
        """Whether one stream's values may begin anew.

        Raises:
            StateError: the batch shares a buffer; named.
        """
        if stream is not None and self.names and self._streams > 1:
            raise StateError(
                f"stream {stream} cannot be reset alone: the model's code changes the buffer "
                f"{self.names[0]!r}, which all {self._streams} entries of the batch share; reset() resets "
                "all of them"
            )

    def reset(self) -> None:
        """Let all values be those they began with."""
        with torch.no_grad():
            for place, initial in zip(self._places, self._initial, strict=True):
                _fill(place, initial)

    def values(self) -> list[Tensor]:
        """The values: themselves."""
        return [held[key] for held, key in self._places if held[key] is not None]

    def copies(self) -> dict[str, Tensor]:
        """Copies of the values by path."""
        values = {n: held[k] for n, (held, k) in zip(self.names, self._places, strict=True)}
        return {n: t.detach().clone() for n, t in values.items() if t is not None}

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`copies` gave."""
        for name, place in zip(self.names, self._places, strict=True):
            _fill(place, values.get(name))

    def move(self, move: Move) -> None:
        """Move or cast the values they began with."""
        self._initial = [None if t is None else move(t) for t in self._initial]


def _place(model: nn.Module, name: str) -> _Place:
    path, _, key = name.rpartition(".")
    owner = model.get_submodule(path)
    return (owner._parameters if key in owner._parameters else owner._buffers), key


def _fill(place: _Place, value: Tensor | None) -> None:
    """Put a copy of a value, of the kind that stands there: the model may write into it."""
    held, key = place
    made = None if value is None else value.detach().clone()
    before = held[key]
    if made is not None and isinstance(before, nn.Parameter):
        made = nn.Parameter(made, requires_grad=before.requires_grad)
    held[key] = made
