"""A model is captured in the state that it has when it has seen a frame: caches filled, buffers as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videoeff.capture.frames import calls, copied
from videoeff.capture.keeping import same


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


def settle(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Run the example, so that what the model remembers of a frame's size (a grid) is there and fits.

    What it remembers of the frames themselves in buffers is put back, since a stream carries that: buffers
    that a second, other frame changes once more.

    Args:
        model: the model, whose attributes are put back by whoever calls this.
        args: positional arguments of the example.
        kwargs: its keyword arguments.
    """
    before = [
        _Buffer(module, name, tensor, tensor.detach().clone())
        for module in model.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    call = copied((tuple(args), dict(kwargs)))
    with torch.no_grad():
        model(*call[0], **call[1])
    changed = [b for b in before if not same(b.now, b.value)]
    if not changed:
        return
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
