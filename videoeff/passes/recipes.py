"""Recipes: readable tuples of passes. ``exact`` touches no number, ``delta`` is what convert runs."""

from __future__ import annotations

from videoeff.errors import PassError
from videoeff.passes.base import Pass
from videoeff.passes.bound_reach import BoundReach
from videoeff.passes.drop_noops import DropNoops
from videoeff.passes.fold_batchnorm import FoldBatchnorm
from videoeff.passes.fold_space_to_depth import FoldSpaceToDepth
from videoeff.passes.fuse_pointwise import FusePointwise
from videoeff.passes.fuse_quantized import FuseQuantized
from videoeff.passes.hold_gates import HoldGates
from videoeff.passes.insert_delta_caches import InsertDeltaCaches
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.lift_casts import LiftCasts
from videoeff.passes.mark_dense import MarkDense
from videoeff.passes.plan_layout import PlanLayout
from videoeff.passes.recompute_expansions import RecomputeExpansions
from videoeff.passes.trace_channels import TraceChannels

#: Every pass by its command-line word.
PASSES: dict[str, type[Pass]] = {
    kind.name: kind
    for kind in (
        FoldBatchnorm,
        DropNoops,
        FoldSpaceToDepth,
        TraceChannels,
        LiftCasts,
        InsertDeltaCaches,
        FuseQuantized,
        FusePointwise,
        PlanLayout,
        HoldGates,
        MarkDense,
        RecomputeExpansions,
        InsertThresholds,
        BoundReach,
    )
}

RECIPES: dict[str, tuple[Pass, ...]] = {
    "exact": (
        DropNoops(),
        TraceChannels(),
        LiftCasts(),
        InsertDeltaCaches(),
        FuseQuantized(),
        FusePointwise(),
        PlanLayout(),
        HoldGates(),
        MarkDense(),
        RecomputeExpansions(),
    ),
    "delta": (
        FoldBatchnorm(),
        DropNoops(),
        FoldSpaceToDepth(),
        TraceChannels(),
        LiftCasts(),
        InsertDeltaCaches(),
        FuseQuantized(),
        FusePointwise(),
        PlanLayout(),
        HoldGates(),
        MarkDense(),
        RecomputeExpansions(),
        InsertThresholds(),
    ),
}


def recipe(name: str) -> tuple[Pass, ...]:
    """A recipe by name.

    Raises:
        PassError: no such recipe.
    """
    if name not in RECIPES:
        raise PassError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
