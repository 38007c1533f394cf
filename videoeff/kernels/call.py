"""What a kernel is given: one region of a planned graph as a call, and the context it runs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from videoeff.ir.layout import PixelLayout


@dataclass(frozen=True)
class StateSpec:
    """One buffer of a stream's state.

    Attributes:
        name: unique name, ``<cache>.value``, ``<cache>.scale`` or ``<cache>.pending``.
        shape: its shape.
        dtype: its dtype.
        rows: the dimension indexed by stream rows, None where streams share it.
        parent: name of the buffer this one is a channel slice of, None for a buffer of its own.
        channels: (dimension, start, step) of that slice.
        channels_last: whether a (B, C, H, W) buffer lies channels-last in memory.
        pixel: of such a buffer, elements from one pixel to the next where they are more than its channels;
            what lies between is zero and never written.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int | None = None
    parent: str | None = None
    channels: tuple[int, int, int] | None = None
    channels_last: bool = False
    pixel: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes held, gaps included; 0 for a slice of another buffer."""
        if self.parent is not None:
            return 0
        if self.pixel:
            return self.dtype.itemsize * math.prod(self.shape) // self.shape[1] * self.pixel
        return self.dtype.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, the state schema of an artifact."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "parent": self.parent,
            "channels": None if self.channels is None else list(self.channels),
        }


@dataclass(frozen=True)
class Read:
    """A buffer a call reads: a state by name, or a slice (dim, first, last + 1) of it."""

    state: str
    part: tuple[int, int, int] | None = None

    def of(self, buffers: Mapping[str, Tensor]) -> Tensor:
        """The buffer, or a view of the slice."""
        buffer = buffers[self.state]
        if self.part is None:
            return buffer
        dim, first, last = self.part
        return buffer.narrow(dim, first, last - first)


@dataclass(frozen=True)
class Test:
    """The change test that guards a value."""

    kind: str = "max"
    threshold: float = 0.0
    block: int = 1
    dilation: int = 0


@dataclass(frozen=True)
class Prediction:
    """Predicted changes of one convolution.

    Attributes:
        factor: π.
        sources: (cache, share) whose squared magnitudes, weighted and summed, are the input's m².
        residuals: (cache, share) added as they are.
        weight: name of the convolution's weight.
        stride, padding, dilation: of the convolution; padding as ((top, bottom), (left, right)).
        pending: name of the state that keeps what was put off, (R, H, W) float32.
    """

    factor: float
    sources: tuple[tuple[str, float], ...]
    residuals: tuple[tuple[str, float], ...]
    weight: str
    stride: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    pending: str


@dataclass(frozen=True)
class Operand:
    """A tensor that a step takes.

    Attributes:
        source: "read", "constant" or "step".
        index: which of the call's reads, constants or steps.
        shape: its shape.
        dtype: its dtype.
        layout: its streams and pixels, None for a constant.
        masks: the caches whose masks tell which pixels of a read changed.
    """

    source: str
    index: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: PixelLayout | None
    masks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One operator inside a region.

    Attributes:
        target: its overload as text, ``aten.relu.default``.
        arguments: by schema name: an :class:`Operand`, a tuple with some in it, or a literal.
        shape: the result's shape, None where it is not one tensor.
        dtype: the result's dtype.
        layout: the result's streams and pixels.
        traced: whether the result's pixels are followed, so that ``layout`` is to be trusted.
        function: the overload itself.
    """

    target: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    layout: PixelLayout | None
    traced: bool
    function: Callable[..., Any]


@dataclass(frozen=True)
class RegionCall:
    """One region: compute a value from buffers, test it, keep it.

    Attributes:
        name: the layer name.
        kind: "input", "map", "gate" or "global".
        layout: layout of the value.
        value: state that keeps it.
        scale: name of the state with its scale (R,) float32, "" where the test needs none.
        test: the change test.
        compute: the region on full tensors: ``compute(*buffers, *constants)``; for an input, the identity.
        reads: its buffers.
        constants: its constants by name.
        reach: from masks by layer name to the mask of pixels to compute; None for dense and input calls.
        mask_reads: the caches whose masks it needs, with the streams of their rows (None: mixed).
        dense: why the value is computed whole, "" if it is not.
        macs: multiply-accumulates of computing it whole.
        prediction: predicted changes, None where they are off.
        wants_magnitude: whether a later call predicts from this one's magnitude.
        steps: the operators that compute it, in order; the last gives the value.
        result: what the value is: the last step, or a read or constant itself. None for an input.
        input_index: which frame tensor an input call takes.
        buffers: the plan's buffers by state name without memory ("meta"), for their strides.
        specs: the plan's state by name.
        device: the kind of device the state lies on, "cpu" or "cuda".
    """

    name: str
    kind: str
    layout: PixelLayout
    value: StateSpec
    scale: str
    test: Test
    compute: Callable[..., Tensor]
    reads: tuple[Read, ...]
    constants: tuple[str, ...]
    reach: Callable[[Mapping[str, Tensor]], Tensor] | None
    mask_reads: tuple[tuple[str, tuple[int, ...] | None], ...]
    dense: str
    macs: int
    prediction: Prediction | None = None
    wants_magnitude: bool = False
    steps: tuple[Step, ...] = ()
    result: Operand | None = None
    input_index: int = -1
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    specs: Mapping[str, StateSpec] = field(default_factory=dict)
    device: str = "cpu"

    @property
    def extent(self) -> tuple[int, int, int]:
        """The mask's shape (R, H, W)."""
        return self.layout.extent(self.value.shape)


@dataclass
class Context:
    """One frame on its way through the calls.

    Attributes:
        frames: the tensors of this frame.
        state: buffers by state name, written in place.
        constants: constants by name.
        fresh: bool (S,): streams whose state holds nothing yet.
        any_fresh: whether any stream is fresh, known on the host.
        all_fresh: whether all are.
        masks: (R, H, W) bool by layer name, filled as calls run.
        magnitudes: squared magnitudes (R, H, W) float32 by layer name, for predictions.
        active: number of computed pixels by layer name, an int or a tensor that is not read yet.
        scheduled: number of pixels the kernel really worked on by layer name, like ``active``.
        keep_active: whether to keep each call's active mask for an observer, in ``active_masks``.
        refuse: whether a group that can is to refuse a frame with NaN or infinity.
    """

    frames: tuple[Tensor, ...]
    state: dict[str, Tensor]
    constants: Mapping[str, Tensor]
    fresh: Tensor
    any_fresh: bool
    all_fresh: bool
    masks: dict[str, Tensor] = field(default_factory=dict)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    active: dict[str, int | Tensor] = field(default_factory=dict)
    scheduled: dict[str, int | Tensor] = field(default_factory=dict)
    keep_active: bool = False
    refuse: bool = False
    active_masks: dict[str, Tensor] = field(default_factory=dict)

    def fresh_rows(self, streams: tuple[int, ...] | None) -> Tensor:
        """Fresh flags (R, 1, 1) of a value whose rows belong to ``streams``."""
        if streams is None:
            return self.fresh.any().view(1, 1, 1)
        if streams == tuple(range(self.fresh.numel())):
            return self.fresh.view(-1, 1, 1)
        index = torch.tensor(streams, device=self.fresh.device)
        return self.fresh[index].view(-1, 1, 1)
