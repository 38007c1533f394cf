"""Measures the table of costs at the first use on a processor that has none of its own.

From which share of active pixels on a convolution is computed whole, which never changes a value. What
minimal filtering costs is not measured here, as it decides about the last bits of float32 sums: no bit
depends on what was measured before ``videoeff tune`` was run.

Layers are described to the library directly, without a stream. One environment variable is read,
``VIDEOEFF_MEASURE``: 0 to measure nothing.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import VideoEffError
from videoeff.kernels.cpp import abi, costs, library

VARIABLE = "VIDEOEFF_MEASURE"

_log = logging.getLogger("videoeff")


@dataclass(frozen=True)
class Layer:
    """A convolution of stride 1 whose result has the size of its input.

    Attributes:
        inputs: channels of the input.
        outputs: channels of the result.
        kernel: edge of the window in pixels, odd.
        height: of the map.
        width: of the map.
        depthwise: whether each channel is filtered by itself.
    """

    inputs: int
    outputs: int
    kernel: int
    height: int
    width: int
    depthwise: bool = False


#: Typical layers of each kind that is measured, small enough for a millisecond each.
LAYERS: Mapping[str, tuple[Layer, ...]] = {
    "convolution": (Layer(64, 64, 3, 56, 80), Layer(128, 128, 3, 28, 40)),
    "convolution-1x1": (Layer(64, 256, 1, 28, 40), Layer(512, 128, 1, 28, 40)),
    "depthwise": (Layer(96, 96, 3, 56, 80, True), Layer(240, 240, 5, 42, 60, True)),
}

#: Shares of active pixels that are looked at, until one is reached at which a whole computation is not ahead.
SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)

#: Seconds that all layers together may take, and runs of each way of computing at each share.
SECONDS, ROUNDS = 2.0, 8

#: A whole computation counts as faster if it takes at most so much of the time. Timed: the least of a few
#: runs differs by up to 2 %.
AHEAD = 0.97

_lock = threading.Lock()
_asked = threading.Event()


def measure_if_new() -> None:
    """Measure and keep this processor's table, once a process at most, where none is of this processor.

    Nothing is measured where it could not be kept. It never fails: then the shipped table serves.
    """
    if _asked.is_set():
        return
    with _lock:
        if not _asked.is_set():
            try:
                _measure_if_new()
            finally:
                _asked.set()


def leave_out() -> None:
    """Measure nothing at a first use in this process, which is about to measure more by itself."""
    _asked.set()


def _measure_if_new() -> None:
    shipped = costs.table()
    if shipped.fits or os.environ.get(VARIABLE, "") == "0" or not _keeps():
        return
    path = costs.measured_path()
    # A warning, as less would reach nobody whose program sets up no logging.
    _log.warning("videoeff: measuring this processor once (2 s at most), kept in %s", path)
    try:
        found = replace(shipped, shares={**shipped.shares, **shares()})
        if costs.read(path, shipped.winograd) is None:  # else another process was faster
            costs.keep(found, costs.FIRST_USE)
    except (OSError, RuntimeError, VideoEffError) as error:
        _log.warning("videoeff: this processor was not measured (%s); the shipped costs serve", error)
    costs.table.cache_clear()


def _keeps() -> bool:
    """Whether the cache folder can be written."""
    folder = costs.measured_path().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def shares(seconds: float = SECONDS) -> dict[str, float]:
    """From which share of active pixels on each kind of layer is computed whole, with PyTorch's threads.

    Args:
        seconds: for all layers; kinds for which they do not last are left out.

    Returns:
        By kind the largest of its layers' shares, 2.0 for never.
    """
    end, found = time.monotonic() + seconds, {}
    for kind, layers in LAYERS.items():
        limits = [_share(layer, end) for layer in layers]
        if time.monotonic() < end:
            found[kind] = max(limits)
    return found


def _share(layer: Layer, end: float) -> float:
    """The share from which on a layer is faster computed whole, at every larger share too; 2.0 if at none."""
    partly, whole = _Plan(layer, 2.0), _Plan(layer, 1e-6)
    try:
        partly.run()
        whole.run()
        return break_even(lambda share: _times(partly, whole, told(layer, share), end))
    finally:
        partly.close()
        whole.close()


def break_even(times: Callable[[float], tuple[float, float]]) -> float:
    """The share from which on a whole computation is ahead at every larger share, too; 2.0 if at none.

    Args:
        times: of a frame with a share of active pixels, computing those and computing all.
    """
    limit = 2.0
    for share in SHARES:
        partly, whole = times(share)
        if whole > AHEAD * partly:
            break
        limit = share
    return limit


def _times(partly: _Plan, whole: _Plan, mask: Tensor, end: float) -> tuple[float, float]:
    """The least time of each plan, run in turn: whatever else the machine does only ever adds to it."""
    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(ROUNDS):
        for plan, kept in zip((partly, whole), times, strict=True):
            kept.append(plan.time(mask))
        if time.monotonic() > end:
            break
    return min(times[0]), min(times[1])


def told(layer: Layer, share: float) -> Tensor:
    """Input pixels that changed, bool (H, W), of which a share of the result's pixels is active.

    Four rectangles are left out, which the window's reach makes smaller.
    """
    mask = torch.ones(layer.height, layer.width, dtype=torch.bool)
    edge, reach = math.sqrt((1 - share) / 4), layer.kernel // 2
    rows, columns = round(edge * layer.height) + 2 * reach, round(edge * layer.width) + 2 * reach
    for y in (1, 3):
        for x in (1, 3):
            top, left = y * layer.height // 4 - rows // 2, x * layer.width // 4 - columns // 2
            mask[max(0, top) : top + rows, max(0, left) : left + columns] = False
    return mask


class _Plan:
    """A native plan of one convolution whose input's mask is told.

    Args:
        layer: the convolution.
        dense_share: from which share of active pixels on it is computed whole.
    """

    def __init__(self, layer: Layer, dense_share: float) -> None:
        self._library = library.load()
        groups = layer.inputs if layer.depthwise else 1
        self._picture = torch.rand(layer.height, layer.width, layer.inputs) - 0.5
        weight = torch.rand(layer.outputs, layer.inputs // groups, layer.kernel, layer.kernel) - 0.5
        out, bias = torch.zeros(layer.height, layer.width, layer.outputs), torch.zeros(layer.outputs)
        streams = (ctypes.c_int32 * 1)(0)
        self._kept = (weight, bias, out, streams)
        op = abi.Op()
        op.kind, op.dtype, op.mask = abi.Kind.CONV, abi.Dtype.F32, 1
        op.out, op.in_ = _view(out), _view(self._picture)
        op.kh = op.kw = layer.kernel
        op.py = op.px = layer.kernel // 2
        op.sy = op.sx = op.dy = op.dx = 1
        op.groups, op.nreach, op.test, op.dense_share = groups, 1, abi.ChangeTest.MAX, dense_share
        op.weight, op.bias, op.width[0] = weight.data_ptr(), bias.data_ptr(), layer.outputs
        op.reach[0] = abi.Reach(0, abi.ReachKind.WINDOW)
        op.streams = ctypes.cast(streams, ctypes.c_void_p)
        masks = (abi.Mask * 2)(*(abi.Mask(1, layer.height, layer.width, 0) for _ in range(2)))
        error = ctypes.create_string_buffer(512)
        handle = self._library.vf_plan_create((abi.Op * 1)(op), 1, masks, 2, -1, error, len(error))
        if not handle:
            raise RuntimeError(error.value.decode(errors="replace"))
        self._handle = handle
        self._frames, self._fresh = (abi.Frame * 1)(), (ctypes.c_uint8 * 1)(1)

    def run(self) -> None:
        """One frame; the first one is computed whole."""
        answer = self._library.vf_plan_run(
            self._handle, self._frames, 0, self._fresh, 1, torch.get_num_threads(), 0
        )
        if answer:
            raise RuntimeError(f"the native plan stopped with code {answer}")
        self._fresh[0] = 0

    def time(self, mask: Tensor) -> int:
        """Nanoseconds of a frame of which the pixels of ``mask``, bool (H, W), changed."""
        self._picture.neg_()  # every computed pixel is another one and is stored
        self._library.vf_mask_write(self._handle, 0, mask.data_ptr())
        self._library.vf_plan_times(self._handle, 1)
        self.run()
        return int(self._library.vf_plan_times(self._handle, 0)[0])

    def close(self) -> None:
        """Free it."""
        self._library.vf_plan_destroy(self._handle)


def _view(pixels: Tensor) -> Any:
    """A view of a map (H, W, C) of one row."""
    height, width, channels = pixels.shape
    strides: Sequence[int] = (pixels.numel(), width * channels, channels, 1)
    extent = (1, height, width, channels)
    return abi.View(pixels.data_ptr(), pixels.numel(), *strides, *extent, int(abi.Dtype.F32), 0, None)
