"""Shell: a model whose largest exportable parts were replaced by engines."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.errors import CaptureError
from videoeff.ir.program import Argument
from videoeff.runtime.engine import Engine
from videoeff.runtime.inputs import check_frames
from videoeff.runtime.outputs import own


class Site(nn.Module):
    """Stands where a submodule stood: its n-th call in a frame goes to its n-th engine.

    A call that does not fit the engine (another size) runs the original module, and the engine forgets.
    Its outputs are copies, because the code around it may write into them.
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
                flat = own(list(engine.step([v for v in leaves if isinstance(v, Tensor)])), engine.storages)
                return pytree.tree_unflatten(flat, program.out_spec)
            engine.reset()
        self.dense_calls += 1
        return self.original(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("__"):
                raise
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
        self.literals = tuple(Argument.TENSOR if isinstance(v, Tensor) else v for v in leaves)
        self._frames = tuple((tuple(v.shape), v.dtype) for v in leaves if isinstance(v, Tensor))
        self.left, self.convolution_macs = left, convolution_macs
        self.model = copy_with_shared_weights(model)
        self.sites: dict[str, Site] = {}
        for path, found in engines.items():
            original = self.model.get_submodule(path)
            site = Site(original, found)
            for module in list(self.model.modules()):
                for name, child in module.named_children():
                    if child is original and module is not site:
                        module.register_module(name, site)
            self.sites[path] = site

    @property
    def frames(self) -> tuple[tuple[tuple[int, ...], torch.dtype], ...]:
        """(shape, dtype) of the input tensors, in the dtype the model has now."""
        floating = next((p.dtype for p in self.model.parameters() if p.is_floating_point()), None)
        return tuple(
            (s, floating if floating is not None and d.is_floating_point else d) for s, d in self._frames
        )

    @property
    def left_now(self) -> tuple[tuple[str, str], ...]:
        """``left``, and the calls of captured parts that did not fit."""
        unfit = [
            (path, f"{site.dense_calls} call(s) of another size or number than in the example")
            for path, site in self.sites.items()
            if site.dense_calls
        ]
        return (*self.left, *unfit)

    def weights(self) -> dict[str, Tensor]:
        """The original model's state dict, from which it can be built again."""
        inside = tuple(f"{path}.engines." for path in self.sites)
        found = {}
        for key, tensor in self.model.state_dict().items():
            if key.startswith(inside):
                continue
            for path in self.sites:
                if key.startswith(f"{path}.original."):
                    key = f"{path}.{key.removeprefix(f'{path}.original.')}"
            found[key] = tensor
        return found

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


def copy_with_shared_weights(model: nn.Module) -> nn.Module:
    """A copy of the module tree whose tensors lie in the original's memory.

    They are tensors of their own, so that moving or casting the copy leaves the original where it is.

    Raises:
        CaptureError: the model holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    try:
        return _copied(model, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__}: it cannot be copied ({error}), which capturing it in parts needs; keep "
            "open files, locks and the like out of the model"
        ) from error


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    return copy.deepcopy(model, memo)
