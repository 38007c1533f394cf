"""A model is captured in the state it has when it has seen a frame: caches filled, buffers as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.capture.frames import calls, copied
from videoeff.capture.keeping import content_of, same
from videoeff.capture.reachable import PLAIN, walk


class Noticed:
    """What a forward has changed in the model, as far as it is no buffer. Called as a hook behind it.

    Attributes:
        names: the attributes, items and variables it changed.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._before: Mapping[str, Any] = {}

    def begin(self, model: nn.Module) -> None:
        """What is changed from now on counts."""
        self._before = identities(model)

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Look at a model whose forward has ended."""
        self.names = differ(self._before, identities(module))


@contextmanager
def noticing(model: nn.Module) -> Iterator[Noticed]:
    """Within the block, notice what the next call of the model (or its trace) changes in it."""
    noticed = Noticed()
    if isinstance(model, torch.jit.ScriptModule):  # it takes no hooks
        yield noticed
        return
    handle = model.register_forward_hook(noticed)
    noticed.begin(model)
    try:
        yield noticed
    finally:
        handle.remove()


def identities(model: nn.Module) -> dict[str, Any]:
    """Plain values and tensors that a model holds, by name, but no parameters, buffers and hooks."""
    held = {id(d) for m in model.modules() for d in (m._parameters, m._buffers, m._forward_hooks)}
    found: dict[str, Any] = {}
    for name, value in list(walk(model)):
        if id(value) in held or isinstance(value, Tensor):
            continue
        for key, item in list((content_of(value) or {}).items()):
            if isinstance(item, (*PLAIN, Tensor)):
                found[f"{name}.{key}"] = item
    return found


def differ(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The names of what is not the same in two results of :func:`identities`."""
    names = [*before, *(n for n in after if n not in before)]
    return [n for n in names if n not in before or n not in after or not _is(before[n], after[n])]


def _is(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a is b
    return same(a, b)


@dataclass(frozen=True)
class _Buffer:
    module: nn.Module
    name: str
    tensor: Tensor
    value: Tensor

    @property
    def now(self) -> Tensor | None:
        return self.module._buffers.get(self.name)

    def put_back(self) -> None:
        self.module._buffers[self.name] = self.tensor
        with torch.no_grad():
            self.tensor.copy_(self.value)


def settle(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Run the example, so that what the model remembers of a frame's size (a grid) is there and fits.

    What it remembers of the frames themselves in buffers is put back, since a stream carries that: buffers
    that a second, other frame changes once more.

    Args:
        model: the model, whose attributes are put back by whoever calls this.
        args: positional arguments of the example.
        kwargs: its keyword arguments.

    Returns:
        Whether anything but carried buffers has changed.
    """
    start = identities(model)
    before = [
        _Buffer(module, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    call = copied((tuple(args), dict(kwargs)))
    with torch.no_grad():
        model(*call[0], **call[1])
    settled = bool(differ(start, identities(model)))
    changed = [b for b in before if not same(b.now, b.value)]
    if not changed:
        return settled
    once = [b.now.detach().clone() if b.now is not None else None for b in changed]
    call = copied(next(calls(args, kwargs)))
    with torch.no_grad():
        model(*call[0], **call[1])
    for buffer, value in zip(changed, once, strict=True):
        now = buffer.now
        if not same(now, value) and now is not None and now.shape == buffer.value.shape:
            buffer.put_back()
        elif now is not None:  # in memory of its own, as the model's is put back later
            buffer.module._buffers[buffer.name] = now.detach().clone()
            settled = True
    return settled


def own_parameters(model: nn.Module, changed: Sequence[Tensor]) -> None:
    """Give the model copies of the parameters that its forward writes: a stream writes these, not the user's.

    Args:
        model: the model, whose attributes are put back by whoever calls this.
        changed: tensors that its forward has changed.
    """
    written = {id(tensor) for tensor in changed}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in written:
                own = parameter.detach().clone()
                module._parameters[name] = nn.Parameter(own, requires_grad=parameter.requires_grad)
