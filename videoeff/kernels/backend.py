"""What an implementation is, and which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from videoeff.kernels.call import Context, RegionCall


@dataclass(frozen=True)
class Counted:
    """What one layer did in some frames.

    Attributes:
        layer: its name.
        frames: their number.
        active: pixels computed.
        scheduled: pixels the kernel worked on.
        more_needed, more_scheduled: multiply-accumulates beside those of these pixels; below 0 where some of
            a pixel's were not done.
    """

    layer: str
    frames: int
    active: int
    scheduled: int
    more_needed: float = 0.0
    more_scheduled: float = 0.0


class NotFinite(Exception):
    """Raised by a group that refuses a frame; everything is as it was before.

    Attributes:
        index: which of the frame tensors holds NaN or infinity.
    """

    def __init__(self, index: int) -> None:
        super().__init__(f"frame tensor {index} holds NaN or infinity")
        self.index = index


class Group(ABC):
    """Consecutive calls that run as one. It counts for itself, so that a frame costs nothing a layer."""

    calls: tuple[RegionCall, ...]

    #: Whether it finds NaN and infinity in the frames of its inputs by itself, and tells some frames later.
    watches: bool = False

    #: Whether it refuses such a frame by :class:`NotFinite`, if asked to, before it changes anything.
    refuses: bool = False

    @abstractmethod
    def run(self, context: Context) -> None:
        """One frame of all calls."""

    @abstractmethod
    def take_counts(self) -> Iterable[Counted]:
        """What the layers did since this was asked last; frames with a fresh stream are left out."""

    @abstractmethod
    def invalidate(self) -> None:
        """The buffers were written from outside: forget what was derived from them."""

    def frames_since_bad(self) -> int | None:
        """How many frames ago the first one with NaN or infinity came, as far as is known; tells it once."""
        return None


class Implementation:
    """One way to run a call.

    It says whether it can work here, whether it takes a call, and builds the call's function. Nothing else.
    """

    name: ClassVar[str]
    backend: ClassVar[str]

    #: Whether it runs consecutive calls as one, by :meth:`build_group`.
    grouping: ClassVar[bool] = False

    #: Whether it takes regions of several convolutions, whose results between them are then not kept.
    recomputes: ClassVar[bool] = False

    def pixel_of(self, channels: int, device: str) -> int:
        """Elements from pixel to pixel that its kernels want of a map on a kind of device; 0: no matter."""
        return 0

    def unavailable(self) -> str:
        """Why it cannot work on this machine, "" if it can."""
        raise NotImplementedError

    def declines(self, call: RegionCall) -> str:
        """Why it does not take a call, "" if it does."""
        raise NotImplementedError

    def build(self, call: RegionCall) -> Callable[[Context], None]:
        """The function that runs the call."""
        raise NotImplementedError

    def build_group(self, calls: Sequence[RegionCall], exported: frozenset[str]) -> Group:
        """Consecutive calls as one.

        Args:
            calls: calls this implementation takes.
            exported: those of their layers whose masks (and magnitudes) calls outside the group need.
        """
        raise NotImplementedError
