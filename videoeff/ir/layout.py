"""What is known of a node's value: its shape, its dtype, and which dimensions are streams and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx


@dataclass(frozen=True)
class PixelLayout:
    """Which dimensions of a tensor are its streams and its pixels.

    A change mask has one bit per pixel and stream, shape ``(R, H, W)``; every other dimension of the
    tensor counts as channels.

    Attributes:
        rows: dimension whose entries belong to streams (the batch), or None.
        h: dimension of the pixel rows, or None where the value has no vertical extent.
        w: dimension of the pixel columns, or None.
        streams: for each entry of ``rows`` the stream it belongs to; None where entries of several
            streams are mixed, or where there is no ``rows`` dimension.
    """

    rows: int | None = None
    h: int | None = None
    w: int | None = None
    streams: tuple[int, ...] | None = None

    def extent(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The mask shape ``(R, H, W)`` of a tensor of ``shape``; 1 where a role has no dimension."""
        return (
            1 if self.rows is None else int(shape[self.rows]),
            1 if self.h is None else int(shape[self.h]),
            1 if self.w is None else int(shape[self.w]),
        )

    def is_spatial(self, shape: Sequence[int]) -> bool:
        """Whether the value has more than one pixel."""
        _, height, width = self.extent(shape)
        return height * width > 1


@dataclass(frozen=True)
class ValueInfo:
    """Shape, dtype and layout of one node's value.

    Attributes:
        shape: the static shape, None for a value that is not a tensor.
        dtype: its dtype, None for a value that is not a tensor.
        layout: which dimensions are streams and pixels; None for constants and non-tensors.
        dense: why the value's pixels cannot be traced to input pixels, "" where they can.
    """

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    layout: PixelLayout | None = None
    dense: str = ""

    @property
    def numel(self) -> int:
        """Number of elements, 0 for a value that is not a tensor."""
        if self.shape is None:
            return 0
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def is_spatial(self) -> bool:
        """Whether the value is a map of more than one pixel."""
        return self.layout is not None and self.shape is not None and self.layout.is_spatial(self.shape)


def info(node: fx.Node) -> ValueInfo:
    """The node's shape, dtype and layout, as the analyses left them."""
    value = node.meta.get("value")
    if not isinstance(value, ValueInfo):
        raise KeyError(f"{node.name}: not analysed; call videoeff.analysis.annotate(program) first")
    return value


@dataclass(frozen=True)
class StreamedInfo:
    """Shape, dtype and layout of a tensor that streams."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: PixelLayout


def streamed_info(node: fx.Node) -> StreamedInfo:
    """The shape, dtype and layout of a node that has all three, as what a cache keeps does.

    Raises:
        TypeError: it has not.
    """
    value = info(node)
    if value.shape is None or value.dtype is None or value.layout is None:
        raise TypeError(f"{node.name}: it is no tensor that changes from frame to frame")
    return StreamedInfo(value.shape, value.dtype, value.layout)


def invalidate(node: fx.Node) -> None:
    """Forget what is known about a node, after its arguments changed."""
    node.meta.pop("value", None)


def tell_shape(node: fx.Node, shape: tuple[int, ...] | None, dtype: torch.dtype | None) -> None:
    """Forget a node's layout; its shape is known and need not be derived again."""
    node.meta["value"] = ShapeOnly(shape, dtype)


@dataclass(frozen=True)
class ShapeOnly:
    """What is known of a node whose layout has still to be found; fields as in :class:`ValueInfo`."""

    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
