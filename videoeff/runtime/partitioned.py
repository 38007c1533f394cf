"""PartitionedModel: a model whose largest exportable submodules are computed by engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.errors import StateError
from videoeff.ir.module import FORWARD_HOOKS
from videoeff.runtime.bfloat16 import is_in_bfloat16
from videoeff.runtime.body import Compute, Surroundings
from videoeff.runtime.copying import copy_with_shared_weights
from videoeff.runtime.engine import Engine
from videoeff.runtime.freezing import Freezer
from videoeff.runtime.inputs import check_call
from videoeff.runtime.moving import Move, sharing
from videoeff.runtime.outputs import own
from videoeff.runtime.outside import OutsideState
from videoeff.runtime.precision import uncast
from videoeff.runtime.signature import FrameSpec, Signature


class CallSite(nn.Module):
    """Stands where a submodule stood: its n-th call in a frame goes to its n-th engine.

    A call that does not fit the engine (another size) runs the original module, and the engine forgets.
    Its outputs are copies, because the code around it may write into them. The submodule's own forward hooks
    run here, behind the engine, because they may keep what they are shown.

    Args:
        path: the submodule's path.
        engines: one for each of its calls in a frame.
    """

    #: The submodule.
    original: nn.Module

    def __init__(self, path: str, engines: Sequence[Engine]) -> None:
        super().__init__()
        numbered = len(engines) > 1
        #: The engines by name: the path, numbered where the submodule is called more than once.
        self.engines = {f"{path}#{i + 1}" if numbered else path: e for i, e in enumerate(engines)}
        self.registered = nn.ModuleList(engines)  # so that they are moved, cast and found with the model
        self.calls = self.dense_calls = 0
        self._in_order = tuple(self.engines.items())
        self._calls = 0
        self._compute: Compute | None = None

    def take_hooks(self) -> None:
        """Run the original's forward hooks from now on."""
        held, own = vars(self.original), vars(self)
        for name in FORWARD_HOOKS:
            own[name], held[name] = held[name], type(held[name])()

    def begin_frame(self) -> None:
        """The next call is the first of a frame."""
        self._calls = 0

    def clear_counts(self) -> None:
        """Count calls anew."""
        self.calls = self.dense_calls = 0

    @contextmanager
    def replaced(self, compute: Compute) -> Iterator[None]:
        """Within the block, ``compute`` runs what the engines would run."""
        self._compute = compute
        try:
            yield
        finally:
            self._compute = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One call of the original."""
        index, engine = self._calls, None
        self._calls += 1
        self.calls += self._compute is None
        if index < len(self._in_order):
            name, engine = self._in_order[index]
            leaves, spec = pytree.tree_flatten((args, kwargs))
            problem, _ = check_call(name, leaves, spec, engine.signature, engine.device)
            if not problem:
                with uncast(engine.device):
                    if self._compute is not None:
                        return self._compute(name, engine.program, args, kwargs)
                    flat = list(engine.step([v for v in leaves if isinstance(v, Tensor)]))
                    flat = own(flat, engine.storages)
                return pytree.tree_unflatten(flat, engine.program.out_spec)
        if self._compute is None:
            self.dense_calls += 1
            if engine is not None:
                if engine.program.carried:
                    raise StateError(
                        f"{name}: called with another size or number of arguments than in the example; its "
                        f"forward changes the buffer {engine.program.carried[0].name!r}, which the stream "
                        "carries for calls like the example's alone; convert with an example like this call"
                    )
                engine.forget()
        return self.original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
            return getattr(super().__getattr__("original"), name)


def floating_of(model: nn.Module) -> torch.dtype | None:
    """The dtype that a model computes in, None where it has no floating parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


class PartitionedModel(nn.Module):
    """A model with call sites in it: the body of a stream whose model was captured in parts.

    Args:
        model: the original; it is not changed, its weights are shared.
        engines: engines by submodule path, one for each call in a frame.
        signature: the model's call.
        left: what runs as it is (its path), and why.
        convolution_macs: of the whole dense model, for the share that streams.
        outside: the buffers that the code around the engines changes, by path in the original.
    """

    #: The outputs depend on the frame, and whether they are finite is looked at outside.
    outputs = None
    refuses = False
    watchers = ()

    def __init__(
        self,
        model: nn.Module,
        engines: Mapping[str, Sequence[Engine]],
        signature: Signature,
        left: tuple[tuple[str, str], ...],
        convolution_macs: int,
        outside: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._signature, self._made_in = signature, floating_of(model)
        self.left, self.convolution_macs = left, convolution_macs
        self.call_sites = {path: CallSite(path, found) for path, found in engines.items()}
        sites = {model.get_submodule(path): site for path, site in self.call_sites.items()}
        self.model = copy_with_shared_weights(model, sites)
        for site in self.call_sites.values():
            site.take_hooks()
        self.outside = OutsideState(self.model, [self._renamed(name) for name in outside], self.streams)
        self.frames = 0
        #: Keeps the pixels of its frames that are ignored, if any are.
        self.freezer: Freezer | None = None

    @property
    def signature(self) -> Signature:
        """The call it was made for, in the dtype the model has now."""
        floating = floating_of(self.model)
        if floating in (None, self._made_in):
            return self._signature
        specs = tuple(
            FrameSpec(shape, floating if dtype.is_floating_point else dtype)
            for shape, dtype in self._signature.frame_specs
        )
        return replace(self._signature, frame_specs=specs)

    @property
    def engines(self) -> dict[str, Engine]:
        """All engines by name: the submodule's path, numbered where it is called more than once."""
        return {name: engine for site in self.call_sites.values() for name, engine in site.engines.items()}

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return self._first.device

    @property
    def streams(self) -> int:
        """Independent streams in a batch."""
        return self._first.streams

    @property
    def _first(self) -> Engine:
        site = next(iter(self.call_sites.values()))
        return next(iter(site.engines.values()))

    @property
    def eager(self) -> tuple[tuple[str, str], ...]:
        """``left``, and the calls of captured submodules that did not fit."""
        unfit = [
            (path, f"{site.dense_calls} call(s) of another size or number than in the example")
            for path, site in self.call_sites.items()
            if site.dense_calls
        ]
        return (*self.left, *unfit, *((path, f"not called in {self.frames} frame(s)") for path in self.idle))

    @property
    def idle(self) -> tuple[str, ...]:
        """The captured submodules that no frame has called since counting began."""
        return tuple(p for p, site in self.call_sites.items() if self.frames and not site.calls)

    def fits(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
        """Nothing is known of a call before it was checked."""
        return False

    def run(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        frames: Sequence[Tensor],
        *,
        refuse: bool = False,
        alias: bool = False,
    ) -> Any:
        """One frame, by the model's own code with engines in it; see :class:`StreamBody`."""
        self.frames += 1
        freezer = self.freezer
        if freezer is None:
            return self._run(args, kwargs)
        seen = freezer.seen(frames)
        kept = freezer.keep(seen)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        tensors = iter(seen)
        args, kwargs = pytree.tree_unflatten(
            [next(tensors) if isinstance(v, Tensor) else v for v in leaves], spec
        )
        outputs = self._run(args, kwargs)
        freezer.advance(kept)
        return outputs

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for site in self.call_sites.values():
            site.begin_frame()
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def run_with(self, compute: Compute, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call, with ``compute`` in the place of every engine; the state is left alone."""
        with ExitStack() as stack:
            for site in self.call_sites.values():
                stack.enter_context(site.replaced(compute))
            return self._run(args, kwargs)

    def _renamed(self, name: str) -> str:
        """A path of the original as one of the copy, in which parts stand behind their call sites."""
        for path in self.call_sites:
            if name.startswith(f"{path}."):
                return f"{path}.original.{name.removeprefix(f'{path}.')}"
        return name

    def surroundings(self) -> Surroundings:
        """What lies around the engines, to be saved."""
        calls = {path: len(site.engines) for path, site in self.call_sites.items()}
        names = tuple(n.replace(".original.", ".") for n in self.outside.names)
        inside = is_in_bfloat16(self.model)
        return Surroundings(
            self.signature, calls, self.left, self.convolution_macs, self._weights(), names, inside
        )

    def _weights(self) -> dict[str, Tensor]:
        """The original model's state dict, from which it can be built again."""
        modules = self.model.named_modules(remove_duplicate=False)  # a submodule may stand under two names
        sites = [path for path, module in modules if isinstance(module, CallSite)]
        engines = tuple(f"{path}.registered." for path in sites)
        found = {}
        for key, tensor in (self.model.state_dict() | self.outside.initial).items():
            if key.startswith(engines):
                continue
            for path in sites:
                if key.startswith(f"{path}.original."):
                    key = f"{path}.{key.removeprefix(f'{path}.original.')}"
            found[key] = tensor
        return found

    def clear_counts(self) -> None:
        """Start counting anew."""
        self.frames = 0
        for site in self.call_sites.values():
            site.clear_counts()
        for engine in self.engines.values():
            engine.clear_counts()

    def _apply(self, fn: Move, recurse: bool = True) -> PartitionedModel:
        super()._apply(sharing(fn), recurse)  # type: ignore[no-untyped-call]
        self.outside.move(fn)
        if self.freezer is not None:
            self.freezer.move(fn)
        return self
