"""StreamingModule: the model's own call, with memory of the frame before."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from videoeff.errors import StateError
from videoeff.ir.program import Program
from videoeff.kernels import NotFinite
from videoeff.passes.bound_reach import REFRESH
from videoeff.runtime.body import StreamBody
from videoeff.runtime.engine import Engine
from videoeff.runtime.engine_state import EngineState
from videoeff.runtime.finite import FiniteCheck, not_finite
from videoeff.runtime.freezing import FrozenState
from videoeff.runtime.holding import Call, HeldState
from videoeff.runtime.inputs import check_call
from videoeff.runtime.observation import Observation, layer_name
from videoeff.runtime.operator import frame, register
from videoeff.runtime.options import Options
from videoeff.runtime.precision import is_cast, uncast
from videoeff.runtime.report import Report, report_of
from videoeff.runtime.signature import OutputSignature, Parameters
from videoeff.runtime.thresholds import (
    carry_over,
    is_exact,
    reaches_of,
    read_thresholds,
    set_matching,
    set_named,
    set_reach,
    thresholds_of,
)
from videoeff.runtime.twin import twin_of
from videoeff.runtime.zoned import ZonedModule
from videoeff.runtime.zoning import Zoned, apply
from videoeff.serialize.files import write_text
from videoeff.serialize.save import Contents, save

#: Makes a body for another call than the one a stream was made for.
Replan = Callable[[tuple[Any, ...], dict[str, Any]], StreamBody]


@dataclass(frozen=True)
class StreamState:
    """A copy of all state of a stream; give it back to ``restore``.

    Attributes:
        engines: the state of each engine.
        outside: the buffers that the code around the engines changes, by path.
        held: the outputs that are handed out until the next look, and when that is; see ``every``.
        frozen: the ignored pixels of a model captured in parts; see ``set_zones``.
    """

    engines: Mapping[str, EngineState]
    outside: Mapping[str, Tensor] = field(default_factory=dict)
    held: HeldState | None = None
    frozen: FrozenState | None = None


class StreamingModule(ZonedModule):
    """A converted model. Call it as the model, frame after frame.

    Made by ``videoeff.convert`` and ``videoeff.load``. Each entry of the batch is a stream of its own.
    Not for two threads at once; make a ``twin()`` for each. ``.to(...)`` moves it, state
    included; values kept from before keep the precision they had. ``train()`` changes nothing.

    Args:
        body: the engine of a model captured whole, or a model captured in parts.
        options: what is done with odd frames and with outputs.
        name: the model's name in reports.
        replan: makes a body for another call; needed for ``on_resize="replan"``.
        forward_parameters: of the model's forward, to place arguments given in another form than the example.
        extra: what whoever converted the model records beside it; saved with it.
        zoned: the zones that the body has.
    """

    def __init__(
        self,
        body: StreamBody,
        options: Options | None = None,
        *,
        name: str = "model",
        replan: Replan | None = None,
        forward_parameters: Parameters | None = None,
        extra: Mapping[str, Any] | None = None,
        zoned: Zoned | None = None,
    ) -> None:
        super().__init__(zoned)
        self.body = body
        self.options, self.name = options or Options(), name
        self.extra: dict[str, Any] = dict(extra or {})
        self.forward_parameters = forward_parameters or Parameters()
        self._replan = replan
        self._finite = FiniteCheck()
        #: What ``videoeff::frame`` finds this stream by, and the tensor it writes.
        self.number, self.ticket = register(self.eager), torch.zeros(1, dtype=torch.int64)
        self.eval()

    # -- options ---------------------------------------------------------------------------------------

    @property
    def alias_outputs(self) -> bool:
        """Whether outputs may be the buffers themselves; may be set."""
        return self.options.alias_outputs

    @alias_outputs.setter
    def alias_outputs(self, value: bool) -> None:
        self.options = replace(self.options, alias_outputs=value)

    @property
    def nan_policy(self) -> str:
        """What is done with NaN and infinity in a frame; may be set."""
        return self.options.nan_policy

    @nan_policy.setter
    def nan_policy(self, value: str) -> None:
        self.options = replace(self.options, nan_policy=value)

    @property
    def on_resize(self) -> str:
        """What is done with a frame of another size; may be set."""
        return self.options.on_resize

    @on_resize.setter
    def on_resize(self, value: str) -> None:
        self.options = replace(self.options, on_resize=value)

    # -- calling ---------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One frame of every stream; the model's own arguments and outputs.

        Raises:
            StateError: the frame does not fit, holds NaN or infinity, or another thread is inside.
        """
        if torch.compiler.is_compiling() and self.body.outputs is not None:
            return self._traced(self.body.outputs, args, kwargs)
        self._enter()
        try:
            if is_cast(self.body.device):
                with uncast(self.body.device):
                    outputs = self._forward(args, kwargs)
            else:
                outputs = self._forward(args, kwargs)
        finally:
            self._busy.release()
        self._audit.tell(self.name)
        return outputs

    def _forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        body, options = self.body, self.options
        frames: Sequence[Tensor] = args
        problem = ""
        if not body.fits(args, kwargs):
            args, kwargs, frames, problem = self._arranged(args, kwargs)
        if problem:
            if options.nan_policy == "error":
                self._finite.check(frames, self.name, body.watchers)
            body = self._plan_anew(args, kwargs, problem)
        if options.every == 1 and not options.audit.share:
            return self._look(Call(args, kwargs, frames), options.alias_outputs, checked=bool(problem))
        return self._look_or_hold(Call(args, kwargs, frames), checked=bool(problem))

    def _look(self, call: Call, alias: bool, checked: bool = False) -> Any:
        body, careful = self.body, self.options.nan_policy == "error"
        self._hold.looked = True
        if careful and not checked and not body.refuses:
            self._finite.check(call.frames, self.name, body.watchers)
        try:
            return body.run(*call, refuse=careful, alias=alias)
        except NotFinite as error:
            raise StateError(not_finite(self.name, error.index, call.frames[error.index])) from None

    def _arranged(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any], list[Tensor], str]:
        """A call in the example's form, its tensors, and what is wrong with it if it may be planned for."""
        expected = self.body.signature
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != expected.in_spec:
            args, kwargs = self.forward_parameters.arrange(args, kwargs, expected.in_spec)
            leaves, spec = pytree.tree_flatten((args, kwargs))
        problem, resized = check_call(self.name, leaves, spec, expected, self.device)
        if problem and not (resized and self.on_resize == "replan"):
            raise StateError(problem)
        return args, kwargs, [v for v in leaves if isinstance(v, Tensor)], problem

    def _traced(self, outputs: OutputSignature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call as one operator, for ``torch.compile`` and ``torch.export``."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        device = self.body.device
        problem, _ = check_call(self.name, leaves, spec, self.body.signature, device)
        if problem:
            raise StateError(problem)
        made = [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in outputs.specs]
        frame([v for v in leaves if isinstance(v, Tensor)], self.ticket, made, self.number)
        return outputs.outputs(made)

    def eager(self, frames: Sequence[Tensor]) -> list[Any]:
        """One frame, as the operator ``videoeff::frame`` runs it.

        Args:
            frames: the tensors of the call, flattened.

        Returns:
            The flat outputs.
        """
        if self.body.outputs is None:
            raise StateError(f"{self.name}: a model captured in parts is no operator; call the stream itself")
        args, kwargs = self.body.signature.call(frames)
        return pytree.tree_leaves(self.forward(*args, **kwargs))

    def _plan_anew(self, args: tuple[Any, ...], kwargs: dict[str, Any], problem: str) -> StreamBody:
        if self._replan is None:
            raise StateError(
                f"{problem}; this stream was loaded from a file and cannot be planned anew: "
                "convert the model again for this size"
            )
        with torch.inference_mode(False), torch.no_grad():
            other = self._replan(args, kwargs)
            other.to(device=self.device, dtype=self._dtype())
            found = other.engines
            for name, engine in self.engines.items():
                if name in found:
                    carry_over(engine, found[name])
                    found[name].observe(engine.observer)
            if self._zoned is not None:
                apply(other, self._zoned.masks(self.name, other))
        self.body = other
        self._hold.drop()
        self._audit.forget_waiting()
        return other

    def _dtype(self) -> torch.dtype | None:
        tensors = next(iter(self.engines.values())).network.buffers()
        return next((t.dtype for t in tensors if t.is_floating_point()), None)

    # -- state -----------------------------------------------------------------------------------------

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines by name: one named "" for a model captured whole."""
        return dict(self.body.engines)

    @property
    def device(self) -> torch.device:
        """Where the stream lives."""
        return self.body.device

    @property
    def streams(self) -> int:
        """Independent streams in a batch."""
        return self.body.streams

    def reset(self, stream: int | None = None) -> None:
        """Forget everything, or one entry of the batch: its next frame is frame 1.

        Buffers that the model's own forward changes begin anew with the values they had at conversion.

        Raises:
            StateError: no such stream, or the batch shares a buffer that the model changes.
        """
        if stream is not None and not 0 <= stream < self.streams:
            raise StateError(f"{self.name}: no stream {stream}; the batch has {self.streams}, counted from 0")
        with self._alone():
            self.body.outside.check_reset(stream)
            for engine in self.engines.values():
                engine.carried.check_reset(stream)
            if stream is not None and self.streams > 1 and self.options.every > 1:
                self._hold.check_reset(self.name, self.body)
            self._hold.drop(stream)
            self.body.outside.reset()
            if self.body.freezer is not None:
                self.body.freezer.reset(stream)
            for engine in self.engines.values():
                engine.reset(stream)

    def snapshot(self) -> StreamState:
        """A copy of the state, to continue from later."""
        with self._alone():
            engines = {name: engine.snapshot() for name, engine in self.engines.items()}
            frozen = self.body.freezer and self.body.freezer.snapshot()
            return StreamState(engines, self.body.outside.copies(), self._hold.snapshot(), frozen)

    def restore(self, state: StreamState) -> None:
        """Continue as if the snapshot had just been taken.

        Raises:
            StateError: it is of another stream; nothing was changed.
        """
        engines, freezer = self.engines, self.body.freezer
        if not isinstance(state, StreamState) or set(state.engines) != set(engines):
            raise StateError(
                f"{self.name}: this is no snapshot of this model; take one with stream.snapshot()"
            )
        with self._alone():
            for name, engine in engines.items():
                engine.check_fits(state.engines[name])
            if freezer is not None and state.frozen is not None:
                freezer.check_fits(state.frozen)
            for name, engine in engines.items():
                engine.restore(state.engines[name])
            self.body.outside.restore(state.outside)
            self._hold.restore(state.held)
            if freezer is not None:
                freezer.restore(state.frozen)

    # -- thresholds ------------------------------------------------------------------------------------

    def thresholds(self) -> dict[str, float]:
        """The threshold of every layer that may have one."""
        return thresholds_of(self.engines)

    def set_threshold(self, value: float, layer: str | None = None) -> None:
        """Set the threshold of all layers, or of those whose name matches a pattern (``layer4.*``).

        All layers means those that can gain by it: what is only an output is not held back. State is kept.

        Raises:
            StateError: no layer matches, or the value is negative or not finite.
        """
        with self._alone():
            set_matching(self.name, self.engines, value, layer)

    def set_thresholds(self, values: Mapping[str, float]) -> None:
        """Set thresholds by layer name. To keep a value that was computed anew, the stream starts afresh.

        Raises:
            StateError: a name is unknown, or a value is negative or not finite.
        """
        with self._alone():
            set_named(self.name, self.engines, values)

    def save_thresholds(self, path: str | Path) -> None:
        """Write all thresholds as JSON by layer name.

        Raises:
            ArtifactError: the file cannot be written.
        """
        write_text(path, json.dumps(self.thresholds(), indent=1) + "\n")

    def load_thresholds(self, path: str | Path) -> None:
        """Read thresholds from JSON; every layer must be named, and no other.

        Raises:
            StateError: a name is unknown or missing, or a value cannot be a threshold.
            ArtifactError: the file is missing or no JSON object.
        """
        self.set_thresholds(read_thresholds(path, self.engines))

    # -- reach -----------------------------------------------------------------------------------------

    def reaches(self) -> dict[str, float | None]:
        """The bound on how far changes reach, of every layer that may have one; None where there is none."""
        return reaches_of(self.engines)

    def set_reach(self, pixels: float | None, refresh: int = REFRESH, layer: str | None = None) -> None:
        """Bound how far changes reach, in all layers or in those whose name matches a pattern. State is kept.

        Args:
            pixels: what lies within so many pixels of the frame of what changed is computed, what changes
                reach beyond is put off. None takes the bound away; if something is put off then, the next
                frame is computed whole.
            refresh: what was put off is computed within so many frames; 0: never.
            layer: the pattern (``layer4.*``); None: all.

        Raises:
            StateError: no layer matches, or the bound or the refresh is none.
        """
        with self._alone():
            set_reach(self.name, self.engines, pixels, refresh, layer)

    @property
    def exact(self) -> bool:
        """Whether outputs are the model's own: all thresholds are 0, and no reach is bounded."""
        return is_exact(self.engines)

    # -- looking inside --------------------------------------------------------------------------------

    @property
    def graph(self) -> fx.Graph:
        """The rewritten graph of a model captured whole; of the first engine otherwise."""
        return next(iter(self.engines.values())).program.graph

    @property
    def programs(self) -> dict[str, Program]:
        """The rewritten Programs by engine name."""
        return {name: engine.program for name, engine in self.engines.items()}

    def report(self) -> Report:
        """What the stream did since it was made (or since ``clear_report``)."""
        held, every = self._hold.count, self.options.every
        return report_of(self.name, self.body, every, held, self._audit.report(self.options.audit))

    def clear_report(self) -> None:
        """Start counting anew."""
        self.body.clear_counts()
        self._hold.count = 0
        self._audit.clear()

    @contextmanager
    def observe(self) -> Iterator[Observation]:
        """Within the block, the masks of the last frame by layer name. Costs time."""
        seen = Observation()
        before = {name: engine.observer for name, engine in self.engines.items()}
        for name, engine in self.engines.items():
            engine.observe(seen.observer(name))
        try:
            yield seen
        finally:
            for name, engine in self.engines.items():  # others, where a frame of another size came
                engine.observe(before.get(name))

    def values(self) -> dict[str, Tensor]:
        """The values last propagated, by layer name: the buffers themselves, not to be written."""
        return {layer_name(p, k): v for p, e in self.engines.items() for k, v in e.values().items()}

    # -- keeping ---------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the stream as one file; see :mod:`videoeff.serialize.format`.

        Raises:
            ArtifactError: it cannot be written, or a part of the model has no file form.
        """
        zones = self._zoned and self._zoned.to_json(self.body)
        save(Contents(self.name, self.body, self.forward_parameters, self.options, self.extra, zones), path)

    def train(self, mode: bool = True) -> StreamingModule:
        """Change nothing: a stream stays in evaluation mode, also as a part of a larger module."""
        super().train(False)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StreamingModule:
        with self._alone():
            self._hold.drop()
            self._audit.forget_waiting()
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        raise StateError(
            f"{self.name}: a stream is not pickled; write it with stream.save(path), read it with "
            "videoeff.load(path), and copy it with copy.deepcopy(stream)"
        )

    def twin(self) -> StreamingModule:
        """Another stream of the same network, before its first frame; for a thread or a camera of its own.

        The weights of both lie in the same memory. Settings are taken over; state and reports are not.
        """
        with self._alone():
            body = twin_of(self.body)
        return StreamingModule(
            body,
            self.options,
            name=self.name,
            replan=self._replan,
            forward_parameters=self.forward_parameters,
            extra=copy.deepcopy(self.extra),
            zoned=self._zoned,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamingModule:
        twin = StreamingModule(
            copy.deepcopy(self.body, memo),
            self.options,
            name=self.name,
            replan=self._replan,
            forward_parameters=self.forward_parameters,
            extra=copy.deepcopy(self.extra),
            zoned=self._zoned,
        )
        twin._hold, twin._audit = copy.deepcopy(self._hold), copy.deepcopy(self._audit)
        memo[id(self)] = twin
        return twin

    def extra_repr(self) -> str:
        """A line for ``print``."""
        layers = sum(len(e.plan.instructions) for e in self.engines.values())
        megabytes = sum(e.state_bytes for e in self.engines.values()) / 1e6
        beat = "" if self.options.every == 1 else f", every {self.options.every} frames"
        return f"{self.name}, {self.streams} stream(s), {layers} layers, state {megabytes:.1f} MB{beat}"

    def __repr__(self) -> str:
        return f"StreamingModule({self.extra_repr()})"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()
