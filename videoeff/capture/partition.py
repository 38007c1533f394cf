"""Capture in parts: where a whole model cannot be exported, its largest submodules that can.

Detectors decide with the frame's values what to compute next, which no export follows. Their backbones,
pyramids and heads are plain networks. Those are captured one by one, each call of each module on its
own, and put back in the module's place; the rest runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from videoeff.analysis import is_convolution
from videoeff.capture.autocast import Autocast
from videoeff.capture.canonical import batch_of
from videoeff.capture.export import capture
from videoeff.capture.keeping import Keeper
from videoeff.capture.randomness import require_none
from videoeff.capture.side_effects import kept_by_call, without_hooks
from videoeff.errors import CaptureError
from videoeff.ir.program import Program

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Partition:
    """One call of one submodule, captured.

    Attributes:
        path: dotted path of the submodule.
        call: which of its calls in a frame.
        program: the captured Program.
    """

    path: str
    call: int
    program: Program


@dataclass(frozen=True)
class Partitioning:
    """A model in parts.

    Attributes:
        partitions: what was captured.
        left: what was not (its path), and why.
        convolution_macs: multiply-accumulates of all convolutions in one call.
    """

    partitions: tuple[Partition, ...]
    left: tuple[tuple[str, str], ...]
    convolution_macs: int


@dataclass
class _Calls:
    """The calls of one module in a frame: what it was given, its sizes, and the autocast around it."""

    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    shapes: list[list[tuple[int, ...] | str]] = field(default_factory=list)
    autocasts: list[Autocast] = field(default_factory=list)


def _shape_of(value: Any) -> tuple[int, ...] | str:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__


def streams_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The number of streams of a call: images in a list, or the batch."""
    for value in (*args, *kwargs.values()):
        if (
            isinstance(value, (list, tuple))
            and value
            and all(isinstance(v, Tensor) and v.ndim == 3 for v in value)
        ):
            return len(value)
    return batch_of(pytree.tree_leaves((list(args), dict(kwargs))))


def has_convolution(module: nn.Module) -> bool:
    """Whether a convolution lies inside the module."""
    return any(isinstance(m, _CONVOLUTIONS) or _convolves(m) for m in module.modules())


def _convolves(module: nn.Module) -> bool:
    """Whether a module that was made of an export calls a convolution."""
    graph = getattr(module, "graph", None)
    return isinstance(graph, fx.Graph) and any(is_convolution(n) for n in graph.nodes)


def convolution_macs(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Multiply-accumulates of all convolutions in one call, counted as they run."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*args, **kwargs)
    total = counter.get_flop_counts().get("Global", {})
    return sum(int(v) for k, v in total.items() if "conv" in str(k)) // 2


def _streams_seen(first: Mapping[str, _Calls], args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The number of streams; of a call without a batch, what the first submodule makes of it."""
    leaves = [v for v in pytree.tree_leaves((list(args), dict(kwargs))) if isinstance(v, Tensor)]
    listed = any(isinstance(v, (list, tuple)) for v in (*args, *kwargs.values()))
    if listed or any(v.ndim in (4, 5) for v in leaves):
        return streams_of(args, kwargs)
    inside = (v for path, calls in first.items() if path for v in pytree.tree_leaves(calls.inputs[0]))
    return next((int(v.shape[0]) for v in inside if isinstance(v, Tensor) and v.ndim == 4), 1)


def partition(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Partitioning:
    """Capture the largest submodules that export.

    Args:
        model: a module in evaluation mode.
        args: positional arguments of the example call.
        kwargs: its keyword arguments.

    Raises:
        CaptureError: nothing with a convolution could be captured; the reasons are listed.
    """
    total = convolution_macs(model, args, kwargs)
    first = _record(model, args, kwargs)
    streams = _streams_seen(first, args, kwargs)
    second = _record(model, *_disturbed(args, kwargs), keep=False)
    partitions: list[Partition] = []
    left: list[tuple[str, str]] = []

    seen: set[nn.Module] = set()

    def walk(path: str, module: nn.Module) -> bool:
        """Capture what can be below a module; whether anything was."""
        if not has_convolution(module) or module in seen:
            return False
        seen.add(module)
        reason = (
            "it is never called" if path not in first else _varies(first[path], second.get(path), streams)
        )
        if not reason and path:
            with without_hooks(module):
                reason = _capture_calls(path, module, first[path], partitions, model)
            if not reason:
                return True
        before = len(left)
        found = [walk(f"{path}.{n}" if path else n, child) for n, child in module.named_children()]
        if not any(found) and reason:
            del left[before:]
            left.append((path, reason))
        return any(found)

    walk("", model)
    if not partitions:
        why = "; ".join(f"{p}: {r}" for p, r in left[:4]) or "it holds no convolution module"
        raise CaptureError(f"{type(model).__name__}: no part of it could be captured ({why})")
    return Partitioning(tuple(partitions), tuple(left), total)


def _record(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], keep: bool = True
) -> dict[str, _Calls]:
    """The calls of every module with a convolution; their inputs as they were then, if ``keep``."""
    found: dict[str, _Calls] = {}
    copies: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    handles = []

    def kept(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        key = (id(value), value._version)  # a module may write into what it was given
        if key not in copies:
            copies[key] = (value, value.detach().clone())
        return copies[key][1]

    def hook(path: str) -> Callable[..., None]:
        def before(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            calls = found.setdefault(path, _Calls())
            calls.shapes.append([_shape_of(v) for v in pytree.tree_leaves((inputs, keywords))])
            calls.autocasts.append(Autocast.now())
            if keep:
                calls.inputs.append(pytree.tree_map(kept, (inputs, keywords)))

        return before

    for path, module in model.named_modules():
        if has_convolution(module):
            handles.append(module.register_forward_pre_hook(hook(path), with_kwargs=True))
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _disturbed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)

    def noise(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return torch.rand(value.shape, generator=generator).to(value.device, value.dtype)

    return pytree.tree_map(noise, (tuple(args), dict(kwargs)))  # type: ignore[no-any-return]


def _varies(calls: _Calls, again: _Calls | None, streams: int) -> str:
    """Why a module does not see pictures that change: "" if it does."""
    if again is None or len(again.shapes) != len(calls.shapes):
        return "the number of its calls depends on the frame"
    if calls.shapes != again.shapes:
        return "the number of things it looks at depends on the frame"
    for inputs in calls.inputs:
        for value in pytree.tree_leaves(inputs):
            if isinstance(value, Tensor) and value.ndim == 4 and value.shape[0] != streams:
                count = value.shape[0]
                return f"the number of things it looks at ({count}) is not the number of streams ({streams})"
    return ""


def _capture_calls(
    path: str, module: nn.Module, calls: _Calls, partitions: list[Partition], model: nn.Module
) -> str:
    """Capture every call of a module; the reason if one cannot be."""
    made = []
    for index, ((args, kwargs), autocast) in enumerate(zip(calls.inputs, calls.autocasts, strict=False)):
        with autocast.entered():
            if _writes(module, args, kwargs):
                return "it writes into what it is given"
            if index == 0 and (left := kept_by_call(model, module, *calls.inputs[-1])):
                return f"a call of it leaves something in {left[0]!r}"
            try:
                program = capture(module, args, kwargs, name=path)
                require_none(program)
                reason = _agrees(module, program, args, kwargs)
            except CaptureError as error:
                return str(error)
        if program.carried and len(calls.inputs) > 1:
            reason = f"it is called {len(calls.inputs)} times and changes {program.carried[0].name!r}"
        if reason:
            return reason
        made.append(Partition(path, index, program))
    partitions.extend(made)
    return ""


def _writes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call changes its arguments, which an export would not."""
    copies = pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, (args, kwargs))
    tensors = [v for v in pytree.tree_leaves(copies) if isinstance(v, Tensor)]
    before = [t._version for t in tensors]
    with torch.no_grad():
        module(*copies[0], **copies[1])
    return [t._version for t in tensors] != before


def _agrees(module: nn.Module, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    tensors = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    with torch.no_grad():
        expected = pytree.tree_leaves(module(*args, **kwargs))
        with Autocast().entered():  # its casts are in the program
            found = program.run(*tensors)
    for a, b in zip(expected, found, strict=True):
        if isinstance(a, Tensor) and a.dtype != b.dtype:
            return f"its export returns {b.dtype}, it returns {a.dtype}"
        if isinstance(a, Tensor) and not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True):
            return "its export does not compute what it computes"
    return ""


def changed_tensors(model: nn.Module, keeper: Keeper, found: Partitioning) -> tuple[str, ...]:
    """The buffers and parameters that calls of the model have changed, but those that captured parts carry.

    Raises:
        CaptureError: a captured part computes with one of them.
    """
    own = {f"{p.path}.{c.name}" for p in found.partitions for c in p.program.carried}
    changed = {id(tensor) for tensor in keeper.changed()}
    now = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    names = [n for n, t in now.items() if n not in own and (id(t) in changed or keeper.held.get(n) is not t)]
    for name in names:
        if any(name.startswith(f"{p.path}.") for p in found.partitions):
            raise CaptureError(
                f"{type(model).__name__}: its code writes into {name!r}, which a part that was captured "
                "computes with; write it before converting, or inside that part's own forward"
            )
    return tuple(names)


def begin_again(model: nn.Module, found: Partitioning) -> None:
    """Let the buffers that captured parts carry begin with the values that the model has now."""
    for part in found.partitions:
        module = model.get_submodule(part.path)
        with torch.no_grad():
            for carried, initial in zip(part.program.carried, part.program.initial(), strict=True):
                initial.copy_(module.get_buffer(carried.name))
