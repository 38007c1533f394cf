"""Frames at the border: do they fit, are they finite, whose are the outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from videoeff.errors import StateError


def describe_structure(spec: pytree.TreeSpec) -> str:
    """The call's structure in a few words."""
    leaves = spec.num_leaves
    return f"{leaves} value(s)" if leaves != 1 else "one value"


def check_frames(
    name: str,
    leaves: Sequence[Any],
    spec: pytree.TreeSpec,
    expected_spec: pytree.TreeSpec,
    literals: Sequence[Any],
    frames: Sequence[tuple[tuple[int, ...], torch.dtype]],
    device: torch.device,
) -> tuple[str, bool]:
    """Does a call fit the stream?

    Returns:
        ("", False) if it does, else what is wrong with the fix, and whether only the size differs.
    """
    if spec != expected_spec:
        return (
            f"{name}: the call has another structure than the example it was converted with "
            f"({describe_structure(spec)} instead of {describe_structure(expected_spec)}); "
            "pass the same arguments, or convert with an example like this call",
            False,
        )
    position, resized, problem = 0, False, ""
    for index, (value, literal) in enumerate(zip(leaves, literals, strict=True)):
        if not isinstance(value, Tensor):
            if isinstance(literal, Tensor) or (literal is None and value is not None):
                return f"{name}: argument {index} must be a tensor, it is {type(value).__name__}", False
            if value != literal:
                return (
                    f"{name}: argument {index} is {value!r}, the stream was converted for {literal!r}; "
                    "convert again with this value",
                    False,
                )
            continue
        if position >= len(frames):
            return f"{name}: argument {index} must not be a tensor; the example had {literal!r} there", False
        what, only_size = _check_frame(name, index, value, *frames[position], device)
        position += 1
        if what and not only_size:
            return what, False
        problem, resized = problem or what, resized or only_size
    return problem, resized


def _check_frame(
    name: str, index: int, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[str, bool]:
    where = f"{name}: argument {index}"
    if value.ndim != len(shape):
        return (
            f"{where} has {value.ndim} dimensions {list(value.shape)}, the stream takes {len(shape)} "
            f"{list(shape)}; add or drop the batch dimension",
            False,
        )
    if value.dtype != dtype:
        return f"{where} is {value.dtype}, the stream takes {dtype}; convert it with .to({dtype})", False
    if value.device.type != device.type or (value.is_cuda and value.device != device):
        return (
            f"{where} lies on {value.device}, the stream on {device}; move one of them with .to(...)",
            False,
        )
    if tuple(value.shape) == shape:
        return "", False
    if value.shape[0] != shape[0]:
        return (
            f"{where} has a batch of {value.shape[0]}, the stream keeps {shape[0]} stream(s); "
            "convert with an example of this batch size",
            False,
        )
    if len(shape) >= 4 and value.shape[1] != shape[1]:
        return f"{where} has {value.shape[1]} channels, the stream takes {shape[1]}", False
    return (
        f"{where} is {list(value.shape)}, the stream was planned for {list(shape)}; resize the frame, "
        "convert again, or convert with on_resize='replan'",
        True,
    )


class FiniteCheck:
    """Raises on NaN or infinity: at once on the CPU, as soon as the flag has arrived on CUDA."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Tensor, int]] = []
        self._frame = 0

    def check(self, frames: Sequence[Tensor], name: str) -> None:
        """Check one frame.

        Raises:
            StateError: it, or on CUDA an earlier one, holds NaN or infinity.
        """
        self._frame += 1
        self._arrived(name)
        for index, frame in enumerate(frames):
            if not frame.is_floating_point():
                continue
            # The sum is NaN or infinite iff an element is (or the sum overflows: then look closely).
            if frame.is_cuda:
                flag = torch.empty((), dtype=torch.bool, pin_memory=True)
                flag.copy_(torch.isfinite(frame).all(), non_blocking=True)
                event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
                self._waiting.append((event, flag, self._frame))
            elif not bool(torch.isfinite(frame.sum())) and not bool(torch.isfinite(frame).all()):
                raise StateError(_not_finite(name, index, frame))

    def _arrived(self, name: str) -> None:
        while self._waiting and self._waiting[0][0].query():
            _, flag, number = self._waiting.pop(0)
            if not bool(flag):
                self._waiting.clear()
                raise StateError(
                    f"{name}: frame {number} of this stream held NaN or infinity; call reset(), and clean "
                    "the frames or use nan_policy='recompute'"
                )


def _not_finite(name: str, index: int, frame: Tensor) -> str:
    bad = torch.nonzero(~torch.isfinite(frame))
    first = [int(i) for i in bad[0]]
    return (
        f"{name}: argument {index} holds NaN or infinity at {len(bad)} element(s), the first at {first}; "
        "the stream is as it was before this frame; clean the frame or use nan_policy='recompute'"
    )


def own(values: Any, storages: set[int]) -> Any:
    """The values with every tensor that lies in one of ``storages`` copied."""

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in storages:
            return value.clone()
        return value

    return pytree.tree_map(copied, values)
