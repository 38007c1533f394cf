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

#: Change tests of a cache, over the channels of a pixel: largest, Euclidean, root mean square, and root
#: mean square relative to the standard deviation of the node's own first value.
TESTS = ("max", "l2", "rms", "rms-relative")

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
    predict: float = 0.0,
    dense: str = "",
    into: tuple[str, int, int, int] | None = None,
    recompute: bool = False,
    within: float | None = None,
    refresh: int = 0,
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
            ``block > 1`` the mean of the channel test over the block is compared.
        dilation: an input test marks this many blocks (pixels for block 1) around each hit as well.
        predict: π of the predicted changes; 0 computes every pixel its inputs reach.
        dense: a reason to compute the whole value whenever anything before it changed, "" for sparse.
        into: (concatenation, first channel, channel step, channel dimension) of the slice written.
        recompute: the value need not be kept where its only reader can compute it anew (and its threshold
            is 0): a wide map is often cheaper to compute than to write, read and compare.
        within: a pixel is computed only if it lies within so many pixels of the frame of what changed there
            (or in a value that is computed whole); what is reached beyond is put off. None: without bound.
        refresh: what was put off is computed within so many frames all the same; 0: only when it is reached.

    Returns:
        ``value``.
    """
    return value


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


MARKERS: dict[str, Callable[..., Any]] = {"delta_cache": delta_cache, "concat": concat}


def is_threshold(value: Any) -> bool:
    """Whether a value can be a threshold (or the π of predicted changes): a finite number, 0 or larger."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf


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
