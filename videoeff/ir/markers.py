"""Operators of our own that stand in a planned graph.

Both are identities (of a value, of a concatenation) when the graph is run as plain PyTorch. A stream
reads more in them: where a buffer is kept, which change test guards it, and where its channels lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, fx

from videoeff.ir.grids import Grid

#: Change tests of a cache, over the channels of a pixel: largest, Euclidean, root mean square, root mean
#: square relative to the standard deviation of the node's own first value, and, for frames alone, root mean
#: square relative to the camera's noise.
TESTS = ("max", "l2", "rms", "rms-relative", "noise")

#: What a cache holds: a frame of the caller's, a buffer that the model carries from frame to frame, a map, a
#: value that scales a map, or any other value.
KINDS = ("input", "state", "map", "gate", "global")


def delta_cache(
    value: Tensor,
    name: str,
    *,
    kind: str = "map",
    layout: tuple[int | None, int | None, int | None] = (0, 2, 3),
    streams: tuple[int, ...] | None = None,
    test: str = "max",
    threshold: float = 0.0,
    block: int = 1,
    dilation: int = 0,
    noise: tuple[tuple[float, float, float], ...] = (),
    weak: float = 1.0,
    grow: int = 0,
    watched: str = "",
    predict: float = 0.0,
    dense: str = "",
    into: tuple[str, int, int, int] | None = None,
    recompute: bool = False,
    within: float | None = None,
    refresh: int = 0,
    grid: tuple[Any, ...] = (),
) -> Tensor:
    """Keep the value last propagated, and pass on only what changed.

    Args:
        value: the value, any shape.
        name: unique layer name, the key of thresholds and reports.
        kind: one of :data:`KINDS`.
        layout: the dimensions of stream rows, pixel rows and pixel columns (None where absent).
        streams: the stream each entry of the row dimension belongs to; None where they are mixed.
        test: one of :data:`TESTS`.
        threshold: a pixel counts as changed where the test exceeds it; 0 compares exactly.
        block: edge of the square blocks an input test looks at, in pixels; 1 tests each pixel. With
            ``block > 1`` the mean of the channel test over the block is compared; of the test "noise" the
            root mean square over the block.
        dilation: an input test marks this many blocks (pixels for block 1) around each hit as well.
        noise: of the test "noise", for each channel (gain, floor, black): the variance of a value x is
            floor + gain · max(x − black, 0).
        weak: share of the threshold that blocks next to a hit have to exceed to be hits too.
        grow: how often hits grow to such neighbours.
        watched: the pixels of an input that are watched, as ``videoeff.ir.watched`` writes them; "" for all.
            The others never count as changed, and keep the value that they have.
        predict: π of the predicted changes; 0 computes every pixel its inputs reach.
        dense: a reason to compute the whole value whenever anything before it changed, "" for sparse.
        into: (concatenation, first channel, channel step, channel dimension) of the slice written.
        recompute: the value need not be kept where its only reader can compute it anew (and its threshold
            is 0): a wide map is often cheaper to compute than to write, read and compare.
        within: a pixel is computed only if it lies within so many pixels of the frame of what changed there
            (or in a value that is computed whole); what is reached beyond is put off. None: without bound.
        refresh: what was put off is computed within so many frames all the same; 0: only when it is reached.
        grid: (scales, zeros, low, high, dimension of the channels) of the 8-bit numbers that the value is
            kept as, as of :class:`~videoeff.ir.grids.Grid`; () keeps it as it is.

    Returns:
        ``value``, rounded to its grid where it has one.
    """
    return value if not grid else quantized(value, *grid)


def quantized(
    value: Tensor, scales: tuple[float, ...], zeros: tuple[int, ...], low: int, high: int, dim: int
) -> Tensor:
    """Round a value to the numbers of a :class:`~videoeff.ir.grids.Grid`, without keeping it."""
    grid = Grid(tuple(scales), tuple(zeros), low, high, dim)
    return grid.decode(grid.encode(value), value.dtype)


def concat(parts: Sequence[Tensor], name: str, *, dim: int, step: int = 1) -> Tensor:
    """Concatenate channels; planned so that each part is already written in its place.

    Args:
        parts: the parts, in order.
        name: the name of the buffer that all parts share.
        dim: the channel dimension.
        step: 1 for a plain concatenation; the number of parts where channels interleave, which is
            what a channel shuffle after a concatenation does (Zhang et al., ShuffleNet, 2017).
    """
    if step == 1:
        return torch.cat(list(parts), dim)
    stacked = torch.stack(list(parts), dim + 1)
    return stacked.flatten(dim, dim + 1)


MARKERS: dict[str, Callable[..., Any]] = {
    "delta_cache": delta_cache,
    "concat": concat,
    "quantized": quantized,
}


def is_threshold(value: Any) -> bool:
    """Whether a value can be a threshold (or the π of predicted changes): a finite number, 0 or larger."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


def noise_problem(noise: Any) -> str:
    """Why a value cannot be the noise of a test, "" if it can."""
    legal = isinstance(noise, tuple) and all(
        isinstance(n, tuple) and len(n) == 3 and all(isinstance(x, (int, float)) for x in n) for n in noise
    )
    if legal and all(
        0 <= gain < math.inf and 0 < floor < math.inf and math.isfinite(black) for gain, floor, black in noise
    ):
        return ""
    return f"noise={noise!r}: give a tuple (gain >= 0, floor > 0, black) of finite numbers for each channel"


def growth_problem(weak: Any, grow: Any) -> str:
    """Why values cannot say how hits grow, "" if they can."""
    if not is_threshold(weak) or not 0 < weak <= 1:
        return f"weak={weak!r}: weak must be more than 0 and at most 1"
    if isinstance(grow, bool) or not isinstance(grow, int) or grow < 0:
        return f"grow={grow!r}: grow must be at least 0, and whole"
    return ""


def channels_of(shape: Sequence[int], layout: Sequence[int | None]) -> int:
    """How many numbers a pixel of a value has."""
    return math.prod(size for dim, size in enumerate(shape) if dim not in layout)


def is_cache(node: Any) -> bool:
    """Whether an fx argument is a ``delta_cache`` node."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is delta_cache


def is_concat(node: Any) -> bool:
    """Whether an fx argument is a planned ``concat`` node."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is concat


def cache_name(node: fx.Node) -> str:
    """The layer name of a ``delta_cache`` node."""
    return str(node.args[1])


def cache_option(node: fx.Node, option: str) -> Any:
    """One option of a ``delta_cache`` node, its default where the node leaves it out."""
    defaults = delta_cache.__kwdefaults__ or {}
    return node.kwargs.get(option, defaults[option])
