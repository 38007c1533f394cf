"""Outputs that join buffers: these are kept one behind the other, so that the result is a view.

A detector's heads return maps of three sizes as one list of boxes: ``cat`` of (B, H W, C) views. Copied, that
list is often the largest thing that moves in a frame in which little changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videoeff.kernels.call import StateSpec
from videoeff.kernels.computation import Computation, FromRead, FromStep
from videoeff.ops.base import bound_arguments

_CAT = torch.ops.aten.cat.default

#: Operators whose results are views of their first argument, where it lies as they need it.
_VIEWS = frozenset(
    {
        torch.ops.aten.flatten.using_ints,
        torch.ops.aten.permute.default,
        torch.ops.aten.reshape.default,
        torch.ops.aten.squeeze.dim,
        torch.ops.aten.transpose.int,
        torch.ops.aten.unsqueeze.default,
        torch.ops.aten.view.default,
    }
)


def join(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``torch.cat``; a view where the tensors lie one behind the other in one memory as the result would.

    Args:
        tensors: of the same shape but for ``dim``.
        dim: the dimension they are joined along.
    """
    first = tensors[0]
    dim, end = dim % max(1, first.dim()), first.storage_offset()
    memory = first.untyped_storage().data_ptr()
    for tensor in tensors:
        at_end = tensor.untyped_storage().data_ptr() == memory and tensor.storage_offset() == end
        if not at_end or not _lies_alike(tensor, first, dim):
            return torch.cat(list(tensors), dim)
        end += tensor.shape[dim] * tensor.stride(dim)
    shape = list(first.shape)
    shape[dim] = sum(t.shape[dim] for t in tensors)
    return first.as_strided(shape, first.stride(), first.storage_offset())


def _lies_alike(tensor: Tensor, first: Tensor, dim: int) -> bool:
    if tensor.dtype != first.dtype or tensor.dim() != first.dim() or tensor.numel() == 0:
        return False
    axes = range(tensor.dim())
    if any(tensor.shape[i] != first.shape[i] for i in axes if i != dim):
        return False
    return all(tensor.stride(i) == first.stride(i) for i in axes if i == dim or tensor.shape[i] > 1)


def with_joins(outputs: Computation[tuple[Any, ...]]) -> Computation[tuple[Any, ...]]:
    """The same outputs, with :func:`join` for every concatenation of views of buffers."""
    steps = tuple(
        replace(step, function=join) if _sources(outputs, index) else step
        for index, step in enumerate(outputs.steps)
    )
    return replace(outputs, steps=steps)


def neighbours(
    outputs: Computation[tuple[Any, ...]], specs: Mapping[str, StateSpec]
) -> tuple[tuple[str, ...], ...]:
    """The buffers, by name, that concatenations join whole: those of each in order, every buffer once.

    Args:
        outputs: how the outputs are computed, as the model joins them.
        specs: the buffers by name.
    """
    found: list[tuple[str, ...]] = []
    taken: set[str] = set()
    for index in range(len(outputs.steps)):
        reads = [outputs.reads[i] for i in _sources(outputs, index)]
        names = [read.state for read in reads]
        whole = all(
            read.grid is None
            and (spec := specs[read.state]).parent is None
            and not spec.pixel_stride
            and spec.dtype == specs[names[0]].dtype
            and (read.part is None or read.part[1:] == (0, spec.shape[read.part[0]]))
            for read in reads
        )
        if whole and len(names) > 1 and len({*names, *taken}) == len(names) + len(taken):
            found.append(tuple(names))
            taken.update(names)
    return tuple(found)


def _sources(outputs: Computation[tuple[Any, ...]], index: int) -> tuple[int, ...]:
    """The reads that a step joins views of; none if it does anything else."""
    step = outputs.steps[index]
    if step.function is not _CAT:
        return ()
    parts = bound_arguments(step.function, step.args, step.kwargs)["tensors"]
    found = []
    for part in parts:
        while isinstance(part, FromStep) and outputs.steps[part.index].function in _VIEWS:
            part = outputs.steps[part.index].args[0]
        if not isinstance(part, FromRead):
            return ()
        found.append(part.index)
    return tuple(found)
