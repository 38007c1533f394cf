"""Shell: a model whose largest exportable parts were replaced by engines."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.engine import Engine
from videoeff.frames import check_frames


class Site(nn.Module):
    """Stands where a submodule stood: its n-th call in a frame goes to its n-th engine.

    A call that does not fit the engine (another size) runs the original module, and the engine forgets.
    """

    def __init__(self, original: nn.Module, engines: list[Engine]) -> None:
        super().__init__()
        self.original = original
        self.engines = nn.ModuleList(engines)
        self.calls = 0
        self.dense_calls = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """One call of the original."""
        index = self.calls
        self.calls += 1
        if index < len(self.engines):
            engine = self.engines[index]
            assert isinstance(engine, Engine)  # what the list is made of
            leaves, spec = pytree.tree_flatten((args, kwargs))
            program = engine.program
            problem, _ = check_frames(
                "part", leaves, spec, program.in_spec, program.literals, engine.plan.frames, engine.device
            )
            if not problem:
                flat = engine.step([v for v in leaves if isinstance(v, Tensor)])
                return pytree.tree_unflatten(list(flat), program.out_spec)
            engine.reset()
        self.dense_calls += 1
        return self.original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("original"), name)


class Shell(nn.Module):
    """The model with sites in it.

    Args:
        model: the original; it is not changed, its weights are shared.
        engines: engines by submodule path, one for each call in a frame.
        example: (args, kwargs) of the example call.
        left: what runs as it is, and why.
        convolution_macs: of the whole dense model, for the share that streams.
    """

    def __init__(
        self,
        model: nn.Module,
        engines: Mapping[str, list[Engine]],
        example: tuple[tuple[Any, ...], dict[str, Any]],
        left: tuple[tuple[str, str], ...],
        convolution_macs: int,
    ) -> None:
        super().__init__()
        leaves, self.in_spec = pytree.tree_flatten(example)
        self.literals = tuple(None if isinstance(v, Tensor) else v for v in leaves)
        self._frames = tuple((tuple(v.shape), v.dtype) for v in leaves if isinstance(v, Tensor))
        self.left, self.convolution_macs = left, convolution_macs
        self.model = _with_shared_weights(model)
        self.sites: dict[str, Site] = {}
        for path, found in engines.items():
            *parents, leaf = path.split(".")
            parent = self.model.get_submodule(".".join(parents))
            site = Site(parent.get_submodule(leaf), found)
            parent.register_module(leaf, site)
            self.sites[path] = site

    @property
    def frames(self) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """(shape, dtype) of the input tensors, in the dtype the model has now."""
        floating = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), None)
        return tuple(
            (s, floating if floating is not None and d.is_floating_point else d) for s, d in self._frames
        )

    def set_frames(self, frames: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> None:
        """Set (shape, dtype) of the input tensors, as read from a file."""
        self._frames = tuple(frames)

    @property
    def engines(self) -> dict[str, Engine]:
        """All engines by name: the submodule's path, numbered where it is called more than once."""
        found: dict[str, Engine] = {}
        for path, site in self.sites.items():
            for index, engine in enumerate(site.engines):
                assert isinstance(engine, Engine)  # what the list is made of
                found[path if len(site.engines) == 1 else f"{path}#{index + 1}"] = engine
        return found

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One frame."""
        for site in self.sites.values():
            site.calls = 0
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def twin(self, memo: dict[int, Any]) -> Shell:
        """A deep copy."""
        model = copy.deepcopy(self.model, memo)
        made = copy.copy(self)
        made._modules = {"model": model}
        sites = {path: model.get_submodule(path) for path in self.sites}
        made.sites = {path: site for path, site in sites.items() if isinstance(site, Site)}
        return made


def _with_shared_weights(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors are the original's."""
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        memo[id(tensor)] = tensor
    return copy.deepcopy(model, memo)
