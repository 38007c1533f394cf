"""The native CPU backend: regions as ops of one plan that a single call runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from videoeff.kernels.backend import Group, Implementation
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.cpp.describe import describe


class CppRegion(Implementation):
    """Serves on the CPU what ``describe`` has a form for.

    What loads the library is imported on use: the library is built by a module of this package.
    """

    name = "cpp"
    backend = "cpp"
    grouping = True
    recomputes = True

    def unavailable(self) -> str:
        """Why there is no native library."""
        from videoeff.kernels.cpp import library

        return library.unavailable()

    def declines(self, call: RegionCall) -> str:
        """Why the region has no native form."""
        found = describe(call)
        return found if isinstance(found, str) else ""

    def build(self, call: RegionCall) -> Callable[[Context], None]:
        """The call as a plan of its own, whose mask everybody may read."""
        return self.build_group([call], frozenset({call.name})).run

    def build_group(self, calls: Sequence[RegionCall], exported: frozenset[str]) -> Group:
        """The calls as one plan."""
        from videoeff.kernels.cpp.plan import NativePlan

        return NativePlan(calls, exported)
