"""Choose an implementation for every region."""

from __future__ import annotations

from collections.abc import Sequence

from videoeff.errors import BackendError
from videoeff.kernels import IMPLEMENTATIONS, Implementation
from videoeff.kernels.call import RegionCall


def choose_implementations(backend: str) -> tuple[Implementation, ...]:
    """The implementations to try, best first.

    Raises:
        BackendError: a backend asked for by name is unknown or cannot serve here.
    """
    if backend == "auto":
        return tuple(i for i in IMPLEMENTATIONS if not i.unavailable())
    found = tuple(i for i in IMPLEMENTATIONS if i.backend == backend)
    names = sorted({i.backend for i in IMPLEMENTATIONS})
    if not found:
        raise BackendError(f"no backend {backend!r} in this version; there are auto, {', '.join(names)}")
    reasons = [i.unavailable() for i in found]
    if all(reasons):
        raise BackendError(f"backend {backend!r} cannot serve here: {reasons[0]}; use backend='auto'")
    return found


def choose(
    call: RegionCall, implementations: Sequence[Implementation], backend: str
) -> tuple[Implementation, str]:
    """The implementation that runs a call, and why those before it do not."""
    reasons: list[str] = []
    for implementation in implementations:
        reason = implementation.declines(call)
        if not reason:
            return implementation, "; ".join(reasons)
        reasons.append(f"{implementation.name}: {reason}")
    raise BackendError(f"{call.name}: backend {backend!r} declines it: {'; '.join(reasons) or 'none serves'}")
