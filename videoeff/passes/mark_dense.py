"""Mark regions that are computed whole whenever anything before them changed."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from videoeff.analysis.regions import region_of
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.layout import info
from videoeff.ir.markers import cache_name, cache_option
from videoeff.ir.program import Program
from videoeff.passes.base import Notes, Pass


@dataclass(frozen=True)
class MarkDense(Pass):
    """Write into each cache why its region is computed densely, if it is.

    Attributes:
        layers: patterns of layer names (``layer4.*``) to compute densely, for users who know better.
        smallest: maps of at most this many pixels are computed densely: one change reaches all of them.
    """

    layers: tuple[str, ...] = ()
    smallest: int = 4

    name: ClassVar[str] = "mark-dense"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Mark caches; a pattern that matches nothing is an error."""
        changed, matched = False, set()
        for cache in list(edit.caches(program)):
            if cache_option(cache, "kind") in ("input", "state") or cache_option(cache, "dense"):
                continue
            name, value = cache_name(cache), info(cache)
            region = region_of(cache)
            reason = region.dense
            pattern = next((p for p in self.layers if fnmatchcase(name, p)), None)
            if pattern is not None:
                matched.add(pattern)
                reason = f"asked for by {pattern!r}"
            elif not reason and value.layout is not None and value.shape is not None:
                _, height, width = value.layout.extent(value.shape)
                if height * width <= self.smallest:
                    reason = f"only {height}x{width} pixels"
            if reason:
                changed |= edit.set_option(cache, dense=reason)
                if value.is_spatial:
                    note(name, f"computed densely: {reason}")
        already = {cache_name(c) for c in edit.caches(program) if cache_option(c, "dense")}
        for pattern in self.layers:
            if pattern not in matched and not any(fnmatchcase(n, pattern) for n in already):
                raise PassError(
                    f"mark-dense: no layer matches {pattern!r}; see videoeff inspect for the names"
                )
        return changed
