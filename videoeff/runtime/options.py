"""What a stream does with odd frames and with its outputs, which frames it looks at, and what it checks."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from videoeff.errors import StateError

#: Compares a frame's outputs with those of the dense network: ``metric(outputs, dense)`` is a number.
Metric = Callable[[Any, Any], float]

NAN_POLICIES = ("error", "recompute")
RESIZE_POLICIES = ("error", "replan")


@dataclass(frozen=True)
class AuditOptions:
    """Which frames are compared with the dense network, how, and what the result may be.

    Attributes:
        share: share of the frames that are compared, 0 (none) to 1 (all).
        metric: makes a number of a frame's outputs and the dense ones; the relative error if None.
        at_most: the running mean may be at most this; no bound if None.
        at_least: the running mean may be at least this, for metrics such as an agreement.
        over: audits that the running mean is over; before there are so many, no bound is left.
        idle: keep the frame and compare when ``stream.audit_now()`` is called, instead of at once.

    Raises:
        StateError: a number is out of its range, or the metric cannot be called.
    """

    share: float = 0.0
    metric: Metric | None = None
    at_most: float | None = None
    at_least: float | None = None
    over: int = 5
    idle: bool = False

    def __post_init__(self) -> None:
        if not (_is_number(self.share) and 0 <= self.share <= 1):
            raise StateError(f"audit={self.share!r}: the share of audited frames is a number from 0 to 1")
        for what in ("at_most", "at_least"):
            bound = getattr(self, what)
            if bound is not None and not (_is_number(bound) and math.isfinite(bound)):
                raise StateError(
                    f"audit: {what}={bound!r} is no finite number; give one, or None for no bound"
                )
        if _whole(self.over) is None:
            raise StateError(
                f"audit: over={self.over!r} is no number of audits; give a whole number from 1 on"
            )
        if self.metric is not None and not callable(self.metric):
            raise StateError(
                f"audit: metric={self.metric!r} cannot be called; give a function of two outputs"
            )

    def to_json(self) -> dict[str, Any]:
        """What a file can hold: no metric, and no bound that is a metric's."""
        own = self.metric is None
        return {
            "share": float(self.share),
            "at_most": self.at_most if own else None,
            "at_least": self.at_least if own else None,
            "over": int(self.over),
            "idle": bool(self.idle),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> AuditOptions:
        """What :meth:`to_json` gave; everything off where there is nothing."""
        return cls(**values)


@dataclass(frozen=True)
class Options:
    """The options of a stream, checked as they are made.

    Attributes:
        alias_outputs: hand out the buffers themselves, which the next frame overwrites and the caller must
            not write; a model captured in parts computes its outputs anew, so there it changes nothing.
        nan_policy: "error" raises on NaN or infinity in a frame (on CUDA when the flag has arrived, so
            that nothing waits); "recompute" lets such pixels count as changed.
        on_resize: "error", or "replan" to convert again for a frame of another size and start afresh.
        every: look at every n-th frame, and hand out the last outputs between; 1 looks at all of them.
        audit: which frames are compared with the dense network.

    Raises:
        StateError: one of the words is unknown, or ``every`` is no whole number from 1 on.
    """

    alias_outputs: bool = False
    nan_policy: str = "error"
    on_resize: str = "error"
    every: int = 1
    audit: AuditOptions = field(default_factory=AuditOptions)

    def __post_init__(self) -> None:
        for what, value, legal in (
            ("nan_policy", self.nan_policy, NAN_POLICIES),
            ("on_resize", self.on_resize, RESIZE_POLICIES),
        ):
            if value not in legal:
                raise StateError(f"{what}={value!r} is none of {', '.join(legal)}")
        every = _whole(self.every)
        if every is None:
            raise StateError(
                f"every={self.every!r}: a stream looks at every n-th frame; give n as a whole number from 1 "
                "on, where 1 looks at all of them"
            )
        object.__setattr__(self, "every", every)


def _whole(value: Any) -> int | None:
    """A whole number from 1 on as an int, None if it is none."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
    return number if number >= 1 else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
