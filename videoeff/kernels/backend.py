"""What a backend is: how regions are computed, and what it does beside that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.output_memory import OutputMemory


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


Description = TypeVar("Description")


@dataclass(frozen=True)
class Accepted(Generic[Description]):
    """A backend takes a call.

    Attributes:
        call: the call.
        description: what the backend builds it from.
    """

    call: RegionCall
    description: Description


@dataclass(frozen=True)
class Declined:
    """A backend does not take a call, and why."""

    reason: str


class Host:
    """What the host does beside the kernels. A backend overrides what it does better than PyTorch."""

    def all_finite(self, frame: Tensor) -> bool | None:
        """Whether a frame holds neither NaN nor infinity; None where it cannot tell."""
        return None

    def copied(self, value: Tensor, memory: OutputMemory | None) -> Tensor | None:
        """A copy in the default memory format; None where it cannot make it."""
        return None

    def warn(self) -> None:
        """Warn, once a process, that streams run slowly because this backend does not serve here."""

    def facts(self) -> Mapping[str, Any]:
        """What ``videoeff doctor`` shows of it, as plain values."""
        return {}


class Backend(ABC, Generic[Description]):
    """One way to run calls.

    It says whether it can work here and whether it takes a call, describes the call, and builds what runs it.
    """

    name: ClassVar[str]

    #: Whether it runs consecutive calls as one, by :meth:`build_group`.
    grouping: ClassVar[bool] = False

    #: Whether it takes regions of several convolutions, whose results between them are then not kept.
    recomputes: ClassVar[bool] = False

    host: ClassVar[Host] = Host()

    @abstractmethod
    def unavailable(self) -> str:
        """Why it cannot work on this machine, "" if it can."""

    @abstractmethod
    def accept(self, call: RegionCall) -> Accepted[Description] | Declined:
        """A description of the call, or why it does not take it.

        The answer depends on :attr:`RegionCall.structure` alone, and is kept for as long as that stays.
        """

    @abstractmethod
    def build(self, accepted: Accepted[Description]) -> Callable[[Context], None]:
        """The function that runs a call."""

    def build_group(self, accepted: Sequence[Accepted[Description]], exported: frozenset[str]) -> Group:
        """Consecutive calls as one, where :attr:`grouping`.

        Args:
            accepted: the calls.
            exported: those of their layers whose masks (and magnitudes) calls outside the group need.
        """
        raise NotImplementedError(f"{self.name} does not group")  # only one whose `grouping` is True is asked

    def pixel_stride_of(self, channels: int, device: str) -> int:
        """Elements from pixel to pixel that its kernels want of a map on a kind of device; 0: no matter."""
        return 0
