"""Bound how far changes reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar

from videoeff.analysis.regions import regions
from videoeff.analysis.vicinity import placed
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.passes.base import Notes, Pass

#: Frames after which what was put off is up to date again, where nothing else is asked for.
REFRESH = 64


@dataclass(frozen=True)
class BoundReach(Pass):
    """Compute a pixel only near what changed; put off what windows reach beyond that.

    The windows of a deep network let every change grow far beyond what matters of it. With a bound a map's
    pixel is computed only if it lies within ``pixels`` of a pixel of the frame that changed, or of a value
    that is computed whole. What is put off is marked, and computed when it comes to lie within the bound or
    when the refresh gets to it: whatever is put off is up to date again within ``refresh`` frames.

    Not exact where something moves; exact again ``refresh`` frames after the picture came to rest.

    Attributes:
        pixels: the bound, in pixels of the frame; ``inf`` takes it away.
        refresh: in frames; 0: never, so that what is put off may stay old for ever. 1 is exact.
        layers: a pattern; the bound is set, or taken away, of layers whose name matches.
    """

    name: ClassVar[str] = "bound-reach"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    pixels: float = 8.0
    refresh: int = REFRESH
    layers: str = "*"

    def check(self) -> None:
        """Raise unless the options are legal.

        Raises:
            PassError: one of them is not; named.
        """
        pixels, refresh = self.pixels, self.refresh
        if isinstance(pixels, bool) or not isinstance(pixels, (int, float)) or not pixels >= 0:
            raise PassError(f"{self.name}: pixels={pixels!r}: give a number of pixels, 0 or more")
        if isinstance(refresh, bool) or not isinstance(refresh, int) or refresh < 0:
            raise PassError(f"{self.name}: refresh={refresh!r}: give a whole number of frames, 0 or more")

    @property
    def bounds(self) -> bool:
        """Whether it sets a bound; else it takes bounds away."""
        return math.isfinite(self.pixels)

    @property
    def options(self) -> dict[str, Any]:
        """The options of a cache with this bound."""
        if self.bounds:
            return {"within": float(self.pixels), "refresh": self.refresh}
        return {"within": None, "refresh": 0}

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Bound every map that can be placed over the frame."""
        self.check()
        found, changed = placed(regions(program)), False
        for cache in (n for n in program.nodes if is_cache(n)):
            name = cache_name(cache)
            if cache_option(cache, "recompute") or not fnmatchcase(name, self.layers):
                continue  # what is computed anew is so for its reader, which has a bound
            if name in found.homes and (self.bounds or cache_option(cache, "within") is not None):
                changed |= edit.set_option(cache, **self.options)
            elif name in found.why_not and self.bounds:
                note(name, f"its reach is not bounded: {found.why_not[name]}")
        return changed
