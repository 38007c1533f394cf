"""The native CPU backend: regions as ops of one plan that a single call runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from videoeff.kernels.backend import Accepted, Backend, Declined, Group, Host
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.cpp.describe import Description, describe
from videoeff.kernels.output_memory import OutputMemory


class CppHost(Host):
    """The finite check, copies of outputs, and the warning that there is no native library.

    What loads the library is imported on use: the library is built by a module of this package.
    """

    def all_finite(self, frame: Tensor) -> bool | None:
        """Whether a frame is finite, read once and without a copy."""
        from videoeff.kernels.cpp.finite import native_all_finite

        return native_all_finite(frame)

    def copied(self, value: Tensor, memory: OutputMemory | None) -> Tensor | None:
        """A copy from pixels with their channels side by side to planes."""
        from videoeff.kernels.cpp.planes import native_planes

        return native_planes(value, memory)

    def warn(self) -> None:
        """Warn that there is no native library."""
        from videoeff.kernels.cpp import library

        library.warn_if_missing()

    def facts(self) -> Mapping[str, Any]:
        """The compiler; the native library: whether it is there, what it can use here, whose costs serve."""
        from videoeff.kernels.cpp import build, costs, library

        compiler = {"command": "", "version": "", "why_none": ""}
        try:
            command = build.find_compiler()
            compiler |= {"command": " ".join(command), "version": build.compiler_version(command)}
        except build.BuildError as error:
            compiler["why_none"] = str(error)
        native: dict[str, Any] = {"path": "", "compiler": "", "instruction_sets": [], "why_none": ""}
        if reason := library.unavailable():
            return {"compiler": compiler, "native": native | {"why_none": reason}}
        found = library.load()
        native |= {"path": str(found.path), "compiler": found.compiler}
        native["products"] = found.products.name.lower()
        table = costs.table()
        native |= {"costs": table.to_json(), "tuned": str(table.path) if table.measured else ""}
        native["costs_fit"], native["costs_notes"] = table.fits, dict(table.notes)
        return {"compiler": compiler, "native": native | {"instruction_sets": list(library.isa_names())}}


class CppBackend(Backend[Description]):
    """Serves on the CPU what ``describe`` has a description of."""

    name = "cpp"
    grouping = True
    recomputes = True
    host = CppHost()

    def unavailable(self) -> str:
        """Why there is no native library."""
        from videoeff.kernels.cpp import library

        return library.unavailable()

    def accept(self, call: RegionCall) -> Accepted[Description] | Declined:
        """The region as a native op."""
        return describe(call)

    def build(self, accepted: Accepted[Description]) -> Callable[[Context], None]:
        """The call as a plan of its own, whose mask everybody may read."""
        return self.build_group([accepted], frozenset({accepted.call.name})).run

    def build_group(self, accepted: Sequence[Accepted[Description]], exported: frozenset[str]) -> Group:
        """The calls as one plan. The first one on a processor measures what it costs there."""
        from videoeff.kernels.cpp.first_use import measure_if_new
        from videoeff.kernels.cpp.plan import NativePlan

        measure_if_new()  # here, so that no frame is late

        return NativePlan(accepted, exported)
