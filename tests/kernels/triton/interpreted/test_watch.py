"""That the watch over interpreted kernels finds what it is there for, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

ORDERED = {"SEM": "acq_rel"}

#: Kernel, its programs, options, and words of what is found.
FOUND: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "past the end": ("beside", 1, {"by": 8}, "a load 4 bytes past the end of x"),
    "in front": ("beside", 1, {"by": -1}, "a load at 0x"),
    "stores meet": ("one_place", 2, {"same": False}, "stores to x what another program stores"),
    "a load meets a store": ("neighbour", 2, {}, "what another program"),
    "a store meets a load": ("overwrite", 2, {}, "what another program"),
    "no barrier": ("read_back", 1, {"BARRIER": False}, "what it stored, without a barrier"),
    "one store": ("one_store", 1, {}, "different values to one place"),
    "no atomic": ("count", 2, {"ATOMIC": False, "VOLATILE": False}, "what another program"),
    "a load meets an atomic": (
        "count",
        2,
        {"ATOMIC": True, "VOLATILE": False},
        "another program (exch|loa)",
    ),
    "no order": (
        "hand_over",
        4,
        {"BEFORE": True, "BEHIND": True, "SEM": "relaxed"},
        "what another program stores",
    ),
    "no barrier before": ("hand_over", 4, {"BEFORE": False, "BEHIND": True, **ORDERED}, "releases without"),
    "no barrier behind": (
        "hand_over",
        4,
        {"BEFORE": True, "BEHIND": False, **ORDERED},
        "what it acquired",
    ),
}

RIGHT: dict[str, tuple[str, int, dict[str, Any]]] = {
    "the same value": ("one_place", 2, {"same": True}),
    "a barrier": ("read_back", 1, {"BARRIER": True}),
    "volatile": ("count", 2, {"ATOMIC": True, "VOLATILE": True}),
    "handed over": ("hand_over", 4, {"BEFORE": True, "BEHIND": True, **ORDERED}),
}


def launch(kernel: str, programs: int, options: dict[str, Any]) -> torch.Tensor:
    """Run one of ``racing.py`` over eight zeros."""
    from tests.support.triton import racing

    x = torch.zeros(8)
    given = {"arrived": torch.zeros(1, dtype=torch.int32)} if kernel == "hand_over" else {}
    getattr(racing, kernel)[(programs,)](x, **given, **options)
    return x


@pytest.mark.parametrize("fault", FOUND)
@pytest.mark.parametrize("seed", range(3))
def test_a_fault_is_found(fault: str, seed: int) -> None:
    from tests.support.triton.watch import watched

    kernel, programs, options, words = FOUND[fault]
    with pytest.raises(AssertionError, match=words), watched(seed):
        launch(kernel, programs, options)


@pytest.mark.parametrize("kernel", RIGHT)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_right_passes(kernel: str, seed: int) -> None:
    from tests.support.triton.watch import watched

    with watched(seed) as watch:
        result = launch(*RIGHT[kernel])
    if kernel == "handed over":
        assert result[4] == 4
    (touched,) = watch.frames
    assert len(touched.writes) > 0


def test_programs_take_turns() -> None:
    """Each seed is another order: who is last differs."""
    from tests.support.triton.watch import watched

    seen = set()
    for seed in range(20):
        with pytest.raises(AssertionError), watched(seed):
            seen.add(float(launch("one_place", 4, {"same": False})[0]))
    assert seen == {0.0, 1.0, 2.0, 3.0}


def test_an_error_in_a_program_is_raised() -> None:
    """And no program is left waiting."""
    import random

    from tests.support.triton.watch import Turns

    def work(program: int) -> None:
        turns.may_switch()
        if program == 1:
            raise ValueError("broken")

    turns = Turns(3, random.Random(0))
    with pytest.raises(ValueError, match="broken"):
        turns.run(work)
