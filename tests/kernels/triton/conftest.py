"""What the tests of the CUDA backend share. Those under ``interpreted`` are a run of their own.

``TRITON_INTERPRET=1 pytest tests/kernels/triton/interpreted``: the variable must be there before Triton is
imported.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pytest


def pytest_sessionstart() -> None:
    """Triton 3.6's interpreter takes int() of an array of one element, which NumPy refuses as of 2.4."""
    if os.environ.get("TRITON_INTERPRET") != "1" or find_spec("triton") is None:
        return
    numpy = tuple(int(part) for part in version("numpy").split(".")[:2])
    if version("triton").startswith("3.6.") and numpy >= (2, 4):
        raise pytest.UsageError(
            "Triton 3.6 cannot interpret kernels with NumPy 2.4: pip install 'numpy<2.4', or a newer Triton"
        )


collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted/*"]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets plans made afterwards cut their kernels otherwise.

    ``cut(tiles, narrow=False, **options)``: edges of tiles, dealt out to the regions one after the other,
    where they are larger than what was chosen; many blocks of few channels; other fields of a ``Config``.
    Rows of one pixel and predicted convolutions, whose sizes are not free, stay as they are.
    """
    from videoeff.kernels.triton import configs, plan
    from videoeff.kernels.triton.rules import MATRIX

    def change(tiles: Sequence[int] = (1,), narrow: bool = False, **options: Any) -> None:
        dealt = itertools.cycle(tiles)

        def choose(call: Any, form: Any, *rest: Any) -> Any:
            config = configs.choose(call, form, *rest)
            kind = configs.kind_of(form)
            if kind == "rows" or call.prediction is not None:
                return config
            tile = max(config.U, next(dealt))
            few = min(config.BN, 16 if kind in MATRIX else 8)
            wide = few if narrow and not configs.looks_along(form) else config.BN
            return replace(config, U=tile, BM=max(config.BM, tile**2), BN=wide, **options)

        monkeypatch.setattr(plan, "choose", choose)

    return change
