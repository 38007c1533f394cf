"""What a pass is: a frozen dataclass whose fields are its options, with one method and an honest result."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from videoeff.analysis import annotate
from videoeff.analysis.verify import verify
from videoeff.errors import PassError
from videoeff.ir.markers import is_cache
from videoeff.ir.program import PassRecord, Program


@dataclass(frozen=True)
class PassResult:
    """The rewritten Program, whether anything changed, and a note for each declined rewrite."""

    program: Program
    changed: bool
    notes: tuple[str, ...]


@dataclass
class Notes:
    """Collects notes; the same note is kept once."""

    lines: list[str] = field(default_factory=list)

    def __call__(self, where: str, why: str) -> None:
        """Note what was declined at ``where``, and why."""
        line = f"{where}: {why}"
        if line not in self.lines:
            self.lines.append(line)


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes.

    Subclasses set ``name`` and implement :meth:`rewrite`. ``needs`` and ``gives`` are words: a pipeline
    refuses an order in which a needed word is not there. ``removes`` takes words away.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    gives: ClassVar[frozenset[str]] = frozenset()
    removes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def rewrite(self, program: Program, note: Notes) -> bool:
        """Rewrite ``program`` in place; True if it changed."""

    def run(self, program: Program) -> PassResult:
        """Rewrite a copy, annotate and verify it, and record what happened.

        Raises:
            PassError: the rewrite failed.
            VerifyError: the result is not legal.
        """
        return self.run_in_place(program.clone())

    def run_in_place(self, program: Program) -> PassResult:
        """As :meth:`run`, but of a Program that nobody needs any more."""
        note = Notes()
        changed = self.rewrite(program, note)
        annotate(program)
        if any(is_cache(n) for n in program.nodes):
            program = program.at_stage("planned")
        program.module.recompile()
        verify(program)
        result = program.recorded(PassRecord(self.name, str(self), changed, tuple(note.lines)))
        return PassResult(result, changed, tuple(note.lines))

    def __str__(self) -> str:
        options = []
        for option in fields(self):
            value = getattr(self, option.name)
            if value != option.default:
                options.append(f"{option.name}={_option_text(value)}")
        return self.name + ("{" + ", ".join(options) + "}" if options else "")


def _option_text(value: Any) -> str:
    if isinstance(value, tuple):
        return "+".join(":".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


def parse_options(kind: type[Pass], text: str) -> Pass:
    """A pass from ``key=value, …``.

    Raises:
        PassError: an unknown option or a value of the wrong type.
    """
    known = {f.name: f for f in fields(kind)}
    options: dict[str, Any] = {}
    for part in re.split(r",\s*", text.strip()) if text.strip() else []:
        key, equals, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or key not in known:
            raise PassError(
                f"{kind.name}: no option {key!r}; it has {', '.join(known) or 'none'}; write key=value"
            )
        options[key] = _parse_value(kind.name, key, value, known[key].default)
    return kind(**options)


#: Between the parts of a list; the plus of an exponent is none.
_PLUS = re.compile(r"(?<![0-9]e)\+")


def _part(text: str) -> Any:
    """A word of a list, or numbers with colons between."""
    return tuple(float(v) for v in text.split(":")) if ":" in text else text


def _parse_value(name: str, key: str, value: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[value.lower()]
        if isinstance(default, int):
            return int(value)
        if isinstance(default, float):
            return float(value)
        if isinstance(default, tuple):
            return tuple(_part(v) for v in _PLUS.split(value) if v)
        if default is None:
            return None if value == "None" else float(value)
    except (KeyError, ValueError):
        raise PassError(f"{name}: {key}={value!r} is no {type(default).__name__}") from None
    return value
