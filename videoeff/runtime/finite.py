"""Find NaN and infinity in frames, without making a GPU wait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import StateError
from videoeff.kernels.backend import Group
from videoeff.kernels.host import all_finite


class FiniteCheck:
    """Raises on NaN or infinity: at once on the CPU, as soon as the flag has arrived on CUDA."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Any, Tensor, int]] = []
        self._frame = 0

    def check(self, frames: Sequence[Tensor], name: str, watchers: Sequence[Group] = ()) -> None:
        """Check one frame.

        Args:
            frames: its tensors.
            name: the model's.
            watchers: groups of kernels that look at the frames themselves, instead of this.

        Raises:
            StateError: it, or on CUDA an earlier one, holds NaN or infinity.
        """
        self._frame += 1
        for watcher in watchers:
            since = watcher.frames_since_bad()
            if since is not None:
                raise StateError(_came(name, self._frame - 1 - since))
        if watchers:
            return
        self._arrived(name)
        for index, frame in enumerate(frames):
            if not frame.is_floating_point():
                continue
            if frame.is_cuda:
                flag = torch.empty((), dtype=torch.bool, pin_memory=True)
                flag.copy_(torch.isfinite(frame).all(), non_blocking=True)
                event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record()
                self._waiting.append((event, flag, self._frame))
            elif not all_finite(frame):
                raise StateError(not_finite(name, index, frame))

    def _arrived(self, name: str) -> None:
        while self._waiting and self._waiting[0][0].query():
            _, flag, number = self._waiting.pop(0)
            if not bool(flag):
                self._waiting.clear()
                raise StateError(_came(name, number))


def _came(name: str, number: int) -> str:
    return (
        f"{name}: frame {number} of this stream held NaN or infinity; call reset(), and clean the frames or "
        "use nan_policy='recompute'"
    )


def not_finite(name: str, index: int, frame: Tensor) -> str:
    """What to say of a frame with NaN or infinity that was refused."""
    bad = torch.nonzero(~torch.isfinite(frame))
    first = [int(i) for i in bad[0]]
    return (
        f"{name}: argument {index} holds NaN or infinity at {len(bad)} element(s), the first at {first}; "
        "the stream is as it was before this frame; clean the frame or use nan_policy='recompute'"
    )
