"""Automatic mixed precision around a call: what it is now, and the same again later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

_KINDS = ("cpu", "cuda")


@dataclass(frozen=True)
class Autocast:
    """The ``torch.autocast`` that is on.

    Attributes:
        dtypes: kinds of devices for which it is on, and the dtype it casts to there.
    """

    dtypes: tuple[tuple[str, torch.dtype], ...] = ()

    @classmethod
    def now(cls) -> Autocast:
        """What is on at this moment, in this thread."""
        on = [kind for kind in _KINDS if torch.is_autocast_enabled(kind)]
        return cls(tuple((kind, torch.get_autocast_dtype(kind)) for kind in on))

    def within(self, kind: str, dtype: torch.dtype | None, enabled: bool) -> Autocast:
        """What is on inside ``torch.autocast(kind, dtype, enabled)``, within this."""
        dtypes = {k: d for k, d in self.dtypes if k != kind}
        if enabled:
            dtypes[kind] = dtype or torch.get_autocast_dtype(kind)
        return Autocast(tuple(dtypes.items()))

    def __bool__(self) -> bool:
        return bool(self.dtypes)

    def __str__(self) -> str:
        return (
            ", ".join(f'torch.autocast("{kind}", dtype={dtype})' for kind, dtype in self.dtypes)
            or "no autocast"
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block, this and no other is on."""
        dtypes = dict(self.dtypes)
        with ExitStack() as stack:
            for kind in _KINDS:
                if kind in dtypes:
                    stack.enter_context(torch.autocast(kind, dtype=dtypes[kind], cache_enabled=False))
                elif torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            yield
