"""Frames as a stream with zones sees them: watched pixels of now, ignored ones as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from videoeff.errors import StateError
from videoeff.ir.layout import PixelLayout
from videoeff.kernels.change_test import mask_like
from videoeff.runtime.moving import Move


def composed(
    frame: Tensor, kept: Tensor, watched: Tensor, layout: PixelLayout, fresh: Sequence[bool]
) -> Tensor:
    """A frame with its ignored pixels as they are kept.

    Args:
        frame: the frame.
        kept: what is kept of it, of the same shape.
        watched: pixels that are watched, bool (R or 1, H, W).
        layout: of the frame.
        fresh: for each stream, whether nothing is kept: its frame is taken whole.
    """
    shown = watched.to(frame.device)
    if any(fresh):
        streams = layout.streams
        flags = [any(fresh)] if streams is None else [fresh[stream] for stream in streams]
        shown = shown | torch.tensor(flags, device=frame.device).view(-1, 1, 1)
    return torch.where(mask_like(shown, frame, layout), frame, kept.to(frame.dtype))


@dataclass(frozen=True)
class FrozenState:
    """A copy of what a :class:`Freezer` keeps.

    Attributes:
        frames: the frames seen last, by the number of the call's tensor.
        fresh: for each stream, whether its next frame is seen whole.
    """

    frames: Mapping[int, Tensor] = field(default_factory=dict)
    fresh: tuple[bool, ...] = ()


class Freezer:
    """Keeps the ignored pixels of frames for a model captured in parts, whose own code reads the frames.

    A model captured whole needs none: its input keeps these pixels.

    Args:
        masks: watched pixels, bool (R or 1, H, W), by the number of the call's tensor.
        layouts: of these tensors.
        streams: independent streams in a batch.
    """

    def __init__(self, masks: Mapping[int, Tensor], layouts: Mapping[int, PixelLayout], streams: int) -> None:
        self.masks, self._layouts, self._streams = dict(masks), dict(layouts), streams
        self._kept: dict[int, Tensor] = {}
        self._fresh = [True] * streams

    def seen(self, frames: Sequence[Tensor]) -> list[Tensor]:
        """The tensors of a call as the stream sees them."""
        found = list(frames)
        for index, kept in self._kept.items():
            mask, layout = self.masks[index], self._layouts[index]
            found[index] = composed(found[index], kept, mask, layout, self._fresh)
        return found

    def keep(self, seen: Sequence[Tensor]) -> dict[int, Tensor]:
        """Copies of what :meth:`seen` gave, to be taken over by :meth:`advance` once the frame is done."""
        with torch.inference_mode(False), torch.no_grad():
            return {index: seen[index].detach().clone() for index in self.masks}

    def advance(self, kept: dict[int, Tensor]) -> None:
        """The frame is done."""
        self._kept, self._fresh = kept, [False] * self._streams

    def change(self, masks: Mapping[int, Tensor], layouts: Mapping[int, PixelLayout]) -> None:
        """Watch other pixels from now on. A tensor that was not frozen so far is seen whole once more."""
        self.masks, self._layouts = dict(masks), dict(layouts)
        self._kept = {index: kept for index, kept in self._kept.items() if index in masks}

    def reset(self, stream: int | None = None) -> None:
        """See the next frame of one stream, or of all, whole."""
        if stream is None:
            self._fresh = [True] * self._streams
        else:
            self._fresh[stream] = True

    def snapshot(self) -> FrozenState:
        """A copy of what is kept."""
        with torch.inference_mode(False), torch.no_grad():
            return FrozenState({i: t.clone() for i, t in self._kept.items()}, tuple(self._fresh))

    def check_fits(self, state: FrozenState) -> None:
        """Whether a snapshot may be restored.

        Raises:
            StateError: it is of frames of another size.
        """
        for index, frame in state.frames.items():
            kept = self._kept.get(index)
            if kept is not None and kept.shape != frame.shape:
                raise StateError(
                    f"the snapshot does not fit this stream: it keeps a frame {list(frame.shape)}, the "
                    f"stream {list(kept.shape)}; restore it into a stream of the same size and batch"
                )

    def restore(self, state: FrozenState | None) -> None:
        """Continue from a snapshot; from one without ignored pixels the next frame is seen whole."""
        if state is None or set(state.frames) != set(self.masks):
            self._kept = {}
            self.reset()
            return
        with torch.inference_mode(False), torch.no_grad():
            self._kept = {i: t.clone() for i, t in state.frames.items()}
        self._fresh = list(state.fresh)

    def move(self, move: Move) -> None:
        """Move or cast what is kept."""
        self._kept = {index: move(kept) for index, kept in self._kept.items()}
