"""A native plan: descriptors with addresses, made when the first frame shows the buffers."""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import LoweringError, StateError
from videoeff.kernels.backend import Accepted, Counted, Group, NotFinite
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.cpp import abi, costs, library
from videoeff.kernels.cpp.abi import Kind
from videoeff.kernels.cpp.binder import Binder
from videoeff.kernels.cpp.describe import Description
from videoeff.kernels.cpp.winograd import fits_winograd, uses_winograd
from videoeff.kernels.region_spec.frames import index_of, readers_of
from videoeff.kernels.region_spec.producers import Convolution

_COSTS = {
    Kind.POINTWISE: "pointwise",
    Kind.MAXPOOL: "pooling",
    Kind.SEPARABLE: "resampling",
    Kind.TRANSPOSED: "transposed",
}


def dense_share(found: Description) -> float:
    """From which share of active pixels on an op is computed whole; above 1: never."""
    table, producer = costs.table().shares, found.spec.producer
    if isinstance(producer, Convolution):
        if producer.groups == producer.input.extent[3] > 1:
            return table["depthwise"]
        return table["convolution-1x1" if producer.window.kernel == (1, 1) else "convolution"]
    return table[_COSTS[producer.kind]] if producer.kind in _COSTS else 2.0


class NativePlan(Group):
    """Consecutive regions as one native plan.

    Args:
        accepted: the regions with their descriptions.
        exported: layers whose masks calls elsewhere need.
        isa: number of the instruction set, -1 for the best.
    """

    refuses = True

    def __init__(
        self, accepted: Sequence[Accepted[Description]], exported: frozenset[str], isa: int = -1
    ) -> None:
        self.calls = tuple(a.call for a in accepted)
        self.isa = isa
        self._descriptions = [a.description for a in accepted]
        self._masks = _number_masks(self.calls, self._descriptions)
        own = {c.name for c in self.calls}
        self._imports = [name for name in self._masks if name not in own]
        terms = {name for c in self.calls for name in _terms(c)}
        self._import_magnitudes = [name for name in self._imports if name in terms]
        self._exports = [c for c in self.calls if c.name in exported]
        self._inputs = readers_of(self.calls, "cpu")
        self._frames = (abi.Frame * max(1, len(self._inputs)))()
        self._state: Mapping[str, Tensor] | None = None
        self._constants: Mapping[str, Tensor] | None = None
        self._storages: set[int] = set()
        self._kept: list[Any] = []
        self._handle = 0
        self._library: library.Library | None = None
        self._destroy: weakref.finalize[Any, Any] | None = None
        self._seen: dict[str, Tensor] = {}
        #: From which share of active pixels on everything is computed; None: by the table of costs.
        self.whole_from: float | None = None
        #: Compute 3x3 convolutions by minimal filtering wherever that is served; None: where it is faster.
        self.winograd: bool | None = None
        #: Compute the whole map of an op before the next op: what row blocks are compared with.
        self.op_by_op = False
        self._counted = 0
        self._carried = [0] * (abi.COUNTS * len(self.calls))
        self._carried_frames = 0

    @property
    def where(self) -> str:
        """The layers, for messages."""
        return f"{self.calls[0].name} to {self.calls[-1].name}"

    # -- running -----------------------------------------------------------------------------------------

    def run(self, context: Context) -> None:
        """One frame.

        Raises:
            NotFinite: a frame holds NaN or infinity and is to be refused.
            StateError: a frame does not fit, or the native side ran out of memory.
            LoweringError: the native side refuses the plan.
        """
        if self._state is not context.state or self._constants is not context.constants:
            self._bind(context.state, context.constants)
        native, handle = self._library, self._handle
        assert native is not None  # bound above
        for name in self._imports:
            mask = context.masks[name].contiguous()
            native.vf_mask_write(handle, self._masks[name], mask.data_ptr())
        for name in self._import_magnitudes:
            squares = context.magnitudes[name].contiguous()
            native.vf_magnitude_write(handle, self._masks[name], squares.data_ptr())
        kept = []  # frames have to live until the call
        for into, reader in zip(self._frames, self._inputs, strict=False):
            frame, strides = reader.read(context, self._storages)
            into.data, (into.sr, into.sh, into.sw, into.sc) = frame.data_ptr(), strides
            kept.append(frame)
        count = 0 if context.any_fresh else int(abi.Flag.COUNT)
        flags = (
            count | (abi.Flag.FINITE if context.refuse else 0) | (abi.Flag.OP_BY_OP if self.op_by_op else 0)
        )
        fresh = context.fresh
        answer = native.vf_plan_run(
            handle, self._frames, len(kept), fresh.data_ptr(), fresh.numel(), torch.get_num_threads(), flags
        )
        if answer >= abi.Answer.NOT_FINITE:
            raise NotFinite(self._inputs[answer - abi.Answer.NOT_FINITE].index)
        if answer:
            why = " (out of memory)" if answer == abi.Answer.NO_MEMORY else ""
            raise StateError(
                f"{self.where}: the native plan stopped with code {answer}{why}; "
                "the stream starts afresh with the next frame"
            )
        self._counted += int(count != 0)
        context.seen.update(self._seen)
        self._export(context)

    def _export(self, context: Context) -> None:
        native, handle = self._library, self._handle
        assert native is not None  # bound by the caller
        for call in self.calls if context.keep_active else self._exports:
            number = self._masks[call.name]
            mask = torch.empty(call.extent, dtype=torch.bool)
            native.vf_mask_read(handle, number, abi.MaskPart.CHANGED, mask.data_ptr())
            context.masks[call.name] = mask
            if call.wants_magnitude:
                squares = torch.empty(call.extent)
                native.vf_magnitude_read(handle, number, squares.data_ptr())
                context.magnitudes[call.name] = squares
            if context.keep_active:
                active = torch.empty(call.extent, dtype=torch.bool)
                native.vf_mask_read(handle, number, abi.MaskPart.ACTIVE, active.data_ptr())
                context.active_masks[call.name] = active

    # -- counting ----------------------------------------------------------------------------------------

    def take_counts(self) -> Iterable[Counted]:
        """Counts of the layers since this was asked last."""
        self._carry()
        frames, counts = self._carried_frames, self._carried
        self._carried, self._carried_frames = [0] * len(counts), 0
        return [
            _counted(call, found, frames, counts[abi.COUNTS * i : abi.COUNTS * (i + 1)])
            for i, (call, found) in enumerate(zip(self.calls, self._descriptions, strict=True))
        ]

    def _carry(self) -> None:
        """Take the counters over, before the plan that holds them goes."""
        if self._handle and self._library is not None:
            found = self._library.vf_plan_counts(self._handle)
            for i in range(len(self._carried)):
                self._carried[i] += found[i]
                found[i] = 0
        self._carried_frames += self._counted
        self._counted = 0

    def invalidate(self) -> None:
        """Forget the sums of means."""
        if self._handle and self._library is not None:
            self._library.vf_plan_invalidate(self._handle)

    @property
    def nbytes(self) -> dict[str, int]:
        """Bytes beside the state: packed weights, masks and sums, scratch of the workers."""
        if not self._handle or self._library is None:
            return {part.name.lower(): 0 for part in abi.Held}
        return {part.name.lower(): self._library.vf_plan_bytes(self._handle, part) for part in abi.Held}

    @property
    def row_blocks(self) -> int:
        """Row blocks of large maps computed apart so far, so that the next layer found them in the cache."""
        if not self._handle or self._library is None:
            return 0
        return self._library.vf_plan_row_blocks(self._handle)

    def times(self, reset: bool = False) -> dict[str, int]:
        """Nanoseconds spent in each layer."""
        if not self._handle or self._library is None:
            return {call.name: 0 for call in self.calls}
        found = self._library.vf_plan_times(self._handle, 0)
        times = {call.name: int(found[i]) for i, call in enumerate(self.calls)}
        if reset:
            self._library.vf_plan_times(self._handle, 1)
        return times

    # -- binding -----------------------------------------------------------------------------------------

    def release(self) -> None:
        """Free the native plan; the next frame makes it anew."""
        self._carry()
        if self._destroy is not None:
            self._destroy()
        self._destroy, self._handle, self._kept, self._seen = None, 0, [], {}
        self._state = self._constants = None

    def _bind(self, state: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> None:
        self.release()
        native = library.load()
        ops, masks, kept = self.descriptors(state, constants)
        error = ctypes.create_string_buffer(512)
        handle = native.vf_plan_create(ops, len(ops), masks, len(masks), self.isa, error, len(error))
        if not handle:
            raise LoweringError(
                f"{self.where}: the native plan was refused: "
                f"{error.value.decode(errors='replace')}; use backend='reference'"
            )
        self._library, self._handle = native, handle
        self._destroy = weakref.finalize(self, native.vf_plan_destroy, handle)
        self._state, self._constants, self._kept = state, constants, kept
        self._storages = {t.untyped_storage().data_ptr() for t in state.values()}
        self._seen = dict(self._figures(native, handle))

    def _figures(self, native: library.Library, handle: int) -> Iterable[tuple[str, Tensor]]:
        """What the tests of frames saw, by layer, (R, SEEN): memory of the plan, written by each frame."""
        for index, call in enumerate(self.calls):
            place = native.vf_plan_seen(handle, index)
            if place:
                rows = call.extent[0]
                array = ctypes.cast(place, ctypes.POINTER(ctypes.c_float * (rows * abi.SEEN))).contents
                yield call.name, torch.frombuffer(array, dtype=torch.float32).view(rows, abi.SEEN)

    def descriptors(
        self, state: Mapping[str, Tensor], constants: Mapping[str, Tensor]
    ) -> tuple[Any, Any, list[Any]]:
        """The arrays of ``vf_op`` and ``vf_mask``, and what their addresses point to."""
        binder = Binder(state, constants)
        ops = (abi.Op * len(self.calls))()
        for index, (call, found) in enumerate(zip(self.calls, self._descriptions, strict=True)):
            binder.fill(ops[index], call, found, self._masks)
            chosen = uses_winograd(found) if self.winograd is None else self.winograd
            ops[index].winograd = chosen and fits_winograd(found)
            ops[index].dense_share = dense_share(found) if self.whole_from is None else self.whole_from
        for number, entry in enumerate(self._inputs):
            ops[index_of(entry.call, self.calls)].input = number
        return ops, self._mask_table(), binder.kept

    def _mask_table(self) -> Any:
        terms = {name for c in self.calls for name in _terms(c)}
        extents = {name: extent for d in self._descriptions for name, extent in d.spec.extents.items()}
        bounds = (c.bound for c in self.calls if c.bound is not None)
        extents.update({near.layer: near.extent for bound in bounds for near in bound.vicinity.near})
        wanted = {c.name: c.wants_magnitude for c in self.calls}
        extents.update({c.name: c.extent for c in self.calls})
        masks = (abi.Mask * len(self._masks))()
        for name, number in self._masks.items():
            magnitude = wanted.get(name, False) or name in terms
            masks[number] = abi.Mask(*extents[name], int(magnitude))
        return masks


def _counted(call: RegionCall, found: Description, frames: int, counts: Sequence[int]) -> Counted:
    """The counters of a layer. A stage in a line buffer has pixels of its own: changes reach those needed."""
    active, scheduled, changed, expanded = counts
    needed = worked = 0.0
    read = found.spec.input
    if found.expands and read is not None:
        stage = found.spec.stages[0]
        pixel = stage.channels * read.extent[3] * stage.window.taps
        share = pixel * math.prod(stage.extent) / math.prod(call.extent)  # its part of an active pixel's
        needed, worked = pixel * changed - share * active, pixel * expanded - share * scheduled
    return Counted(call.name, frames, active, scheduled, needed, worked)


def _terms(call: RegionCall) -> list[str]:
    return [] if call.prediction is None else list(call.prediction.layers)


def _number_masks(calls: Sequence[RegionCall], descriptions: Sequence[Description]) -> dict[str, int]:
    names = dict.fromkeys(c.name for c in calls)
    for call, found in zip(calls, descriptions, strict=True):
        names.update(dict.fromkeys(name for name, _ in found.spec.reach))
        names.update(dict.fromkeys(_terms(call)))
        if call.bound is not None:
            names.update(dict.fromkeys(near.layer for near in call.bound.vicinity.near))
    return {name: number for number, name in enumerate(names)}
