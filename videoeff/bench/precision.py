"""Whether float32's rounding explains that contenders differ: arrays of outputs, judged in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from videoeff.bench.process import WorkerFailed
from videoeff.rounding import LAW, Rounding
from videoeff.testing import relative_error

#: Arrays by name: ``frame0_1`` is the second output of the first frame.
Arrays = Mapping[str, Any]


def explained(red: Mapping[str, Arrays], expected: Arrays, ask: Callable[[], Arrays]) -> dict[str, Rounding]:
    """What float64 says of contenders whose outputs exceed the law.

    Args:
        red: their outputs.
        expected: those of eager PyTorch, of these frames or more.
        ask: gives the arrays of a worker asked for outputs with ``"float64": true``. It is called once, and
            only if some difference is small enough to be rounding.
    """
    told = {kind: Rounding(who=kind) for kind in red}
    exact: Arrays | None = None
    for kind, rounding in told.items():
        for index in _frames(red[kind]):
            found, wanted = _frame(red[kind], "frame", index), _frame(expected, "frame", index)
            if not rounding.exceeds(found, wanted):
                continue
            try:
                exact = ask() if exact is None else exact
            except WorkerFailed as error:
                rounding.unknown = str(error)
                break
            others = [_frame(exact, name, index) for name in ("eager", "last")]
            rounding.add(found, wanted, others, _frame(exact, "exact", index))
    if exact is not None:
        _check_eager(told, expected, exact)
    return told


def _check_eager(told: Mapping[str, Rounding], expected: Arrays, exact: Arrays) -> None:
    """Explain nothing where eager PyTorch with batch norms folded, which all are compared with, is wrong."""
    eager = Rounding(who="with batch norms folded it")
    for index in _frames(exact, "exact"):
        truth = _frame(exact, "exact", index)
        others = [_frame(exact, name, index) for name in ("eager", "last")]
        for number, ours in enumerate(_frame(expected, "frame", index)):
            if ours.dtype == torch.float32 and relative_error(ours.double(), truth[number]) > LAW:
                eager.add_one(str(number), ours, [values[number] for values in others], truth[number])
    for rounding in told.values():
        if eager.errors and not eager.holds:
            rounding.unknown = rounding.unknown or f"eager PyTorch itself is wrong ({eager})"


def _frames(arrays: Arrays, name: str = "frame") -> Iterator[int]:
    return itertools.takewhile(lambda i: f"{name}{i}_0" in arrays, itertools.count())


def _frame(arrays: Arrays, name: str, index: int) -> list[torch.Tensor]:
    """A frame's outputs in order."""
    numbers = itertools.takewhile(lambda i: f"{name}{index}_{i}" in arrays, itertools.count())
    return [torch.from_numpy(arrays[f"{name}{index}_{i}"]) for i in numbers]
