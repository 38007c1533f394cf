"""Engine: one captured network with its state. The only owner of stream buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from videoeff import rewrite
from videoeff.analysis import annotate
from videoeff.errors import StateError
from videoeff.lower import Plan, lower
from videoeff.ops.call import Context
from videoeff.ops.markers import cache_option
from videoeff.program import Program, StateSpec

Observer = Callable[[Context, tuple[Any, ...]], None]


@dataclass
class Activity:
    """Counts of one layer since the last reset of the report, frames after a stream's first only."""

    frames: int = 0
    pixels: int = 0
    active: int | Tensor = 0
    scheduled: int | Tensor = 0


@dataclass(frozen=True)
class EngineState:
    """A copy of an engine's state, as ``snapshot`` makes it."""

    tensors: Mapping[str, Tensor]
    fresh: tuple[bool, ...]


@dataclass
class Counts:
    """Frames seen and the activity of every layer."""

    frames: int = 0
    layers: dict[str, Activity] = field(default_factory=dict)


class Engine(nn.Module):
    """Runs one planned Program frame by frame.

    Args:
        program: the planned Program; its constants become this module's buffers.
        backend: "auto" or a backend's name.
    """

    def __init__(self, program: Program, backend: str = "auto") -> None:
        super().__init__()
        self.program = program
        self.backend = backend
        self.network = program.module
        self.plan: Plan = lower(program, backend)
        self.counts = Counts()
        self._fresh = [True] * program.streams
        self._state: dict[str, Tensor] = {}
        self.observer: Observer | None = None
        self.allocate()

    @property
    def device(self) -> torch.device:
        """Where the state lies."""
        return next((t.device for t in self.network.buffers()), torch.device("cpu"))

    def allocate(self) -> None:
        """Make all buffers anew and forget what they held. They are filled by the next frame."""
        self._state = allocate(self.plan.state, self.device)
        self.__dict__.pop("_storages", None)
        self._fresh = [True] * self.program.streams

    @property
    def state_bytes(self) -> int:
        """Bytes of all buffers."""
        return self.plan.state_bytes

    def step(self, frames: Sequence[Tensor]) -> tuple[Any, ...]:
        """One frame of every stream.

        Args:
            frames: the flattened tensor inputs, checked by the caller.

        Returns:
            The flat outputs; tensors may be views of the state.
        """
        any_fresh, all_fresh = any(self._fresh), all(self._fresh)
        fresh = torch.tensor(self._fresh, device=self.device) if any_fresh else self._settled()
        context = Context(
            frames=tuple(frames),
            state=self._state,
            constants=self._constants(),
            fresh=fresh,
            any_fresh=any_fresh,
            all_fresh=all_fresh,
            keep_active=self.observer is not None,
        )
        with torch.no_grad():
            outputs = self.plan.step(context)
        self._fresh = [False] * self.program.streams
        if not any_fresh:
            self._count(context)
        if self.observer is not None:
            self.observer(context, outputs)
        return outputs

    def _settled(self) -> Tensor:
        known = self.__dict__.get("_settled_flags")
        if known is None or known.device != self.device or known.numel() != self.program.streams:
            known = torch.zeros(self.program.streams, dtype=torch.bool, device=self.device)
            self.__dict__["_settled_flags"] = known
        return known  # type: ignore[no-any-return]

    def _constants(self) -> Mapping[str, Tensor]:
        known = self.__dict__.get("_constant_tensors")
        if known is None:
            known = dict(self.network.named_buffers(remove_duplicate=False))
            self.__dict__["_constant_tensors"] = known
        return known  # type: ignore[no-any-return]

    def _count(self, context: Context) -> None:
        self.counts.frames += 1
        layers = self.counts.layers
        for instruction in self.plan.instructions:
            call = instruction.call
            entry = layers.get(call.name)
            if entry is None:
                entry = layers[call.name] = Activity()
            rows, height, width = call.extent
            entry.frames += 1
            entry.pixels += rows * height * width
            entry.active = entry.active + context.active[call.name]
            entry.scheduled = entry.scheduled + context.scheduled.get(call.name, 0)

    def reset(self, stream: int | None = None) -> None:
        """Forget one stream, or all: its next frame is a first frame."""
        if stream is None:
            self._fresh = [True] * self.program.streams
        else:
            self._fresh[stream] = True

    def snapshot(self) -> EngineState:
        """A copy of the state."""
        owned = {s.name for s in self.plan.state if s.parent is None}
        tensors = {n: t.clone() for n, t in self._state.items() if n in owned}
        return EngineState(tensors, tuple(self._fresh))

    def restore(self, state: EngineState) -> None:
        """Continue from a snapshot.

        Raises:
            StateError: the snapshot is of another network, size or set of thresholds.
        """
        owned = {s.name: s for s in self.plan.state if s.parent is None}
        if set(owned) != set(state.tensors):
            odd = sorted(set(owned) ^ set(state.tensors))[0]
            raise StateError(f"the snapshot does not fit this stream: buffer {odd!r} is in only one of them")
        for name, tensor in state.tensors.items():
            if tuple(tensor.shape) != owned[name].shape:
                raise StateError(
                    f"the snapshot does not fit this stream: {name} is {list(tensor.shape)}, "
                    f"here {list(owned[name].shape)}; restore it into a stream of the same size and batch"
                )
        for name, tensor in state.tensors.items():
            self._state[name].copy_(tensor)
        self._fresh = list(state.fresh)

    def relower(self) -> None:
        """Lower again after options of the Program changed, keeping every buffer that still fits."""
        old = self.snapshot()
        self.plan = lower(self.program, self.backend)
        self._state = allocate(self.plan.state, self.device)
        self.__dict__.pop("_storages", None)
        for name, tensor in self._state.items():
            if name in old.tensors and old.tensors[name].shape == tensor.shape:
                tensor.copy_(old.tensors[name])
            elif name.endswith(".scale") and not all(old.fresh):
                from videoeff.kernels.reference.tests_of_change import scale_of

                layer = name.removesuffix(".scale")
                layout = next(i.call.layout for i in self.plan.instructions if i.call.name == layer)
                tensor.copy_(scale_of(self._state[f"{layer}.value"], layout))
            elif name.endswith(".pending"):
                tensor.zero_()
        self._fresh = list(old.fresh)

    def values(self) -> dict[str, Tensor]:
        """The values last propagated by layer name: the buffers themselves."""
        return {i.call.name: self._state[i.call.value.name] for i in self.plan.instructions}

    def storages(self) -> set[int]:
        """Addresses of the memory the buffers and constants lie in."""
        known = self.__dict__.get("_storages")
        if known is None:
            tensors = [*self._state.values(), *self.network.buffers()]
            known = {t.untyped_storage().data_ptr() for t in tensors}
            self.__dict__["_storages"] = known
        return known  # type: ignore[no-any-return]

    def set_option(self, layer: str, **options: Any) -> bool:
        """Set options of one layer's cache; call :meth:`relower` afterwards."""
        return rewrite.set_option(rewrite.cache_by_name(self.program)[layer], **options)

    def thresholds(self) -> dict[str, float]:
        """Thresholds by layer name, those that may be set."""
        found = {}
        for name, cache in rewrite.cache_by_name(self.program).items():
            if cache_option(cache, "kind") != "global" and cache_option(cache, "streams") is not None:
                found[name] = float(cache_option(cache, "threshold"))
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Engine:
        device, dtypes = self.device, [t.dtype for t in self.network.buffers()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.__dict__.pop("_constant_tensors", None)
        tensors = {n: fn(t) for n, t in self._state.items()}
        changed = [t.dtype for t in self.network.buffers()] != dtypes
        if changed:
            self._retype(fn)
        if changed or self.device != device:
            self._rewrite_devices()
            self.plan = lower(self.program, self.backend)
            fresh = list(self._fresh)
            self.allocate()
            for name, tensor in self._state.items():
                tensor.copy_(tensors[name])
            self._fresh = fresh
        return self

    def _retype(self, fn: Callable[[Tensor], Tensor]) -> None:
        for node in self.program.nodes:
            node.meta.pop("value", None)
            if node.op == "placeholder":
                shape, dtype = node.meta["input"]
                node.meta["input"] = (shape, fn(torch.empty(0, dtype=dtype)).dtype)
        annotate(self.program)

    def _rewrite_devices(self) -> None:
        for node in self.program.nodes:
            if isinstance(node.kwargs.get("device"), torch.device):
                node.kwargs = {**node.kwargs, "device": self.device}

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        program = self.program.clone()
        program.module._apply(lambda t: t.clone())  # type: ignore[no-untyped-call]
        twin = Engine(program, self.backend)
        twin.restore(self.snapshot())
        twin.counts = copy.deepcopy(self.counts)
        twin.training = self.training
        memo[id(self)] = twin
        return twin


def allocate(specs: Sequence[StateSpec], device: torch.device) -> dict[str, Tensor]:
    """Buffers for a plan's state: maps channels-last, slices as views of their parent, contents undefined."""
    state: dict[str, Tensor] = {}
    for spec in specs:
        if spec.parent is None:
            image = len(spec.shape) == 4 and spec.dtype.is_floating_point
            state[spec.name] = torch.empty(
                spec.shape,
                dtype=spec.dtype,
                device=device,
                memory_format=torch.channels_last if image else torch.contiguous_format,
            )
    for spec in specs:
        if spec.parent is not None and spec.channels is not None:
            dim, start, step = spec.channels
            key: list[slice] = [slice(None)] * len(spec.shape)
            key[dim] = slice(start, start + (spec.shape[dim] - 1) * step + 1, step)
            state[spec.name] = state[spec.parent][tuple(key)]
    return state
