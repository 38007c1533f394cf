"""Descriptors with addresses: what a native plan is made of, for one set of buffers and constants."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import LoweringError
from videoeff.ir.grids import Grid
from videoeff.ir.watched import text_to_mask
from videoeff.kernels.bounded import packed
from videoeff.kernels.call import RegionCall
from videoeff.kernels.cpp import abi
from videoeff.kernels.cpp.abi import Dtype
from videoeff.kernels.cpp.describe import DTYPES, Description, grid_of
from videoeff.kernels.cpp.integers import as_integers, grid_table
from videoeff.kernels.region_spec.codes import CHANGE_TESTS
from videoeff.kernels.region_spec.producers import (
    Convolution,
    MaxPool,
    Producer,
    Resampling,
    Stage,
    TransposedConvolution,
    Window,
)
from videoeff.kernels.region_spec.values import Constant, GridTable, View
from videoeff.ops.home import Home

_BF16 = DTYPES[torch.bfloat16]


def _fill_window(into: Any, window: Window) -> None:
    (into.kh, into.kw), (into.sy, into.sx) = window.kernel, window.stride
    (into.py, into.px), (into.dy, into.dx) = window.padding, window.dilation


def reached_columns(home: Home, size: int) -> Home:
    """The first and the last pixel (size,) of a map that each pixel of a source is near to.

    Args:
        home: first and last pixel (N,) of the source that are near each pixel of the map.
        size: pixels of the source.
    """
    at = torch.arange(size)
    first, last = (place.contiguous() for place in home)
    return torch.searchsorted(last, at), torch.searchsorted(first, at, right=True) - 1


class Binder:
    """Writes descriptors with the addresses of one set of buffers and constants.

    Attributes:
        kept: what the addresses point to.
    """

    def __init__(self, state: Mapping[str, Tensor], constants: Mapping[str, Tensor]) -> None:
        self.state, self.constants = state, constants
        self.kept: list[Any] = []
        self._vicinities: dict[str, int] = {}

    def fill(self, op: Any, call: RegionCall, found: Description, masks: Mapping[str, int]) -> None:
        """One descriptor."""
        spec = found.spec
        op.kind, op.dtype, op.mask, op.groups = int(spec.kind), found.number, masks[call.name], 1
        op.out = self.view(spec.out, found.number, call)
        if spec.input is not None:
            op.in_ = self.view(spec.input, found.number, call)
        grid = None if spec.input is None else grid_of(call, spec.input)
        op.nbefore = len(spec.stages)
        for i, stage in enumerate(spec.stages):
            self._fill_stage(op.before[i], stage, found.number, grid)
            grid = stage.grid
        self._fill_producer(op, spec.producer, found.number, grid)
        op.nepi, op.nargs = len(found.epilogue.code), len(spec.arguments)
        for i, instruction in enumerate(found.epilogue.code):
            op.epi[i] = abi.Epi(*instruction)
        for i, view in enumerate(spec.arguments):
            op.args[i] = self.view(view, found.number, call)
        for i, width in enumerate(found.epilogue.widths):
            op.width[i] = width
        op.nreach, op.dense = len(spec.reach), int(bool(call.dense))
        for i, (name, kind) in enumerate(spec.reach):
            op.reach[i] = abi.Reach(masks[name], int(kind))
        if call.layout.streams is not None:
            op.streams = self.keep(torch.tensor(call.layout.streams, dtype=torch.int32)).data_ptr()
        self._fill_test(op, call)
        self._fill_prediction(op, call, masks)
        self._fill_bound(op, call, masks)

    def _fill_producer(self, op: Any, producer: Producer, dtype: int, grid: Grid | None) -> None:
        """``grid``: of the numbers that it reads, None where it reads values."""
        match producer:
            case Convolution() | TransposedConvolution():
                _fill_window(op, producer.window)
                self._fill_weights(op, producer, dtype)
                if isinstance(producer, Convolution) and grid is not None:
                    self._fill_integers(op, producer, grid)
                if isinstance(producer, Convolution) and producer.gate is not None:
                    op.gate = 1 + producer.gate
            case MaxPool():
                _fill_window(op, producer.window)
            case Resampling(rows=rows, columns=columns):
                self.kept += [rows, columns]
                op.ty, op.tx = rows.index.shape[1], columns.index.shape[1]
                op.iy, op.wy = rows.index.data_ptr(), rows.weight.data_ptr()
                op.ix, op.wx = columns.index.data_ptr(), columns.weight.data_ptr()

    def _fill_stage(self, into: Any, stage: Stage, dtype: int, grid: Grid | None) -> None:
        _, into.h, into.w = stage.extent
        into.c = stage.channels
        _fill_window(into, stage.window)
        self._fill_weights(into, stage, dtype)
        if (then := stage.epilogue) is not None:
            into.nepi, into.epi = 1, abi.Epi(int(then.op), 0, 0, 0, then.p, then.q)
        if stage.grid is not None:
            into.grid = self.keep(grid_table(stage.grid, stage.channels)).data_ptr()
        if grid is not None:
            self._fill_integers(into, stage, grid)

    def _fill_weights(
        self, into: Any, found: Convolution | TransposedConvolution | Stage, dtype: int
    ) -> None:
        into.groups, into.weight = found.groups, self.constant(found.weight, dtype).data_ptr()
        if found.bias is not None:
            into.bias = self.constant(found.bias, dtype).data_ptr()

    def _fill_integers(self, op: Any, producer: Convolution | Stage, grid: Grid) -> None:
        """Integer weights where they are such; else what they are serves, with the numbers decoded."""
        found = as_integers(self.constant(producer.weight, Dtype.F32))
        outputs, inputs = producer.weight.shape[:2]
        deep = producer.groups == outputs > 1 and inputs == 1
        if found is None or not (deep or grid.uniform):
            return
        codes, steps = found
        op.factors = self.keep(steps).data_ptr()
        op.integer = int(not deep)
        op.weight = self.keep(codes.to(torch.float32) if deep else codes).data_ptr()

    def _fill_test(self, op: Any, call: RegionCall) -> None:
        op.test, op.threshold = CHANGE_TESTS[call.test.kind], call.test.threshold
        op.block, op.dilation = call.test.block, call.test.dilation
        op.grow, op.weak = call.test.grow, call.test.weak
        if call.test.noise:
            op.noise = self.keep(torch.tensor(call.test.noise, dtype=torch.float32)).data_ptr()
        if call.test.watched:
            op.watched = self.keep(packed(text_to_mask(call.test.watched).expand(call.extent))).data_ptr()
        op.magnitude = int(call.wants_magnitude)
        if call.scale:
            op.relative, op.scale = 1, self.keep(self.state[call.scale]).data_ptr()

    def _fill_prediction(self, op: Any, call: RegionCall, masks: Mapping[str, int]) -> None:
        prediction = call.prediction
        if prediction is None:
            return
        op.factor = prediction.factor
        op.nsources, op.nresiduals = len(prediction.sources), len(prediction.residuals)
        for into, terms in ((op.sources, prediction.sources), (op.residuals, prediction.residuals)):
            for i, (name, share) in enumerate(terms):
                into[i] = abi.Term(masks[name], 0, share)
        op.pending = self.keep(self.state[prediction.pending]).data_ptr()
        weight = self.constants[prediction.weight].detach().to(torch.float32)
        taps = weight.square().sum((0, 1)) / weight.shape[0]
        op.taps = self.keep(taps.contiguous()).data_ptr()

    def _fill_bound(self, op: Any, call: RegionCall, masks: Mapping[str, int]) -> None:
        bound = call.bound
        if bound is None:
            return
        number = self._vicinities.setdefault(bound.vicinity.name, len(self._vicinities))
        near = (abi.Near * len(bound.vicinity.near))()
        for into, source in zip(near, bound.vicinity.near, strict=True):
            into.mask = masks[source.layer]
            if source.rows is None or source.columns is None:
                continue
            reached = reached_columns(source.columns, source.extent[2])
            tables = (*source.rows, *reached)
            into.top, into.bottom, into.first, into.last = (
                self.keep(t.to(torch.int32).contiguous()).data_ptr() for t in tables
            )
        self.kept.append(near)
        op.vicinity, op.nnear, op.near = number + 1, len(near), ctypes.addressof(near)
        op.deferred = self.keep(self.state[bound.deferred]).data_ptr()
        if bound.sweep:
            op.nsweep = len(bound.sweep) - 1
            op.sweep = self.keep(torch.tensor(bound.sweep, dtype=torch.int32)).data_ptr()
            op.phase = self.keep(self.state[bound.phase]).data_ptr()

    def keep(self, tensor: Tensor) -> Tensor:
        """Keep a tensor alive as long as the plan."""
        self.kept.append(tensor)
        return tensor

    def constant(self, constant: Constant, dtype: int) -> Tensor:
        """A constant in memory: contiguous, in the op's dtype (float32 where bfloat16 would round it)."""
        with torch.no_grad(), torch.inference_mode(False):
            made = constant.make(*(self.constants[n].detach() for n in constant.names))
            wanted = next((d for d, number in DTYPES.items() if number == dtype), torch.float32)
            if dtype == _BF16 and made.dtype != torch.bfloat16:
                wanted = torch.float32
            return self.keep(made.to(wanted).contiguous())

    def view(self, view: View, dtype: int, call: RegionCall) -> Any:
        """A view with its address."""
        table = None
        if isinstance(view.source, GridTable):
            table = self.keep(grid_table(view.source.grid, view.source.channels)).data_ptr()
            return abi.View(table, view.size, *view.strides, *view.extent, int(Dtype.U8), 0, table)
        if isinstance(view.source, Constant):
            tensor = self.constant(view.source, dtype)
            base, size = tensor.data_ptr(), max(1, tensor.numel())
            dtype = DTYPES[tensor.dtype]
        else:
            grid = grid_of(call, view)
            dtype = DTYPES[self.state[view.source].dtype] if grid is None else int(Dtype.U8)
            if grid is not None:
                table = self.keep(grid_table(grid, view.extent[3])).data_ptr()
            tensor, planned = self.state[view.source], call.buffers[view.source]
            here = (tensor.stride(), tensor.shape, tensor.device.type)
            if here != (planned.stride(), planned.shape, "cpu"):
                raise LoweringError(
                    f"{call.name}: buffer {view.source} lies as {tensor.stride()} on {tensor.device}, "
                    f"planned was {planned.stride()} on the CPU; allocate the state anew"
                )
            base = tensor.data_ptr() - int(planned.storage_offset()) * tensor.element_size()
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            size -= int(tensor.storage_offset()) - int(planned.storage_offset())
            self.keep(tensor)
        address = base + view.offset * tensor.element_size()
        return abi.View(address, size - view.offset, *view.strides, *view.extent, dtype, 0, table)
