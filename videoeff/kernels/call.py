"""What a kernel is given: one region of a planned graph as a call, and the context it runs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from videoeff.ir.grids import Grid, option_of
from videoeff.ir.layout import PixelLayout
from videoeff.ir.watched import text_to_mask
from videoeff.kernels.computation import Computation, Operand
from videoeff.ops.home import Near


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
        pixel_stride: of such a buffer, elements from one pixel to the next where they are more than its
            channels; what lies between is zero and never written.
        grid: what the numbers that it holds stand for; None where they are the values themselves.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    rows: int | None = None
    parent: str | None = None
    channels: tuple[int, int, int] | None = None
    channels_last: bool = False
    pixel_stride: int = 0
    grid: Grid | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held, gaps included; 0 for a slice of another buffer."""
        if self.parent is not None:
            return 0
        if self.pixel_stride:
            return self.dtype.itemsize * math.prod(self.shape) // self.shape[1] * self.pixel_stride
        return self.dtype.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, the state schema of an artifact."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "parent": self.parent,
            "channels": None if self.channels is None else list(self.channels),
            **({} if self.grid is None else {"grid": list(option_of(self.grid))}),
        }


@dataclass(frozen=True)
class Test:
    """The change test that guards a value; ``videoeff.ir.markers.delta_cache`` says what each word means."""

    kind: str = "max"
    threshold: float = 0.0
    block: int = 1
    dilation: int = 0
    noise: tuple[tuple[float, float, float], ...] = ()
    weak: float = 1.0
    grow: int = 0
    watched: str = ""

    @property
    def blocks(self) -> bool:
        """Whether it looks at more than a pixel."""
        return self.block != 1 or self.dilation != 0 or self.grow != 0


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

    @property
    def layers(self) -> tuple[str, ...]:
        """The caches whose magnitudes it reads."""
        return tuple(name for name, _ in (*self.sources, *self.residuals))


@dataclass(frozen=True, eq=False)
class Vicinity:
    """The pixels of maps of one size that lie near what changed. Maps with the same bound share it.

    Attributes:
        name: unique in the plan.
        extent: (R, H, W) of the maps.
        near: where changes come from, and which of it is near each pixel.
    """

    name: str
    extent: tuple[int, int, int]
    near: tuple[Near, ...]


@dataclass(frozen=True)
class Bound:
    """A bounded reach: of the pixels that changes reach, those in the vicinity are computed, others put off.

    Attributes:
        vicinity: what lies near enough.
        deferred: name of the state with a bit for each pixel that was put off, int64 (R, H, ceil(W / 64)),
            bit x % 64 of word x // 64.
        phase: name of the state with the frames (S,) int32 that each stream has seen since its first; it may
            begin anew after whole sweeps. Negative: nothing of the stream is refreshed in this frame.
        sweep: where the rows of each frame of a sweep begin, and the last ones end, N + 1 numbers. In frame p
            of a sweep of N what was put off of rows ``sweep[p]`` to ``sweep[p + 1] - 1`` is computed wherever
            it lies. Empty: nothing is.
    """

    vicinity: Vicinity
    deferred: str
    phase: str
    sweep: tuple[int, ...]


@dataclass(frozen=True)
class Input:
    """A region's value is the caller's: which of the frame tensors."""

    index: int


Reach = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class RegionCall:
    """One region: compute a value from buffers, test it, keep it.

    Attributes:
        name: the layer name.
        kind: "input", "state", "map", "gate" or "global".
        layout: layout of the value.
        value: state that keeps it.
        scale: name of the state with its scale (R,) float32, "" where the test needs none.
        test: the change test.
        source: where the value comes from.
        reach: from masks by layer name to the mask of pixels to compute; None for dense and input calls.
        mask_reads: the caches whose masks it needs, with the streams of their rows (None: mixed).
        dense: why the value is computed whole, "" if it is not.
        macs: multiply-accumulates of computing it whole.
        prediction: predicted changes, None where they are off.
        wants_magnitude: whether a later call predicts from this one's magnitude.
        bound: how far changes may reach, None: as far as they do.
        buffers: the plan's buffers by state name without memory ("meta"), for their strides.
        specs: the plan's state by name.
        device: the kind of device the state lies on, "cpu" or "cuda".
        computed: the dtype it is computed in.
    """

    name: str
    kind: str
    layout: PixelLayout
    value: StateSpec
    scale: str
    test: Test
    source: Input | Computation[Operand]
    reach: Reach | None
    mask_reads: tuple[tuple[str, tuple[int, ...] | None], ...]
    dense: str
    macs: int
    prediction: Prediction | None = None
    wants_magnitude: bool = False
    bound: Bound | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    specs: Mapping[str, StateSpec] = field(default_factory=dict)
    device: str = "cpu"
    computed: torch.dtype = torch.float32

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the value, also where 8-bit numbers are kept of it."""
        return self.value.dtype if self.value.grid is None else self.computed

    @property
    def extent(self) -> tuple[int, int, int]:
        """The mask's shape (R, H, W)."""
        return self.layout.extent(self.value.shape)

    def watched_on(self, device: torch.device) -> Tensor | None:
        """The pixels of an input that are watched, bool (R or 1, H, W); None where all are."""
        if not self.test.watched:
            return None
        found = self._watched.get(device)
        if found is None:
            with torch.inference_mode(False):
                found = self._watched[device] = text_to_mask(self.test.watched).to(device)
        return found

    @cached_property
    def _watched(self) -> dict[torch.device, Tensor]:
        return {}

    @cached_property
    def structure(self) -> tuple[Any, ...]:
        """All that a description of the region may depend on.

        Thresholds, scales and magnitudes are left out, and of blocks is said only whether there are any: they
        are told to a kernel when its plan is made. Not every backend knows of noise, of hits that grow and of
        pixels that are ignored.
        """
        states = [self.value.name]
        if isinstance(self.source, Computation):
            states += [read.state for read in self.source.reads]
        lie = [(s, b.shape, b.stride(), b.storage_offset()) for s in states for b in [self.buffers[s]]]
        sized = [b.untyped_storage().nbytes() for b in (self.buffers[s] for s in states)]
        prediction = None if self.prediction is None else replace(self.prediction, factor=1.0)
        return (
            self.name, self.kind, self.layout, self.value, self.source, self.mask_reads, self.dense,
            self.device, self.test.blocks, bool(self.test.noise), self.test.grow > 0, bool(self.test.watched),
            prediction, self.bound is not None, tuple(lie), tuple(sized), self.computed,
        )  # fmt: skip


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
        vicinities: (R, H, W) bool by name, filled as calls run.
        magnitudes: squared magnitudes (R, H, W) float32 by layer name, for predictions.
        seen: what the tests of frames saw, (R, 4) by layer name; see ``videoeff.kernels.reference.seen``. The
            memory may be used again for the next frame.
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
    vicinities: dict[str, Tensor] = field(default_factory=dict)
    magnitudes: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, Tensor] = field(default_factory=dict)
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
