"""How the frame tensor of an input is walked."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from videoeff.errors import StateError
from videoeff.kernels.call import Context, Input, RegionCall


class FrameReader:
    """Finds address and strides of an input's frame.

    Args:
        call: the input.
        index: which of the frame tensors it takes.
        device: kind of device the frame must lie on.
    """

    def __init__(self, call: RegionCall, index: int, device: str) -> None:
        self.call, self.index, self.device = call, index, device
        layout, shape = call.layout, call.value.shape
        self.roles = (layout.rows, layout.h, layout.w)
        self.rest = [d for d in range(len(shape)) if d not in self.roles and shape[d] > 1]

    def read(self, context: Context, storages: set[int]) -> tuple[Tensor, tuple[int, int, int, int]]:
        """The frame, copied only where it has to be, and its strides over rows, lines, columns, channels.

        Args:
            context: the frame's.
            storages: memory of the stream's own buffers, which this frame overwrites.

        Raises:
            StateError: it is not as planned.
        """
        frame, shape, dtype = context.frames[self.index], self.call.value.shape, self.call.dtype
        if frame.shape != shape or frame.dtype != dtype or frame.device.type != self.device:
            raise StateError(
                f"{self.call.name}: the frame is {frame.dtype} {list(frame.shape)} on {frame.device}, "
                f"the plan takes {dtype} {list(shape)} on {self.device}; pass a frame like the example"
            )
        if frame.untyped_storage().data_ptr() in storages:
            frame = frame.clone()
        strides = frame.stride()
        for inner, outer in zip(self.rest[::-1], self.rest[-2::-1], strict=False):
            if strides[outer] != strides[inner] * frame.shape[inner]:
                frame = frame.contiguous()
                strides = frame.stride()
                break
        rows, lines, columns = (0 if d is None else strides[d] for d in self.roles)
        return frame, (rows, lines, columns, strides[self.rest[-1]] if self.rest else 1)


def readers_of(calls: Sequence[RegionCall], device: str) -> list[FrameReader]:
    """The readers of the inputs among some calls."""
    return [FrameReader(c, c.source.index, device) for c in calls if isinstance(c.source, Input)]


def index_of(call: RegionCall, calls: tuple[RegionCall, ...]) -> int:
    """Which of the calls it is."""
    return next(i for i, c in enumerate(calls) if c is call)
