"""Choose a backend for every region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from videoeff.errors import BackendError
from videoeff.kernels import BACKENDS, Accepted, Backend, Declined
from videoeff.kernels.call import RegionCall

#: Structures of a layer that are remembered: a threshold set or taken away makes few of them.
_MOST = 4


@dataclass(frozen=True)
class Choice:
    """Who runs a call, and why those before it do not."""

    backend: Backend[Any]
    accepted: Accepted[Any]
    reason: str


@dataclass
class Answers:
    """What backends said of regions.

    A backend is asked again only about a region whose structure has changed: lowering anew with other
    thresholds describes nothing.
    """

    _known: dict[tuple[str, str], list[tuple[tuple[Any, ...], Accepted[Any] | Declined]]] = field(
        default_factory=dict
    )

    def ask(self, backend: Backend[Any], call: RegionCall) -> Accepted[Any] | Declined:
        """Whether a backend takes a call."""
        known = self._known.setdefault((backend.name, call.name), [])
        for structure, answer in known:
            if structure == call.structure:
                if isinstance(answer, Declined):
                    return answer
                # the same steps, which may be compiled by now
                return replace(answer, call=replace(call, source=answer.call.source))
        answer = backend.accept(call)
        known.append((call.structure, answer))
        del known[:-_MOST]
        return answer


def choose_backends(backend: str) -> tuple[Backend[Any], ...]:
    """The backends to try, best first.

    Raises:
        BackendError: a backend asked for by name is unknown or cannot serve here.
    """
    if backend == "auto":
        return tuple(b for b in BACKENDS if not b.unavailable())
    for found in BACKENDS:
        if found.name == backend:
            if reason := found.unavailable():
                raise BackendError(f"backend {backend!r} cannot serve here: {reason}; use backend='auto'")
            return (found,)
    names = sorted(b.name for b in BACKENDS)
    raise BackendError(f"no backend {backend!r} in this version; there are auto, {', '.join(names)}")


def choose(call: RegionCall, backends: Sequence[Backend[Any]], name: str, answers: Answers) -> Choice:
    """The backend that runs a call.

    Args:
        call: the call.
        backends: those to try, best first.
        name: what was asked for, for the message.
        answers: what they said before.

    Raises:
        BackendError: all decline it.
    """
    reasons: list[str] = []
    for backend in backends:
        match answers.ask(backend, call):
            case Accepted() as accepted:
                return Choice(backend, accepted, "; ".join(reasons))
            case Declined(reason):
                reasons.append(f"{backend.name}: {reason}")
    raise BackendError(f"{call.name}: backend {name!r} declines it: {'; '.join(reasons) or 'none serves'}")
