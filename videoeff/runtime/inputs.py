"""Check that a call fits a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.ir.program import Argument
from videoeff.runtime.signature import Signature, describe, describe_example


def check_call(
    name: str, leaves: Sequence[Any], spec: pytree.TreeSpec, expected: Signature, device: torch.device
) -> tuple[str, bool]:
    """Does a call fit the stream?

    Args:
        name: what to call the model.
        leaves: the call's flattened values.
        spec: their structure.
        expected: the call the stream was made for.
        device: where the stream lives.

    Returns:
        ("", False) if it does, else what is wrong with the fix, and whether only the size differs.
    """
    if spec != expected.in_spec:
        found = describe(*pytree.tree_unflatten(list(leaves), spec))
        return (
            f"{name}: called with {found}, but converted with {describe_example(expected)}; "
            "pass the same arguments, or convert with an example like this call",
            False,
        )
    position, problem = 0, ""
    for index, (value, literal) in enumerate(zip(leaves, expected.literals, strict=True)):
        where = f"{name}: argument {index}"
        if literal is Argument.TENSOR:
            if not isinstance(value, Tensor):
                kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
                fix = "use torch.from_numpy" if kind == "numpy.ndarray" else "pass a tensor as in the example"
                return f"{where} must be a tensor, it is {kind}; {fix}", False
            what, only_size = _check_frame(where, value, *expected.frame_specs[position], device)
            position += 1
            if what and not only_size:
                return what, False
            problem = problem or what
        elif isinstance(value, Tensor):
            return (
                f"{where} is a tensor, the example had {literal!r} there; convert with a tensor there",
                False,
            )
        elif not _equal(value, literal):
            return (
                f"{where} is {value!r}, the stream was converted for {literal!r}; "
                "convert again with this value",
                False,
            )
    return problem, bool(problem)


def _equal(value: Any, literal: Any) -> bool:
    return value is literal or (type(value) is type(literal) and bool(value == literal))


def _check_frame(
    where: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[str, bool]:
    if value.dtype != dtype:
        return f"{where} is {value.dtype}, the stream takes {dtype}; convert it with .to({dtype})", False
    if value.device.type != device.type or (value.is_cuda and value.device != device):
        return (
            f"{where} lies on {value.device}, the stream on {device}; move one of them with .to(...)",
            False,
        )
    found = tuple(value.shape)
    if found == shape:
        return "", False
    if len(found) != len(shape):
        return (
            f"{where} has {len(found)} dimensions {list(found)}, the stream takes {len(shape)} "
            f"{list(shape)}; add or drop the batch dimension",
            False,
        )
    if len(shape) >= 4 and found[0] != shape[0]:
        return (
            f"{where} has a batch of {found[0]}, the stream keeps {shape[0]} stream(s); "
            "convert with an example of this batch size",
            False,
        )
    channel = {3: 0, 4: 1, 5: 1}.get(len(shape))
    if channel is not None and found[channel] != shape[channel]:
        return (
            f"{where} has {found[channel]} channels {list(found)}, the stream takes {shape[channel]} "
            f"{list(shape)}; drop or add channels, or convert with an example like it",
            False,
        )
    return (
        f"{where} is {list(found)}, the stream was planned for {list(shape)}; resize the frame, "
        "convert again, or convert with on_resize='replan'",
        len(shape) >= 3,
    )
