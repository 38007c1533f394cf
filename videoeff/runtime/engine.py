"""Engine: one captured network with its state. The only owner of stream buffers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.errors import CaptureError, StateError
from videoeff.ir import edit
from videoeff.ir.markers import cache_option
from videoeff.ir.program import Argument, Program
from videoeff.kernels import NotFinite
from videoeff.kernels.call import Context
from videoeff.kernels.change_test import scale_of
from videoeff.kernels.host import OutputMemory, warn_if_slow
from videoeff.lowering.buffers import allocate, device_of
from videoeff.lowering.choose import Answers
from videoeff.lowering.lower import lower
from videoeff.lowering.plan import Plan
from videoeff.runtime.carried import CarriedState
from videoeff.runtime.counts import Counts
from videoeff.runtime.engine_state import EngineState
from videoeff.runtime.events import Recorder
from videoeff.runtime.freezing import Freezer
from videoeff.runtime.moving import retype, sharing
from videoeff.runtime.outputs import owned
from videoeff.runtime.outside import OutsideState
from videoeff.runtime.signature import FrameSpec, OutputSignature, Signature

Observer = Callable[[Context, tuple[Any, ...]], None]


class Engine(nn.Module):
    """Runs one planned Program frame by frame: the body of a stream, or of one partition of a model.

    Args:
        program: the planned Program; its constants become this module's buffers.
        backend: "auto" or a backend's name.
        plan: what it was lowered to; None: it is lowered here.
    """

    #: What of the model runs as it is: a Program is captured whole.
    left: tuple[tuple[str, str], ...] = ()
    eager: tuple[tuple[str, str], ...] = ()
    idle: tuple[str, ...] = ()
    outside = OutsideState(nn.Module(), (), 1)
    freezer: Freezer | None = None  # its inputs keep the pixels that are ignored

    def __init__(self, program: Program, backend: str = "auto", plan: Plan | None = None) -> None:
        super().__init__()
        self.program = program
        self.backend = backend
        self.network = program.module
        if backend == "auto" and device_of(self.network).type == "cpu":
            warn_if_slow()
        self._common = False  # whether twins have the same Program
        self.answers = Answers()  # what backends said of the regions, until their structure changes
        self.plan: Plan = plan or lower(program, backend, self.answers)
        self.memory = OutputMemory(2 * program.out_spec.num_leaves)
        self.counts = Counts()
        self.recorder = Recorder()
        self._observer: Observer | None = None
        self._state: dict[str, Tensor] = {}
        with torch.inference_mode(False), torch.no_grad():
            #: What the model itself carries from frame to frame.
            self.carried = CarriedState(program)
        self.allocate()
        self.register_load_state_dict_post_hook(_forget_after_loading)  # type: ignore[no-untyped-call]

    def allocate(self) -> None:
        """Make all buffers anew and forget what they held. They are filled by the next frame."""
        self._fresh = [True] * self.program.streams
        self._state = allocate(self.plan.state, device_of(self.network), neighbours=self.plan.neighbours)
        self._bind()

    def _bind(self) -> None:
        """Look up once what every frame needs; after every change of the plan, the buffers or the weights."""
        self.device = device_of(self.network)  # where the state lies
        with torch.inference_mode(False):
            self._settled = torch.zeros(self.program.streams, dtype=torch.bool, device=self.device)
        self._constants: Mapping[str, Tensor] = dict(self.network.named_buffers(remove_duplicate=False))
        tensors = [*self._state.values(), *self._constants.values()]
        self.storages = {t.untyped_storage().data_ptr() for t in tensors}  # memory that outputs may lie in
        self._grids = {spec.name: spec.grid for spec in self.plan.state if spec.grid is not None}
        bounds = [i.call.bound for i in self.plan.instructions if i.call.bound is not None]
        sweeps = {len(b.sweep) - 1 for b in bounds if b.sweep}
        #: Where each stream is in the sweeps of a bounded reach, and after how many frames all begin anew.
        self._phase = next((self._state[b.phase] for b in bounds if b.sweep), None)
        self._period = math.lcm(*sweeps)
        self._views: tuple[Any, ...] | None = None  # the outputs, if all of them are views of buffers
        program = self.program
        self._given = len(self.plan.frame_specs) - len(program.carried)  # tensors of a call
        frame_specs = tuple(self._frame_specs[: self._given])
        #: The call it was planned for, and what it returns.
        self.signature = Signature(program.in_spec, tuple(program.literals), frame_specs)
        self.outputs = OutputSignature.of(program)
        one = pytree.tree_structure(((0,), {}))
        plain = program.literals == (Argument.TENSOR,) and program.in_spec == one
        self._only = frame_specs[0] if plain else None  # the tensor that is a whole call
        self._single = program.out_spec.is_leaf()  # whether it returns one value and nothing around it
        frames = {c.name for g in self.plan.groups if g.watches for c in g.calls if c.kind == "input"}
        asked = {i.call.name for i in self.plan.instructions if i.call.kind == "input"}
        #: The groups that find NaN and infinity in the frames, if together they look at all of them.
        self.watchers = tuple(g for g in self.plan.groups if g.watches) if asked <= frames else ()
        first = self.plan.groups[0] if self.plan.groups else None
        #: Whether the first thing that a frame does is to be refused if it holds NaN or infinity.
        self.refuses = (
            first is not None
            and first.refuses
            and self.plan.runners[0] == first.run
            and asked <= {c.name for c in first.calls}
        )
        grouped = {c.name for g in self.plan.groups for c in g.calls}  # these count for themselves
        calls = [i.call for i in self.plan.instructions]
        self._pixels = [(c.name, math.prod(c.extent)) for c in calls if c.name not in grouped]

    @property
    def engines(self) -> dict[str, Engine]:
        """Itself, named ""."""
        return {"": self}

    @property
    def streams(self) -> int:
        """Independent streams in a batch."""
        return self.program.streams

    @property
    def state(self) -> dict[str, Tensor]:
        """The buffers by name: themselves, to be looked at (tests and benchmarks write them)."""
        return self._state

    @property
    def state_bytes(self) -> int:
        """Bytes of all buffers."""
        return self.plan.state_bytes

    @property
    def convolution_macs(self) -> int:
        """Multiply-accumulates of all convolutions, dense."""
        return sum(i.convolution_macs for i in self.plan.instructions)

    @property
    def streamed_macs(self) -> int:
        """Those of the convolutions whose pixels are followed."""
        return sum(i.convolution_macs for i in self.plan.instructions if i.streams)

    @property
    def fresh(self) -> tuple[bool, ...]:
        """For each stream, whether its next frame is frame 1."""
        return tuple(self._fresh)

    def surroundings(self) -> None:
        """Nothing lies around it."""

    @property
    def observer(self) -> Observer | None:
        """What is shown every frame."""
        return self._observer

    def observe(self, observer: Observer | None) -> None:
        """Show every frame to ``observer``, and no longer to the one before; None shows it to nobody."""
        self._observer = observer

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call is one tensor such as the engine was planned for, and nothing else."""
        only = self._only
        if only is None or len(args) != 1 or kwargs:
            return False
        value = args[0]
        return (
            type(value) is Tensor
            and value.shape == only[0]
            and value.dtype == only[1]
            and value.device == self.device
        )

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frames: Sequence[Tensor],
        *,
        refuse: bool = False,
        alias: bool = False,
    ) -> Any:
        """One frame of every stream, as a call; see :meth:`step`.

        Args:
            args: positional arguments of a call that was checked.
            kwargs: its keyword arguments.
            frames: the tensors among both, flattened.
            refuse: whether to refuse NaN and infinity, where it :attr:`refuses`.
            alias: whether outputs may be the buffers themselves.

        Returns:
            The model's outputs.
        """
        flat = self.step(frames, refuse and self.refuses)
        if not alias:
            flat = tuple([owned(value, self.storages, self.memory) for value in flat])
        return flat[0] if self._single else pytree.tree_unflatten(flat, self.program.out_spec)

    def run_with(
        self,
        compute: Callable[[str, Program, tuple[Any, ...], dict[str, Any]], Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """One call, computed by ``compute`` from the engine's name "", its Program, args and kwargs."""
        return compute("", self.program, args, kwargs)

    def step(self, frames: Sequence[Tensor], refuse: bool = False) -> tuple[Any, ...]:
        """One frame of every stream. A frame that fails half-way leaves the engine reset.

        Args:
            frames: the flattened tensor inputs, checked by the caller.
            refuse: whether to refuse NaN and infinity, where :attr:`refuses`.

        Returns:
            The flat outputs; tensors may be views of the state.

        Raises:
            NotFinite: it was refused; nothing has changed.
        """
        flags = list(self._fresh)
        any_fresh, all_fresh = any(flags), all(flags)
        context = Context(
            frames=(*frames, *self.carried.tensors) if self.program.carried else tuple(frames),
            state=self._state,
            constants=self._constants,
            fresh=torch.tensor(flags, device=self.device) if any_fresh else self._settled,
            any_fresh=any_fresh,
            all_fresh=all_fresh,
            keep_active=self._observer is not None,
            refuse=refuse,
        )
        self._fresh[:] = [True] * len(flags)  # holds if a call raises: its buffers are then half-written
        try:
            if torch.is_grad_enabled():
                with torch.no_grad():
                    outputs = self._run(context)
            else:
                outputs = self._run(context)
        except NotFinite as error:
            self._fresh[:] = flags
            if error.index >= self._given:  # the frames are finite; what the model carries is its own affair
                return self.step(frames)
            raise
        self._fresh[:] = [False] * len(flags)
        if self._phase is not None:
            self._phase.add_(1).remainder_(self._period)
            if any_fresh:
                self._phase.masked_fill_(context.fresh, 0)
        if self.program.carried:
            outputs, after = self.program.parted(outputs)
            self.carried.advance(after)
        if not any_fresh:
            self._count(context)
        if context.seen:
            self.recorder.add(context.seen)
        if self._observer is not None:
            self._observer(context, outputs)
        return outputs

    @contextmanager
    def without_refresh(self, streams: Collection[int]) -> Iterator[None]:
        """Within the block, compute nothing of these streams that was put off and is not near a change."""
        phase = self._phase
        if phase is None or not streams:
            yield
            return
        rows = torch.tensor(sorted(streams), device=phase.device)
        before = phase[rows]
        phase[rows] = -1
        try:
            yield
        finally:
            phase[rows] = before

    def _run(self, context: Context) -> tuple[Any, ...]:
        self.plan.run(context)
        if self._views is not None:
            return self._views
        outputs = self.plan.read(context)
        tensors = (v for v in outputs if isinstance(v, Tensor))
        if all(v.untyped_storage().data_ptr() in self.storages for v in tensors):
            self._views = outputs
        return outputs

    def _count(self, context: Context) -> None:
        self.counts.frames += 1
        active, scheduled = context.active, context.scheduled
        for name, pixels in self._pixels:
            self.counts.of(name).add_frame(pixels, active[name], scheduled.get(name, 0))

    def collect(self) -> Counts:
        """The counts of all layers, those included that groups of calls keep themselves."""
        for group in self.plan.groups:
            pixels = {c.name: math.prod(c.extent) for c in group.calls}
            for counted in group.take_counts():
                if counted.frames:
                    self.counts.of(counted.layer).add(counted, pixels[counted.layer])
        return self.counts

    def clear_counts(self) -> None:
        """Start counting anew."""
        self.collect()
        self.counts = Counts()
        self.recorder = Recorder()

    def reset(self, stream: int | None = None) -> None:
        """Forget one stream, or all: its next frame is a first frame, and the model's buffers begin anew."""
        self.carried.reset(stream)
        self.forget(stream)

    def forget(self, stream: int | None = None) -> None:
        """Compute the next frame whole, from the model's buffers as they are."""
        if stream is None:
            self._fresh = [True] * self.program.streams
        else:
            self._fresh[stream] = True

    def snapshot(self) -> EngineState:
        """A copy of the state."""
        owned = {s.name for s in self.plan.state if s.parent is None}
        with torch.inference_mode(False), torch.no_grad():
            tensors = {n: t.clone() for n, t in self._state.items() if n in owned}
            carried = self.carried.copies()
        return EngineState(tensors, tuple(self._fresh), carried)

    def check_fits(self, state: EngineState) -> None:
        """Whether a snapshot may be restored.

        Raises:
            StateError: the snapshot is of another network, size or set of thresholds.
        """
        state.check_shapes({s.name: s.shape for s in self.plan.state if s.parent is None})
        self.carried.check_fits(state.carried)

    def restore(self, state: EngineState) -> None:
        """Continue from a snapshot that :meth:`check_fits`."""
        with torch.no_grad():
            for name, tensor in state.tensors.items():
                self._state[name].copy_(tensor)
            self.carried.restore(state.carried)
        for group in self.plan.groups:
            group.invalidate()
        self._fresh = list(state.fresh)

    def own_program(self) -> Program:
        """The Program, to be changed: it is taken apart from that of twins first."""
        if self._common:
            self.program, self._common = self.program.clone(), False
            self.network = self.program.module
            self._bind()
        return self.program

    def twin(self) -> Engine:
        """An engine of the same network before its first frame: its Program and weights are these."""
        self._common = True
        made = Engine(self.program, self.backend, self.plan.twin())
        made._common = True
        return made

    def relower(self) -> None:
        """Lower again after options of the Program changed, keeping every buffer that still fits."""
        known = {spec: self._state[spec.name] for spec in self.plan.state}
        self.collect()
        self.plan = lower(self.program, self.backend, self.answers)
        self._state = allocate(self.plan.state, self.device, known, self.plan.neighbours)
        new = [spec.name for spec in self.plan.state if spec not in known]
        settled = not all(self._fresh)
        layouts = {i.call.name: i.call.layout for i in self.plan.instructions}
        with torch.no_grad():
            for name in new:
                layer, _, what = name.rpartition(".")
                if what == "value":  # one that was recomputed so far: nobody knows it
                    self.forget()
                elif what == "scale" and settled:
                    self._state[name].copy_(scale_of(self._value(f"{layer}.value"), layouts[layer]))
                elif what in ("pending", "deferred", "phase"):
                    self._state[name].zero_()
        held = {spec.name for spec in self.plan.state}
        if any(
            s.name.endswith(".deferred") and s.name not in held and bool(t.any()) for s, t in known.items()
        ):
            self.forget()  # nobody would remember what was put off
        self._bind()

    def values(self) -> dict[str, Tensor]:
        """The values last propagated by layer name: the buffers, or what their numbers stand for."""
        return {i.call.name: self._value(i.call.value.name) for i in self.plan.instructions}

    def value(self, layer: str) -> Tensor:
        """The value last propagated of one layer."""
        return self._value(f"{layer}.value")

    def _value(self, name: str) -> Tensor:
        grid = self._grids.get(name)
        return self._state[name] if grid is None else grid.decode(self._state[name])

    def thresholds(self) -> dict[str, float]:
        """Thresholds by layer name, those that may be set."""
        found = {}
        for name, cache in edit.cache_by_name(self.program).items():
            if cache_option(cache, "kind") != "global" and cache_option(cache, "streams") is not None:
                found[name] = float(cache_option(cache, "threshold"))
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Engine:
        self.own_program()
        dtypes = [t.dtype for t in self.network.buffers()]
        before = [(m, dict(m._buffers)) for m in self.network.modules()]
        with torch.inference_mode(False), torch.no_grad():
            super()._apply(sharing(fn), recurse)  # type: ignore[no-untyped-call]
            changed = [t.dtype for t in self.network.buffers()] != dtypes
            moved = device_of(self.network) != self.device
            try:
                if changed:
                    retype(self.program, self._frame_specs, fn)
            except CaptureError as error:
                for module, buffers in before:
                    module._buffers.update(buffers)
                retype(self.program, self._frame_specs, lambda tensor: tensor)
                raise StateError(
                    f"{self.program.name}: it cannot be cast, as it fixes a dtype inside ({error}); cast "
                    "the model and convert that"
                ) from error
            if moved:
                edit.rewrite_devices(self.program, device_of(self.network))
            if changed or moved:
                self._lower_and_keep()
            self.carried.move(fn)
            self._bind()
        return self

    @property
    def _frame_specs(self) -> list[FrameSpec]:
        return [FrameSpec(*spec) for spec in self.plan.frame_specs]

    def _lower_and_keep(self) -> None:
        """Lower for another device or dtype; what the buffers held is taken along."""
        old, fresh = self._state, self._fresh
        self.collect()
        self.answers = Answers()
        self.plan = lower(self.program, self.backend, self.answers)
        self.allocate()
        kept = [s.name for s in self.plan.state if s.parent is None]
        for name in set(kept) & set(old):
            self._state[name].copy_(old[name])
        if set(kept) <= set(old):  # else another backend keeps what was recomputed so far
            self._fresh = fresh

    def __deepcopy__(self, memo: dict[int, Any]) -> Engine:
        def copied(tensor: Tensor) -> Tensor:
            key: Any = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
            if key not in memo:
                memo[key] = tensor.clone()
            return memo[key]  # type: ignore[no-any-return]

        program = self.program.clone()
        with torch.inference_mode(False), torch.no_grad():
            program.module._apply(copied)  # type: ignore[no-untyped-call]
        twin = Engine(program, self.backend)
        with torch.no_grad():
            for spec in self.plan.state:
                if spec.parent is None:
                    twin._state[spec.name].copy_(self._state[spec.name])
            twin.carried.restore(self.carried.copies())
        twin._fresh = list(self._fresh)
        twin.counts = copy.deepcopy(self.collect())
        memo[id(self)] = twin
        return twin


def _forget_after_loading(engine: Engine, _: Any) -> None:
    """Values computed with the old weights are worth nothing."""
    engine._bind()
    engine.reset()
