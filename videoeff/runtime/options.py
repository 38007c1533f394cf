"""What a stream does with odd frames and with its outputs."""

from __future__ import annotations

from dataclasses import dataclass

from videoeff.errors import StateError

NAN_POLICIES = ("error", "recompute")
RESIZE_POLICIES = ("error", "replan")


@dataclass(frozen=True)
class Options:
    """The options of a stream, checked as they are made.

    Attributes:
        alias_outputs: hand out the buffers themselves, which the next frame overwrites and the caller must
            not write; a model captured in parts computes its outputs anew, so there it changes nothing.
        nan_policy: "error" raises on NaN or infinity in a frame (on CUDA when the flag has arrived, so
            that nothing waits); "recompute" lets such pixels count as changed.
        on_resize: "error", or "replan" to convert again for a frame of another size and start afresh.

    Raises:
        StateError: one of the words is unknown.
    """

    alias_outputs: bool = False
    nan_policy: str = "error"
    on_resize: str = "error"

    def __post_init__(self) -> None:
        for what, value, legal in (
            ("nan_policy", self.nan_policy, NAN_POLICIES),
            ("on_resize", self.on_resize, RESIZE_POLICIES),
        ):
            if value not in legal:
                raise StateError(f"{what}={value!r} is none of {', '.join(legal)}")
