"""Bound how far changes reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import fx

from videoeff.analysis.behind import work_behind
from videoeff.analysis.regions import regions
from videoeff.analysis.vicinity import placed
from videoeff.errors import PassError
from videoeff.ir import edit
from videoeff.ir.markers import cache_option
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
        last: of those, only layers behind which at most this share of the network's multiply-accumulates
            lies; 1 stands for all. What windows reach in the last layers matters most, and costs least.
    """

    name: ClassVar[str] = "bound-reach"
    needs: ClassVar[frozenset[str]] = frozenset({"caches"})

    pixels: float = 8.0
    refresh: int = REFRESH
    layers: str = "*"
    last: float = 1.0

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
        if not 0 <= self.last <= 1:
            raise PassError(f"{self.name}: last={self.last!r}: give a share of the work, 0 to 1")

    @property
    def bounds(self) -> bool:
        """Whether it sets a bound; else it takes bounds away."""
        return math.isfinite(self.pixels)

    def rewrite(self, program: Program, note: Notes) -> bool:
        """Bound every map that can be placed over the frame."""
        self.check()
        able, why_not = boundable(program)
        behind = work_behind(regions(program)) if self.last < 1 else {}
        changed = False
        for name, cache in able.items():
            if self._takes(name, behind) and (self.bounds or cache_option(cache, "within") is not None):
                changed |= self.set(cache)
        for name, why in why_not.items():
            if self._takes(name, behind) and self.bounds:
                note(name, f"its reach is not bounded: {why}")
        return changed

    def _takes(self, name: str, behind: Mapping[str, float]) -> bool:
        return fnmatchcase(name, self.layers) and behind.get(name, 0.0) <= self.last

    def set(self, cache: fx.Node) -> bool:
        """Give one cache the bound, or take its bound away; True if that is new."""
        if self.bounds:
            return edit.set_option(cache, within=float(self.pixels), refresh=self.refresh)
        return edit.set_option(cache, within=None, refresh=0)


def boundable(program: Program) -> tuple[dict[str, fx.Node], dict[str, str]]:
    """The caches that may have a bound, by layer name; and why other maps may not.

    What is computed anew has none: it is computed for its reader, which has one.
    """
    places = placed(regions(program))
    kept = {n: c for n, c in edit.cache_by_name(program).items() if not cache_option(c, "recompute")}
    why_not = {n: why for n, why in places.why_not.items() if n in kept}
    return {n: c for n, c in kept.items() if n in places.homes}, why_not
