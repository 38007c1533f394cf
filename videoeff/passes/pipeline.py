"""Pipelines: passes in an order that is checked before the graph is touched."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from videoeff.errors import OrderError, PassError
from videoeff.ir.markers import is_cache
from videoeff.ir.program import Program
from videoeff.passes.base import Pass, parse_options
from videoeff.passes.recipes import PASSES


def parse_passes(text: str) -> tuple[Pass, ...]:
    """Passes from text such as ``fold-batchnorm,insert-thresholds{threshold=0.1, predict=1}``.

    Raises:
        PassError: an unknown pass or option.
    """
    passes = []
    for word, options in _split(text):
        if word not in PASSES:
            raise PassError(f"no pass {word!r}; there are {', '.join(PASSES)}")
        passes.append(parse_options(PASSES[word], options))
    if not passes:
        raise PassError("the list of passes is empty; write for instance insert-delta-caches,fuse-pointwise")
    return tuple(passes)


def _split(text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    pattern = re.compile(r"\s*([\w-]+)\s*(?:\{([^}]*)\})?\s*(?:,|$)")
    while position < len(text.rstrip()):
        match = pattern.match(text, position)
        if match is None:
            raise PassError(
                f"cannot read the list of passes at {text[position:][:40]!r}; write a,b{{key=value}},c"
            )
        found.append((match.group(1), match.group(2) or ""))
        position = match.end()
    return found


def passes_to_text(passes: Sequence[Pass]) -> str:
    """The text :func:`parse_passes` reads back."""
    return ",".join(str(p) for p in passes)


def passes_hash(text: str) -> str:
    """A short hash of a pipeline's text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_order(passes: Sequence[Pass], program: Program) -> None:
    """Refuse an order in which a pass lacks what it needs.

    Raises:
        OrderError: names the pass, the word it needs and who gives it.
    """
    words = {"caches"} if any(is_cache(n) for n in program.nodes) else {"unplanned"}
    for position, item in enumerate(passes):
        missing = item.needs - words
        if missing:
            word = sorted(missing)[0]
            givers = [p.name for p in PASSES.values() if word in p.gives]
            fix = f"put {givers[0]} before it" if givers else "run it before insert-delta-caches"
            raise OrderError(f"pass {position + 1}, {item.name}, needs {word!r}: {fix}")
        words = (words | item.gives) - item.removes


def run_passes(program: Program, passes: Sequence[Pass]) -> Program:
    """Run passes in order on a copy; the given Program stays as it was.

    Raises:
        OrderError: the order cannot work; nothing was run.
        PassError: a pass failed.
    """
    check_order(passes, program)
    program = program.clone()
    for item in passes:
        program = item.run_in_place(program).program
    return program
