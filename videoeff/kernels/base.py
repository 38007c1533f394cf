"""What an implementation is, and which there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from videoeff.ops.call import Context, RegionCall


class Implementation:
    """One way to run a call.

    It says whether it can work here, whether it takes a call, and builds the call's function. Nothing else.
    """

    name: ClassVar[str]
    backend: ClassVar[str]

    def unavailable(self) -> str:
        """Why it cannot work on this machine, "" if it can."""
        raise NotImplementedError

    def declines(self, call: RegionCall) -> str:
        """Why it does not take a call, "" if it does."""
        raise NotImplementedError

    def build(self, call: RegionCall) -> Callable[[Context], None]:
        """The function that runs the call."""
        raise NotImplementedError
