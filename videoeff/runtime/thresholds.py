"""Thresholds and reach of a running stream: which there are, and changing them; its state is kept.

Layers are named as a user sees them: the engine's name (none for a model captured whole), a dot, the layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import fx

from videoeff.errors import PassError, StateError
from videoeff.ir import edit
from videoeff.ir.markers import cache_option, is_threshold
from videoeff.ir.program import PassRecord, Program
from videoeff.passes.base import Notes, Pass
from videoeff.passes.bound_reach import BoundReach, boundable
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.pipeline import parse_passes
from videoeff.runtime.engine import Engine
from videoeff.runtime.observation import layer_name
from videoeff.serialize.files import read_json_object

Engines = Mapping[str, Engine]


def rewrite(engine: Engine, *passes: Pass, record: bool = False) -> None:
    """Run passes that only set options of caches, and lower again; buffers that still fit are kept.

    Args:
        engine: whose Program they rewrite.
        passes: the passes, in order.
        record: note them in the Program's history, as if it had been converted with them.
    """
    for chosen in passes:
        notes = Notes()
        changed = chosen.rewrite(engine.own_program(), notes)
        if record:
            done = PassRecord(chosen.name, str(chosen), changed, tuple(notes.lines))
            engine.program = engine.program.recorded(done)
    engine.relower()


def reaches_of(engines: Engines) -> dict[str, float | None]:
    """The bound of every layer that may have one, in pixels of the frame; None where it has none."""
    return {
        layer_name(prefix, layer): cache_option(cache, "within")
        for prefix, engine in engines.items()
        for layer, cache in boundable(engine.program)[0].items()
    }


def is_exact(engines: Engines) -> bool:
    """Whether nothing is held back or put off: all thresholds are 0, and no reach is bounded."""
    caches = [c for e in engines.values() for c in edit.caches(e.program)]
    return all(cache_option(c, "threshold") == 0 and cache_option(c, "within") is None for c in caches)


def set_reach(name: str, engines: Engines, pixels: float | None, refresh: int, pattern: str | None) -> None:
    """Bound the reach of the layers whose name matches, or of all; None takes the bound away.

    Raises:
        StateError: no layer matches, or the bound or the refresh is none.
    """
    bound = BoundReach(math.inf if pixels is None else pixels, refresh)
    try:
        bound.check()
    except PassError as error:
        raise StateError(f"{name}: {error}") from None
    chosen: dict[str, list[fx.Node]] = {}
    for prefix, engine in engines.items():
        for layer, cache in boundable(engine.own_program())[0].items():
            full = layer_name(prefix, layer)
            if pattern is None or fnmatchcase(full, pattern) or full == pattern:
                chosen.setdefault(prefix, []).append(cache)
    if not chosen:
        raise StateError(f"{name}: no layer matches {pattern!r}; stream.reaches() lists the names")
    for prefix, caches in chosen.items():
        for cache in caches:
            bound.set(cache)
        engines[prefix].relower()


def check_threshold(where: str, layer: str, value: Any) -> float:
    """A threshold as a float.

    Args:
        where: the model or file it is of.
        layer: the layer it is of.
        value: what was given.

    Raises:
        StateError: it is no number, negative or not finite.
    """
    if not is_threshold(value):
        raise StateError(
            f"{where}: the threshold of {layer} is {value!r}; it must be a finite number, 0 or larger"
        )
    return float(value)


def thresholds_of(engines: Engines) -> dict[str, float]:
    """The threshold of every layer that may have one."""
    return {layer_name(p, n): v for p, e in engines.items() for n, v in e.thresholds().items()}


def set_matching(name: str, engines: Engines, value: Any, pattern: str | None) -> None:
    """Set the threshold of the layers whose name matches, or of all that can gain by it.

    Raises:
        StateError: no layer matches, or the value is none.
    """
    known = thresholds_of(engines)
    layers = [n for n in known if pattern is None or fnmatchcase(n, pattern) or n == pattern]
    if not layers:
        raise StateError(f"{name}: no layer matches {pattern!r}; stream.thresholds() lists the names")
    checked = check_threshold(name, layers[0], value)
    if pattern is not None:
        _set(engines, dict.fromkeys(layers, checked))
        return
    for engine in engines.values():
        if engine.thresholds():
            _set_everywhere(engine, checked)


def set_named(name: str, engines: Engines, values: Mapping[str, Any]) -> None:
    """Set thresholds by layer name.

    Raises:
        StateError: a name is unknown, or a value is none.
    """
    unknown = sorted(set(values) - set(thresholds_of(engines)))
    if unknown:
        raise StateError(
            f"{name}: no such layer: {', '.join(unknown[:5])}; stream.thresholds() lists the names"
        )
    _set(engines, {n: check_threshold(name, n, v) for n, v in values.items()})


def read_thresholds(path: str | Path, engines: Engines) -> dict[str, float]:
    """Thresholds by layer name from a JSON file, complete and with no name too many.

    Raises:
        StateError: a name is unknown or missing, or a value is no number that can be a threshold.
        ArtifactError: the file cannot be read.
    """
    values, known = read_json_object(path), set(thresholds_of(engines))
    unknown, missing = sorted(set(values) - known), sorted(known - set(values))
    if unknown:
        raise StateError(
            f"{path}: no such layer: {', '.join(unknown[:5])}; the names are those of another network"
        )
    if missing:
        raise StateError(
            f"{path}: {len(missing)} layer(s) have no threshold: {', '.join(missing[:5])}; add them"
        )
    return {name: check_threshold(str(path), name, value) for name, value in values.items()}


def carry_over(old: Engine, new: Engine) -> None:
    """Give the layers of ``new`` the change tests that layers of the same name have in ``old``."""
    before, after = edit.cache_by_name(old.program), edit.cache_by_name(new.own_program())
    settable = new.thresholds()
    for layer in old.thresholds():
        if layer in settable:
            options: tuple[str, ...] = ("test", "threshold", "block", "dilation", "noise", "weak", "grow")
            options += ("within", "refresh")
            edit.set_option(after[layer], **{o: cache_option(before[layer], o) for o in options})
    new.relower()


def _set(engines: Engines, values: Mapping[str, float]) -> None:
    for prefix, engine in engines.items():
        own = {n: values[k] for n in engine.thresholds() if (k := layer_name(prefix, n)) in values}
        if own:
            _set_layers(engine, own)


def _set_everywhere(engine: Engine, value: float) -> None:
    """Set the threshold of every layer that can gain by it, as the pass that set them first would.

    A frame's test by noise keeps its own threshold, which is in other units, unless all is to be exact.
    """
    first = _first_options(engine.program)
    own = first.input_threshold if first.noise and value > 0 else None
    chosen = replace(first, threshold=value, input_threshold=0.0 if value == 0 else own)
    rewrite(engine, chosen)


def _set_layers(engine: Engine, values: Mapping[str, float]) -> None:
    """Set thresholds by layer name; a layer that had none tests as the pass would let it."""
    known, default = engine.thresholds(), _first_options(engine.program)
    caches = edit.cache_by_name(engine.own_program())
    for layer, value in values.items():
        options: dict[str, Any] = {"threshold": value}
        if value > 0 and known[layer] == 0:
            entry = cache_option(caches[layer], "kind") == "input"
            options |= default.frame_test(caches[layer]) if entry else {"test": default.test}
        edit.set_option(caches[layer], **options)
    engine.relower()


def _first_options(program: Program) -> InsertThresholds:
    for record in reversed(program.history):
        if record.name == InsertThresholds.name:
            (found,) = parse_passes(record.text)
            if isinstance(found, InsertThresholds):
                return found
    return InsertThresholds()
