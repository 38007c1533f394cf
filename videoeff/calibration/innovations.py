"""Thresholds layer by layer, from what each layer's threshold does to the outputs.

Where a layer holds changes back, its buffer differs from the value that the buffers before it give. These
innovations e add up: to first order the error of the outputs is the sum of J·e over the layers, J being the
derivative of the outputs by the layer's value. With a few random directions v over the outputs, the mean of
⟨Jᵀv, e⟩² says how much of the error is a layer's own. It is measured in the running stream, with all
thresholds at several multiples of what was chosen; so is the share of pixels that each layer passes on, which
its readers have to compute. Of the multiples each layer then takes the one whose cost and weighted error are
least together, and a common factor is set on frames of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx

from videoeff.analysis.regions import regions
from videoeff.calibration.settings import Settings, apply
from videoeff.calibration.trials import Bench, warm_frames
from videoeff.ir import edit
from videoeff.ir.markers import cache_name, cache_option, delta_cache, is_cache
from videoeff.runtime.engine import Engine
from videoeff.runtime.observation import Observation
from videoeff.runtime.streaming_module import StreamingModule

#: Multiples of the threshold that are measured.
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
#: The threshold to measure around, where none larger was chosen.
USUAL = 0.1
#: Random directions over the outputs, and of how many frames one is looked at.
_DIRECTIONS, _EVERY = 2, 8
#: A channel of the outputs that moves less than this share of the largest one counts as if it moved so.
_LEAST = 1e-3


@dataclass(frozen=True)
class Measured:
    """What the thresholds of the layers do, at each of :data:`FACTORS`.

    Attributes:
        errors: by layer name, of the error of the outputs what is the layer's own.
        passed: by layer name, share of the pixels passed on.
        readers: by layer name, cost of computing all that reads it whole.
    """

    errors: Mapping[str, Sequence[float]]
    passed: Mapping[str, Sequence[float]]
    readers: Mapping[str, float]

    def factors(self, weight: float) -> dict[str, float]:
        """The multiple of the threshold that each layer takes.

        Args:
            weight: of the error against the cost, both being 1 in all with the thresholds as they are.
        """
        usual = FACTORS.index(1.0)
        error = sum(e[usual] for e in self.errors.values()) or 1.0
        cost = sum(self.readers[n] * p[usual] for n, p in self.passed.items()) or 1.0
        found = {}
        for layer, errors in self.errors.items():
            costs = [self.readers[layer] * p / cost for p in self.passed[layer]]
            sums = [c + weight * e / error for c, e in zip(costs, errors, strict=True)]
            found[layer] = FACTORS[min(range(len(sums)), key=sums.__getitem__)]
        return found


def why_not(stream: StreamingModule) -> str:
    """Why a stream's layers cannot be told apart, "" where they can."""
    engines = list(stream.engines.values())
    if len(engines) != 1 or stream.body is not engines[0]:
        return "the model is captured in parts"
    if engines[0].program.carried:
        return "the model carries values from frame to frame"
    return ""


def measure(
    bench: Bench, settings: Settings, blocks: Sequence[range], costs: Mapping[str, float]
) -> Measured:
    """Run a stream on frames of the clip with several multiples of a threshold.

    Args:
        bench: runs the stream, which :func:`why_not` has nothing against.
        settings: with a threshold.
        blocks: of frames.
        costs: of computing each layer whole, by layer name.
    """
    (engine,) = bench.stream.engines.values()
    runs = [
        _run(bench, replace(settings, threshold=factor * settings.threshold), blocks) for factor in FACTORS
    ]
    held = [
        name
        for name, cache in edit.cache_by_name(engine.program).items()
        if cache_option(cache, "threshold") > 0 and cache_option(cache, "kind") in ("map", "gate")
    ]
    layers = [n for n in held if all(n in errors and n in passed for errors, passed in runs)]
    readers = _readers(engine, costs)
    return Measured(
        {n: [errors[n] for errors, _ in runs] for n in layers},
        {n: [passed[n] for _, passed in runs] for n in layers},
        {n: readers.get(n, 0.0) for n in layers},
    )


def _readers(engine: Engine, costs: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for region in regions(engine.program):
        for source in region.reads:
            if is_cache(source):
                name = cache_name(source)
                found[name] = found.get(name, 0.0) + costs.get(region.name, 0.0)
    return found


def _run(
    bench: Bench, settings: Settings, blocks: Sequence[range]
) -> tuple[dict[str, float], dict[str, float]]:
    """The errors and the shares passed on, by layer name."""
    stream = bench.stream
    apply(stream, settings, bench.units)
    (engine,) = stream.engines.values()
    generator = torch.Generator().manual_seed(0)
    errors: dict[str, float] = {}
    passed: dict[str, float] = {}
    looked = frames = 0
    for block in blocks:
        stream.reset()
        warm = warm_frames(len(block))
        for place, number in enumerate(block):
            args, kwargs = bench.frames.call(number)
            seen = Observation()
            engine.observe(seen.observer("") if place >= warm else None)
            with torch.no_grad():
                stream(*args, **kwargs)
            if place < warm:
                continue
            frames += 1
            for layer, mask in seen.changed.items():
                passed[layer] = passed.get(layer, 0.0) + float(mask.float().mean())
            if (place - warm) % _EVERY == 0:
                looked += 1
                for layer, error in _innovations(engine, args, kwargs, generator).items():
                    errors[layer] = errors.get(layer, 0.0) + error
    engine.observe(None)
    return {n: e / looked for n, e in errors.items()}, {n: p / frames for n, p in passed.items()}


def _innovations(
    engine: Engine, args: tuple[Any, ...], kwargs: Mapping[str, Any], generator: torch.Generator
) -> dict[str, float]:
    """The mean of ⟨Jᵀv, e⟩² of every layer over some directions v, on the frame that was computed last."""
    flat = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
    walk = _AtBuffers(engine)
    with torch.enable_grad():
        outputs = [v for v in walk.run(*flat) if isinstance(v, Tensor) and v.requires_grad]
    layers = list(walk.innovations)
    found = dict.fromkeys(layers, 0.0)
    if not outputs or not layers:
        return found
    for turn in range(_DIRECTIONS):
        directions = [_direction(v, generator) for v in outputs]
        gradients = torch.autograd.grad(
            outputs,
            [walk.innovations[n] for n in layers],
            directions,
            retain_graph=turn < _DIRECTIONS - 1,
            allow_unused=True,
        )
        for layer, gradient in zip(layers, gradients, strict=True):
            if gradient is not None:
                product = (gradient * walk.innovations[layer].detach()).sum()
                found[layer] += float(product) ** 2 / _DIRECTIONS
    return found


def _direction(output: Tensor, generator: torch.Generator) -> Tensor:
    """A normal direction over an output; each channel (the last dimension of rows) in units of its spread."""
    value = output.detach()
    channel = 1 if value.ndim == 4 else value.ndim - 1
    others = [d for d in range(value.ndim) if d != channel]
    spread = value.std(dim=others, keepdim=True, correction=0) if others else value.abs()
    least = max(_LEAST * float(spread.max()), torch.finfo(value.dtype).tiny)
    drawn = torch.randn(value.shape, generator=generator).to(value)
    return drawn / spread.clamp_min(least) / math.sqrt(value.numel())


class _AtBuffers(fx.Interpreter):
    """Computes the network so that each layer's value is what its buffer holds.

    Attributes:
        innovations: by layer name, what the buffer holds above the value that the buffers before it give; the
            outputs can be derived by it.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.program.module)
        self._values = engine.values()
        self.innovations: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        if n.op != "call_function" or n.target is not delta_cache:
            return super().run_node(n)
        (source,) = n.all_input_nodes
        value = self.env[source]
        name = cache_name(n)
        if name not in self._values or not value.is_floating_point():
            return value
        innovation = (self._values[name] - value).detach().clone().requires_grad_()
        self.innovations[name] = innovation
        return value + innovation
