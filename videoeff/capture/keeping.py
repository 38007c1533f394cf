"""Keep a model as it is while it is run and traced: remember all that it holds, and put it back."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from videoeff.capture.reachable import PLAIN, Variables, fields, walk

#: Bytes of the largest global tensor that is remembered; a model's own are remembered whatever their size.
_LARGEST_GLOBAL = 16 * 1024 * 1024

#: Where ``module.compile()`` leaves what it made; within a capture the module's own code runs.
_COMPILED = "_compiled_call_impl"

#: What is raised by a tensor without contents (a lazy or a meta one), or of a kind that does not compare.
_NO_CONTENTS = (RuntimeError, ValueError, NotImplementedError)

#: A value, what holds it and its key there; tensors are copies and have no holder.
Leaf = tuple[Any, Any, Any]


@contextmanager
def kept(model: nn.Module) -> Iterator[Keeper]:
    """Within the block the model may be run and traced; behind it, it is as before, attribute by attribute.

    So are PyTorch's, NumPy's and Python's random number generators, and whether gradients are recorded.
    """
    compiled = {
        m: vars(m).pop(_COMPILED) for m in list(model.modules()) if vars(m).get(_COMPILED) is not None
    }
    keeper = Keeper(model)
    grad, numbers = torch.is_grad_enabled(), (torch.get_rng_state(), random.getstate(), np.random.get_state())
    devices = torch.cuda.get_rng_state_all() if _uses_cuda() else None
    try:
        yield keeper
    finally:
        keeper.restore()
        for module, call in compiled.items():
            vars(module)[_COMPILED] = call
        torch.set_grad_enabled(grad)
        torch.set_rng_state(numbers[0])
        random.setstate(numbers[1])
        np.random.set_state(numbers[2])
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped


class Keeper:
    """What a model holds at one moment: attributes, buffers, parameters, containers, hooks and closures.

    What parameters held is copied only when :meth:`keep_parameters` asks for it: they are most of a model,
    and a trace writes none. They are put back where they were, whatever happens to the attribute.

    Args:
        model: the model. Global and class variables that its code names are remembered too.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        #: The model's parameters and buffers by path.
        self.held: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._tensors: list[_KeptTensor] = []
        self._arrays: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._contents: list[tuple[Any, Any]] = []
        for name, value in list(walk(model)):
            if isinstance(value, Tensor):
                if not name.startswith("global ") or value.nbytes <= _LARGEST_GLOBAL:
                    self._tensors.append(_KeptTensor(value))
                    if not isinstance(value, nn.Parameter) or value.is_inference():
                        self._tensors[-1].keep_contents()
            elif isinstance(value, np.ndarray):
                self._arrays.append((value, value.copy()))
            elif isinstance(value, (list, deque, set)):
                self._contents.append((value, set(value) if isinstance(value, set) else list(value)))
            elif (content := content_of(value)) is not None:
                self._contents.append((value, dict(content)))

    def keep_parameters(self) -> None:
        """Remember what parameters hold, too, before the model's code runs on them."""
        for kept_tensor in self._tensors:
            kept_tensor.keep_contents()

    def changed(self) -> list[Tensor]:
        """The tensors whose contents are no longer the same."""
        return [kept.tensor for kept in self._tensors if kept.changed]

    def restore(self) -> None:
        """Put everything back: the same objects, with the same contents."""
        for holder, content in self._contents:
            _refill(holder, content)
        for tensor in self._tensors:
            tensor.restore()
        for array, copy in self._arrays:
            if array.shape == copy.shape and array.tobytes() != copy.tobytes():
                array[...] = copy


class _KeptTensor:
    """A tensor, a copy of what it held, and the memory it lay in."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.requires_grad = tensor, tensor.requires_grad
        self.memory: Tensor | None = None
        self.copy: Tensor | None = None
        with contextlib.suppress(*_NO_CONTENTS):
            self.memory = tensor.detach()

    def keep_contents(self) -> None:
        """Copy what it holds, once."""
        if self.copy is None:
            with contextlib.suppress(*_NO_CONTENTS):
                self.copy = self.tensor.detach().clone()

    @property
    def changed(self) -> bool:
        """Whether it holds other values."""
        return self.copy is not None and not _surely_same(self.tensor, self.copy)

    def restore(self) -> None:
        """Put the contents back, if they changed."""
        tensor, memory, copy = self.tensor, self.memory, self.copy
        if memory is None:
            return
        with torch.inference_mode(tensor.is_inference()), torch.no_grad(), contextlib.suppress(*_NO_CONTENTS):
            if tensor.shape != memory.shape or tensor.data_ptr() != memory.data_ptr():
                tensor.data = memory
            if copy is not None and not _surely_same(tensor, copy):
                tensor.detach().copy_(copy)
        if tensor.requires_grad != self.requires_grad and tensor.is_leaf:
            tensor.requires_grad_(self.requires_grad)


def content_of(value: Any) -> Mapping[Any, Any] | None:
    """What an object holds, by key: its attributes, its items; None if it holds nothing that may change."""
    if isinstance(value, nn.Module):
        return vars(value)
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, deque)):
        return dict(enumerate(value))
    return fields(value)


def put(holder: Any, key: Any, value: Any) -> None:
    """Set one entry of what :func:`content_of` gives."""
    if isinstance(holder, nn.Module):
        vars(holder)[key] = value
    elif isinstance(holder, (dict, list, deque)):
        holder[key] = value
    elif isinstance(holder, Variables):
        holder.write(key, value)
    elif key in getattr(holder, "__dict__", ()):
        vars(holder)[key] = value
    else:
        object.__setattr__(holder, key, value)


def _refill(holder: Any, content: Any) -> None:
    if isinstance(holder, set):
        if holder != content:
            holder.clear()
            holder.update(content)
        return
    if isinstance(holder, (list, deque)):
        if len(holder) != len(content) or any(a is not b for a, b in zip(holder, content, strict=True)):
            holder.clear()
            holder.extend(content)
        return
    now = content_of(holder) or {}
    if isinstance(holder, dict) and list(now) != list(content):
        holder.clear()
        holder.update(content)
        return
    for key in [k for k in now if k not in content]:
        if isinstance(holder, nn.Module):
            del vars(holder)[key]
        elif isinstance(holder, Variables):
            holder.delete(key)
        else:
            delattr(holder, key)
    for key, value in content.items():
        if key not in now or now[key] is not value:
            put(holder, key, value)


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal: tensors by dtype, shape and elements, NaN being equal to NaN."""
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and (a is b or bool(a == b) or (a != a and b != b))
    if a.shape != b.shape or a.dtype != b.dtype or a.device != b.device:
        return False
    if torch.equal(a, b):
        return True
    if not a.is_floating_point() or a.is_quantized:
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _surely_same(tensor: Tensor, copy: Tensor) -> bool:
    try:
        return same(tensor, copy)
    except _NO_CONTENTS:  # of a kind that cannot be compared
        return True


def leaves(model: nn.Module, *, tensors: bool = True) -> dict[str, Leaf]:
    """The numbers, texts and tensors that a model holds, by name.

    Args:
        model: the model.
        tensors: whether to include copies of tensors, which have no holder.
    """
    found: dict[str, Leaf] = {}
    for name, value in list(walk(model)):
        if isinstance(value, Tensor):
            if tensors:
                found.setdefault(name, (value.detach().clone(), None, None))
            continue
        for key, item in list((content_of(value) or {}).items()):
            if isinstance(item, PLAIN) and not isinstance(item, (bytes, type(None))):
                found.setdefault(_leaf_name(name, value, key), (item, value, key))
    return found


def _leaf_name(name: str, holder: Any, key: Any) -> str:
    if isinstance(holder, (dict, list, deque)):
        return f"{name}[{key!r}]"
    if key == "cell_contents":
        return name
    return f"{name}.{key}" if name else str(key)


def differing(before: Mapping[str, Leaf], after: Mapping[str, Leaf]) -> list[str]:
    """The names of values that are not the same in two results of :func:`leaves`."""
    names = [*before, *(n for n in after if n not in before)]
    return [n for n in names if n not in before or n not in after or not same(before[n][0], after[n][0])]
