"""Rewrite passes: Program -> Program. One file each, named verb_object."""

from videoeff.passes.base import Pass, PassResult
from videoeff.passes.pipeline import check_order, parse_passes, passes_hash, passes_to_text, run_passes
from videoeff.passes.recipes import PASSES, RECIPES, recipe

__all__ = [
    "PASSES",
    "RECIPES",
    "Pass",
    "PassResult",
    "check_order",
    "parse_passes",
    "passes_hash",
    "passes_to_text",
    "recipe",
    "run_passes",
]
