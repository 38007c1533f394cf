"""StreamingModule: the model's own call, with memory of the frame before."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff.errors import StateError
from videoeff.ir.program import Argument, Program
from videoeff.kernels import NotFinite
from videoeff.kernels.call import Context
from videoeff.runtime.engine import Engine, EngineState
from videoeff.runtime.finite import FiniteCheck, not_finite
from videoeff.runtime.inputs import check_frames
from videoeff.runtime.observation import Observation
from videoeff.runtime.operator import frame, register
from videoeff.runtime.outputs import owned
from videoeff.runtime.partitioned import Shell
from videoeff.runtime.report import Report, layer_reports
from videoeff.runtime.signature import Parameters
from videoeff.runtime.thresholds import carry_over, check_threshold, set_everywhere, set_layers
from videoeff.serialize.files import read_thresholds, write_text
from videoeff.serialize.save import Contents, save

NAN_POLICIES = ("error", "recompute")
RESIZE_POLICIES = ("error", "replan")


@dataclass(frozen=True)
class StreamState:
    """A copy of all state of a stream; give it back to ``restore``."""

    engines: Mapping[str, EngineState]


class StreamingModule(nn.Module):
    """A converted model. Call it as the model, frame after frame.

    Made by ``videoeff.convert`` and ``videoeff.load``. Each entry of the batch is a stream of its own.
    Not for two threads at once; convert (or ``copy.deepcopy``) one per thread. ``.to(...)`` moves it, state
    included; values kept from before keep the precision they had. ``train()`` changes nothing.

    Args:
        engine: the engine of a model captured whole, or None.
        shell: the model around engines of its parts, or None.
        name: the model's name in reports.
        alias_outputs: hand out the buffers themselves, which the next frame overwrites and the caller must
            not write; a model captured in parts computes its outputs anew, so there it changes nothing.
        nan_policy: "error" raises on NaN or infinity in a frame (on CUDA when the flag has arrived, so
            that nothing waits); "recompute" lets such pixels count as changed.
        on_resize: "error", or "replan" to convert again for a frame of another size and start afresh.
        replan: makes an engine (or shell) for another call; needed for "replan".
        forward_parameters: of the model's forward, to place arguments given in another form than the example.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        *,
        shell: Shell | None = None,
        name: str = "model",
        alias_outputs: bool = False,
        nan_policy: str = "error",
        on_resize: str = "error",
        replan: Callable[[tuple[Any, ...], dict[str, Any]], StreamingModule] | None = None,
        forward_parameters: Parameters | None = None,
    ) -> None:
        super().__init__()
        if (engine is None) == (shell is None):
            raise ValueError("a StreamingModule has either an engine or a shell")
        check_policies(nan_policy, on_resize)
        self.engine, self.shell, self.name = engine, shell, name
        self.alias_outputs, self.nan_policy, self.on_resize = alias_outputs, nan_policy, on_resize
        self.extra: dict[str, Any] = {}
        self.forward_parameters = forward_parameters or Parameters()
        self._replan = replan
        self._finite = FiniteCheck()
        self._busy = threading.Lock()
        #: What ``videoeff::frame`` finds this stream by, and the tensor it writes.
        self.number, self.ticket = register(self.eager), torch.zeros(1, dtype=torch.int64)
        self.eval()

    # -- calling ---------------------------------------------------------------------------------------

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One frame of every stream; the model's own arguments and outputs.

        Raises:
            StateError: the frame does not fit, holds NaN or infinity, or another thread is inside.
        """
        if torch.compiler.is_compiling() and self.engine is not None:
            return self._traced(self.engine, args, kwargs)
        self._enter()
        try:
            return self._forward(args, kwargs)
        finally:
            self._busy.release()

    def _traced(self, engine: Engine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call as one operator, for ``torch.compile`` and ``torch.export``."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        program = engine.program
        problem, _ = check_frames(
            self.name, leaves, spec, program.in_spec, program.literals, engine.plan.frames, engine.device
        )
        if problem:
            raise StateError(problem)
        outputs = [torch.empty(shape, dtype=dtype, device=engine.device) for shape, dtype in engine.returns]
        frame([v for v in leaves if isinstance(v, Tensor)], self.ticket, outputs, self.number)
        tensors = iter(outputs)
        flat = [next(tensors) if literal is None else literal[0] for literal in engine.returned]
        return pytree.tree_unflatten(flat, program.out_spec)

    def eager(self, frames: Sequence[Tensor]) -> list[Any]:
        """One frame, as the operator ``videoeff::frame`` runs it.

        Args:
            frames: the tensors of the call, flattened.

        Returns:
            The flat outputs.
        """
        if self.engine is None:
            raise StateError(f"{self.name}: a model captured in parts is no operator; call the stream itself")
        program, tensors = self.engine.program, iter(frames)
        leaves = [next(tensors) if v is Argument.TENSOR else v for v in program.literals]
        args, kwargs = pytree.tree_unflatten(leaves, program.in_spec)
        return pytree.tree_leaves(self.forward(*args, **kwargs))

    def _enter(self) -> None:
        if not self._busy.acquire(blocking=False):
            raise StateError(
                f"{self.name}: two threads use one stream at once; give each thread its own copy "
                "(copy.deepcopy(stream)), or put the streams in one batch"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._enter()
        try:
            yield
        finally:
            self._busy.release()

    def _forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        engine = self.engine
        if engine is not None and engine.plain and len(args) == 1 and not kwargs and engine.fits(args[0]):
            if self.nan_policy == "error" and not engine.refuses:
                self._finite.check(args, self.name, engine.watchers)
            return self._outputs(engine, args)
        expected, literals, planned = self._signature()
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != expected:
            args, kwargs = self.forward_parameters.arrange(args, kwargs, expected)
            leaves, spec = pytree.tree_flatten((args, kwargs))
        problem, resized = check_frames(self.name, leaves, spec, expected, literals, planned, self.device)
        if problem and not (resized and self.on_resize == "replan"):
            raise StateError(problem)
        frames = [v for v in leaves if isinstance(v, Tensor)]
        if self.nan_policy == "error" and (engine is None or problem or not engine.refuses):
            self._finite.check(frames, self.name, () if engine is None else engine.watchers)
        if problem:
            self._plan_anew(args, kwargs, problem)
        if self.shell is not None:
            return self.shell.call(args, kwargs)
        assert self.engine is not None  # one of the two is there
        return self._outputs(self.engine, frames)

    def _outputs(self, engine: Engine, frames: Sequence[Tensor]) -> Any:
        try:
            flat = engine.step(frames, refuse=self.nan_policy == "error" and engine.refuses)
        except NotFinite as error:
            raise StateError(not_finite(self.name, error.index, frames[error.index])) from None
        if not self.alias_outputs:
            flat = tuple([owned(value, engine.storages, engine.memory) for value in flat])
        if engine.single:
            return flat[0]
        return pytree.tree_unflatten(flat, engine.program.out_spec)

    def _signature(self) -> tuple[pytree.TreeSpec, tuple[Any, ...], tuple[Any, ...]]:
        if self.engine is not None:
            program = self.engine.program
            return program.in_spec, program.literals, self.engine.plan.frames
        assert self.shell is not None  # one of the two is there
        return self.shell.in_spec, self.shell.literals, self.shell.frames

    def _plan_anew(self, args: tuple[Any, ...], kwargs: dict[str, Any], problem: str) -> None:
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
                    found[name].observer = engine.observer
        self.engine, self.shell = other.engine, other.shell

    def _dtype(self) -> torch.dtype | None:
        tensors = next(iter(self.engines.values())).network.buffers()
        return next((t.dtype for t in tensors if t.is_floating_point()), None)

    # -- state -----------------------------------------------------------------------------------------

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines by name: one named "" for a model captured whole."""
        if self.engine is not None:
            return {"": self.engine}
        assert self.shell is not None  # one of the two is there
        return dict(self.shell.engines)

    @property
    def device(self) -> torch.device:
        """Where the stream lives."""
        return (self.engine or next(iter(self.engines.values()))).device

    @property
    def streams(self) -> int:
        """Independent streams in a batch."""
        return next(iter(self.engines.values())).program.streams

    def reset(self, stream: int | None = None) -> None:
        """Forget everything, or one entry of the batch: its next frame is frame 1.

        Raises:
            StateError: no such stream.
        """
        if stream is not None and not 0 <= stream < self.streams:
            raise StateError(f"{self.name}: no stream {stream}; the batch has {self.streams}, counted from 0")
        with self._alone():
            for engine in self.engines.values():
                engine.reset(stream)

    def snapshot(self) -> StreamState:
        """A copy of the state, to continue from later."""
        with self._alone():
            return StreamState({name: engine.snapshot() for name, engine in self.engines.items()})

    def restore(self, state: StreamState) -> None:
        """Continue as if the snapshot had just been taken.

        Raises:
            StateError: it is of another stream; nothing was changed.
        """
        engines = self.engines
        if not isinstance(state, StreamState) or set(state.engines) != set(engines):
            raise StateError(
                f"{self.name}: this is no snapshot of this model; take one with stream.snapshot()"
            )
        with self._alone():
            for name, engine in engines.items():
                engine.check_fits(state.engines[name])
            for name, engine in engines.items():
                engine.restore(state.engines[name])

    # -- thresholds ------------------------------------------------------------------------------------

    def thresholds(self) -> dict[str, float]:
        """The threshold of every layer that may have one."""
        found = {}
        for prefix, engine in self.engines.items():
            for layer, value in engine.thresholds().items():
                found[_joined(prefix, layer)] = value
        return found

    def set_threshold(self, value: float, layer: str | None = None) -> None:
        """Set the threshold of all layers, or of those whose name matches a pattern (``layer4.*``).

        All layers means those that can gain by it: what is only an output is not held back. State is kept.

        Raises:
            StateError: no layer matches, or the value is negative or not finite.
        """
        names = [n for n in self.thresholds() if layer is None or fnmatchcase(n, layer) or n == layer]
        if not names:
            raise StateError(f"{self.name}: no layer matches {layer!r}; stream.thresholds() lists the names")
        self._set({n: check_threshold(self.name, n, value) for n in names}, everywhere=layer is None)

    def set_thresholds(self, values: Mapping[str, float]) -> None:
        """Set thresholds by layer name. To keep a value that was computed anew, the stream starts afresh.

        Raises:
            StateError: a name is unknown, or a value is negative or not finite.
        """
        unknown = sorted(set(values) - set(self.thresholds()))
        if unknown:
            raise StateError(
                f"{self.name}: no such layer: {', '.join(unknown[:5])}; stream.thresholds() lists the names"
            )
        self._set({n: check_threshold(self.name, n, v) for n, v in values.items()}, everywhere=False)

    def _set(self, values: Mapping[str, float], everywhere: bool) -> None:
        with self._alone():
            for prefix, engine in self.engines.items():
                layers = engine.thresholds()
                mine = {n: values[k] for n in layers if (k := _joined(prefix, n)) in values}
                if mine and everywhere:
                    set_everywhere(engine, next(iter(mine.values())))
                elif mine:
                    set_layers(engine, mine)

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
        self.set_thresholds(read_thresholds(path, set(self.thresholds())))

    # -- looking inside --------------------------------------------------------------------------------

    @property
    def graph(self) -> fx.Graph:
        """The rewritten graph of a model captured whole; of the first part otherwise."""
        return next(iter(self.engines.values())).program.graph

    @property
    def programs(self) -> dict[str, Program]:
        """The rewritten Programs by engine name."""
        return {name: engine.program for name, engine in self.engines.items()}

    def report(self) -> Report:
        """What the stream did since it was made (or since ``clear_report``)."""
        layers = []
        state = 0
        for prefix, engine in self.engines.items():
            layers += list(layer_reports(engine, f"{prefix}." if prefix else ""))
            state += engine.state_bytes
        total = sum(i.convolution_macs for e in self.engines.values() for i in e.plan.instructions)
        inside = sum(
            i.convolution_macs for e in self.engines.values() for i in e.plan.instructions if i.streams
        )
        eager: tuple[tuple[str, str], ...] = ()
        if self.shell is not None:
            total, eager = max(total, self.shell.convolution_macs), self.shell.left_now
        frames = max(e.counts.frames for e in self.engines.values())
        share = inside / total if total else 1.0
        return Report(self.name, frames, tuple(layers), state, self.streams, share, eager)

    def clear_report(self) -> None:
        """Start counting anew."""
        for engine in self.engines.values():
            engine.clear_counts()
        for site in self.shell.sites.values() if self.shell is not None else ():
            site.dense_calls = 0

    @contextmanager
    def observe(self) -> Iterator[Observation]:
        """Within the block, the masks of the last frame by layer name. Costs time."""
        seen = Observation()

        def observer(prefix: str) -> Callable[[Context, tuple[Any, ...]], None]:
            def look(context: Context, _: tuple[Any, ...]) -> None:
                for layer, mask in context.active_masks.items():
                    seen.active[_joined(prefix, layer)] = mask
                for layer, mask in context.masks.items():
                    seen.changed[_joined(prefix, layer)] = mask

            return look

        before = {name: engine.observer for name, engine in self.engines.items()}
        for prefix, engine in self.engines.items():
            engine.observer = observer(prefix)
        try:
            yield seen
        finally:
            for name, engine in self.engines.items():
                engine.observer = before.get(name)

    def values(self) -> dict[str, Tensor]:
        """The values last propagated, by layer name: the buffers themselves, not to be written."""
        return {_joined(p, k): v for p, e in self.engines.items() for k, v in e.values().items()}

    # -- keeping ---------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the stream as one file; see :mod:`videoeff.serialize.format`.

        Raises:
            ArtifactError: it cannot be written, or a part of the model has no file form.
        """
        options = {"alias_outputs": self.alias_outputs, "nan_policy": self.nan_policy}
        contents = Contents(self.name, self.engines, self.shell, self.forward_parameters, options, self.extra)
        save(contents, path)

    def train(self, mode: bool = True) -> StreamingModule:
        """Change nothing: a stream stays in evaluation mode, also as a part of a larger module."""
        super().train(False)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> StreamingModule:
        done: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

        def once(tensor: Tensor) -> Tensor:
            """``fn``, with tensors that share memory sharing it afterwards."""
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.device)
            if key not in done or not tensor.numel():
                done[key] = (tensor.detach(), fn(tensor))
            return done[key][1]

        with self._alone():
            super()._apply(once, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        raise StateError(
            f"{self.name}: a stream is not pickled; write it with stream.save(path), read it with "
            "videoeff.load(path), and copy it with copy.deepcopy(stream)"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> StreamingModule:
        twin = StreamingModule(
            copy.deepcopy(self.engine, memo),
            shell=None if self.shell is None else self.shell.twin(memo),
            name=self.name,
            alias_outputs=self.alias_outputs,
            nan_policy=self.nan_policy,
            on_resize=self.on_resize,
            replan=self._replan,
            forward_parameters=self.forward_parameters,
        )
        twin.extra = copy.deepcopy(self.extra)
        memo[id(self)] = twin
        return twin

    def extra_repr(self) -> str:
        """A line for ``print``."""
        layers = sum(len(e.plan.instructions) for e in self.engines.values())
        megabytes = sum(e.state_bytes for e in self.engines.values()) / 1e6
        return f"{self.name}, {self.streams} stream(s), {layers} layers, state {megabytes:.1f} MB"

    def __repr__(self) -> str:
        return f"StreamingModule({self.extra_repr()})"

    def _repr_html_(self) -> str:
        return self.report()._repr_html_()


def _joined(prefix: str, layer: str) -> str:
    return f"{prefix}.{layer}" if prefix else layer


def check_policies(nan_policy: str, on_resize: str) -> None:
    """Raise :class:`StateError` unless both words are known."""
    for what, value, legal in (
        ("nan_policy", nan_policy, NAN_POLICIES),
        ("on_resize", on_resize, RESIZE_POLICIES),
    ):
        if value not in legal:
            raise StateError(f"{what}={value!r} is none of {', '.join(legal)}")
