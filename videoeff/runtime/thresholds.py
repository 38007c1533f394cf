"""Changing the thresholds of a running stream; its state is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

from videoeff.errors import StateError
from videoeff.ir import edit
from videoeff.ir.markers import cache_option
from videoeff.ir.program import Program
from videoeff.passes.base import Notes
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.pipeline import parse_passes
from videoeff.runtime.engine import Engine


def check_threshold(name: str, layer: str, value: Any) -> float:
    """A threshold as a float.

    Raises:
        StateError: it is no number, negative or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < math.inf:
        raise StateError(
            f"{name}: the threshold of {layer} is {value!r}; it must be a finite number, 0 or larger"
        )
    return float(value)


def set_everywhere(engine: Engine, value: float) -> None:
    """Set the threshold of every layer that can gain by it, as the pass that set them first would."""
    chosen = replace(_first_options(engine.program), threshold=value, input_threshold=None)
    chosen.rewrite(engine.program, Notes())
    engine.relower()


def _first_options(program: Program) -> InsertThresholds:
    for record in reversed(program.history):
        if record.name == InsertThresholds.name:
            (found,) = parse_passes(record.text)
            if isinstance(found, InsertThresholds):
                return found
    return InsertThresholds()


def set_layers(engine: Engine, values: Mapping[str, float]) -> None:
    """Set thresholds by layer name; a layer that had none tests as the pass would let it."""
    known, default = engine.thresholds(), _first_options(engine.program)
    caches = edit.cache_by_name(engine.program)
    for layer, value in values.items():
        options: dict[str, Any] = {"threshold": value}
        if value > 0 and known[layer] == 0:
            entry = cache_option(caches[layer], "kind") == "input"
            options["test"] = default.input_test if entry else default.test
            if entry:
                options |= {"block": default.block, "dilation": default.dilation}
        edit.set_option(caches[layer], **options)
    engine.relower()


def carry_over(old: Engine, new: Engine) -> None:
    """Give the layers of ``new`` the change tests that layers of the same name have in ``old``."""
    before, after = edit.cache_by_name(old.program), edit.cache_by_name(new.program)
    settable = new.thresholds()
    for layer in old.thresholds():
        if layer in settable:
            options = ("test", "threshold", "block", "dilation")
            edit.set_option(after[layer], **{o: cache_option(before[layer], o) for o in options})
    new.relower()
