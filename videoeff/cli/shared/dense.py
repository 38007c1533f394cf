"""The dense model beside its stream, and how far the two lie apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from videoeff.ir.markers import cache_name, is_cache
from videoeff.kernels.computation import Computation
from videoeff.runtime.dense import (
    Carried,
    Step,
    is_quantised,
    run_dense,
    run_plainly,
    run_whole,
    twin_of,
)
from videoeff.runtime.zoning import as_seen

if TYPE_CHECKING:
    from pathlib import Path

    from videoeff.ir.program import Program
    from videoeff.runtime.streaming_module import StreamingModule

#: Called with a layer's name and the value the dense model has there.
Watch = Callable[[str, Tensor], None]


class Dense:
    """The dense model of a stream: the same graph computed whole, and the same call.

    It remembers what the model itself carries from frame to frame, and nothing else.
    """

    def __init__(self, stream: StreamingModule) -> None:
        self.stream = stream
        self._carried = Carried()

    def seen(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A call as the stream sees it: with zones, its ignored pixels are those that the stream keeps."""
        return as_seen(self.stream.body, args, kwargs)

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], watch: Watch | None = None) -> Any:
        """The model's outputs for one frame as it is :meth:`seen`, computed whole.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            watch: sees every layer on the way.
        """

        def watched(name: str, program: Program, flat: Sequence[Tensor], carried: Sequence[Tensor]) -> Step:
            assert watch is not None
            engine, prefix = self.stream.engines.get(name), f"{name}." if name else ""
            if engine is not None and is_quantised(engine) and not program.carried:
                outputs = run_whole(engine, flat)
                for layer, value in twin_of(engine).values().items():
                    watch(f"{prefix}{layer}", value)
                return outputs, ()
            watching = _Watching(program.module, watch, f"{name}." if name else "")
            return program.parted(tuple(watching.run(*flat, *carried)))

        run = run_plainly if watch is None else watched
        return run_dense(self.stream.body, args, kwargs, self._carried, run)


def largest_step(stream: StreamingModule) -> int | None:
    """By how many steps any 8-bit number is off from PyTorch's evaluation of the values it is computed from.

    Right after a frame in which everything was computed. None for a stream without such numbers.
    """
    most: int | None = None
    for engine in stream.engines.values():
        constants = dict(engine.network.named_buffers(remove_duplicate=False))
        for call in (i.call for i in engine.plan.instructions):
            grid = call.value.grid
            if grid is None or not isinstance(call.source, Computation):
                continue
            with torch.no_grad():
                expected = grid.encode(call.source.run(engine.state, constants))
            off = (expected.int() - engine.state[call.value.name].int()).abs()
            most = max(most or 0, int(off.max()))
    return most


def own_model(stream: StreamingModule, reference: str, weights: Path | None) -> nn.Module:
    """The model that a stream was made of, to be run as it is.

    Args:
        stream: the stream; its device and dtype are the model's.
        reference: what builds the model.
        weights: its state dict; if None, what the artifact holds of it or what it is built with.

    Raises:
        VideoEffError: it cannot be built, or the weights do not fit.
    """
    from videoeff.cli.shared.checkpoint import load_into
    from videoeff.cli.shared.source import build_model

    model = build_model(reference)
    around = stream.body.surroundings()
    if weights is not None:
        load_into(model, weights, reference, None)
    elif around is not None:
        model.load_state_dict(dict(around.weights))
    dtypes = [spec.dtype for spec in stream.body.signature.frame_specs]
    floating = next((d for d in dtypes if d.is_floating_point), None)
    return model.to(stream.device, floating).eval()


class _Watching(fx.Interpreter):
    """Runs a graph node by node and shows what each cache would keep."""

    def __init__(self, module: fx.GraphModule, watch: Watch, prefix: str) -> None:
        super().__init__(module)
        self.watch, self.prefix = watch, prefix

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        if is_cache(n) and isinstance(value, Tensor):
            self.watch(f"{self.prefix}{cache_name(n)}", value)
        return value


def tensors_of(outputs: Any) -> list[Tensor]:
    """The tensors among a model's outputs, in order."""
    return [v for v in pytree.tree_leaves(outputs) if isinstance(v, Tensor)]


@dataclass(frozen=True)
class Distance:
    """How far a tensor lies from the dense one.

    Attributes:
        max_abs: largest difference; infinite where only one of the two is NaN, or they disagree in shape.
        relative: that over the dense tensor's largest magnitude (over 1 for a tensor of zeros).
        squares: sum of squared differences.
        dense_squares: sum of the dense tensor's squares.
    """

    max_abs: float
    relative: float
    squares: float
    dense_squares: float


def distance(found: Tensor, dense: Tensor) -> Distance:
    """Compare two tensors in float64."""
    if found.shape != dense.shape:
        return Distance(float("inf"), float("inf"), float("inf"), 1.0)
    if not found.numel():
        return Distance(0.0, 0.0, 0.0, 0.0)
    a, b = found.detach().to("cpu", torch.float64), dense.detach().to("cpu", torch.float64)
    difference = (a - b).abs()
    difference = torch.where((a == b) | (a.isnan() & b.isnan()), torch.zeros_like(difference), difference)
    difference = difference.nan_to_num(nan=float("inf"), posinf=float("inf"))
    magnitude = b.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    largest, scale = float(difference.max()), float(magnitude.abs().max())
    return Distance(
        largest, largest / (scale or 1.0), float(difference.square().sum()), float(magnitude.square().sum())
    )


@dataclass
class Errors:
    """Distances of the outputs, added up over frames.

    Attributes:
        max_abs: largest difference so far.
        relative: largest relative difference so far.
        other_shapes: frames in which the outputs disagree in number or shape (detections that vary).
    """

    max_abs: float = 0.0
    relative: float = 0.0
    other_shapes: int = 0
    _squares: float = field(default=0.0, repr=False)
    _dense_squares: float = field(default=0.0, repr=False)

    def add(self, found: Any, dense: Any) -> None:
        """One frame's outputs, of the stream and of the dense model."""
        ours, theirs = tensors_of(found), tensors_of(dense)
        if [v.shape for v in ours] != [v.shape for v in theirs]:
            self.other_shapes += 1
            return
        for a, b in zip(ours, theirs, strict=True):
            one = distance(a, b)
            self.max_abs, self.relative = max(self.max_abs, one.max_abs), max(self.relative, one.relative)
            self._squares += one.squares
            self._dense_squares += one.dense_squares

    @property
    def relative_l2(self) -> float:
        """Length of the difference over length of the dense outputs, over all frames."""
        if self._dense_squares == 0.0:
            return 0.0 if self._squares == 0.0 else float("inf")
        return float((self._squares / self._dense_squares) ** 0.5)
