"""From the options of ``convert`` to passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from videoeff.errors import PassError
from videoeff.passes.base import Pass
from videoeff.passes.bound_reach import REFRESH, BoundReach
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.pipeline import parse_passes
from videoeff.passes.recipes import recipe


def passes_of(
    recipe_name: str,
    passes: str | Sequence[Pass] | None,
    threshold: float,
    predict: float,
    input_threshold: float | None,
    tested: Mapping[str, Any],
) -> tuple[Pass, ...]:
    """The passes that ``convert`` runs.

    Args:
        recipe_name: a recipe's name.
        passes: a list or its text instead; None for the recipe.
        threshold: τ.
        predict: π.
        input_threshold: that of the frames, None for τ.
        tested: further options of ``insert-thresholds``.

    Raises:
        PassError: unknown names, or thresholds that the passes do not take.
    """
    thresholds = InsertThresholds(threshold, predict=predict, input_threshold=input_threshold, **tested)
    thresholds.check()
    asked = thresholds != InsertThresholds()
    if passes is not None:
        chosen = parse_passes(passes) if isinstance(passes, str) else tuple(passes)
        odd = [p for p in chosen if not isinstance(p, Pass)]
        if odd:
            raise PassError(f"passes holds {odd[0]!r}, which is no pass; give Pass objects or one text")
        if asked and any(isinstance(p, InsertThresholds) for p in chosen):
            raise PassError(
                "thresholds are given twice: once as an option and once in the list of passes; drop one"
            )
        return (*chosen, thresholds) if asked else chosen
    chosen = recipe(recipe_name)
    if not any(isinstance(p, InsertThresholds) for p in chosen):
        if asked:
            raise PassError(f"recipe {recipe_name!r} is exact and takes no threshold; use recipe='delta'")
        return chosen
    return tuple(replace(thresholds) if isinstance(p, InsertThresholds) else p for p in chosen)


def bound_of(reach: float | None, refresh: int, chosen: tuple[Pass, ...]) -> tuple[Pass, ...]:
    """The pass that bounds the reach, if that is asked for."""
    if reach is None:
        if refresh != REFRESH:
            raise PassError(
                f"refresh={refresh!r} is for what a bounded reach puts off, and reach is None; give reach too"
            )
        return ()
    bound = BoundReach(reach, refresh)
    bound.check()
    if any(isinstance(p, BoundReach) for p in chosen):
        raise PassError("reach is given twice: as an option and in the list of passes; drop one")
    return (bound,)


def as_tuples(noise: Any) -> Any:
    """The noise as a tuple of tuples, where it is one; what is no noise is refused by the pass."""
    try:
        return tuple(tuple(float(x) for x in channel) for channel in noise)
    except (TypeError, ValueError):
        return noise
