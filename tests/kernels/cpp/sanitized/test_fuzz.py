"""Corrupted descriptors: the native side refuses them with a sentence, or serves them; it never crashes."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from videoeff.kernels.cpp import abi, library

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "it is there")

ROOT = Path(__file__).resolve().parents[4]
ROUNDS = 400


@pytest.mark.parametrize("seed", range(8))
def test_corrupted_descriptors(seed: int) -> None:
    """In a process of its own, which a mistake of the native side would end."""
    command = [sys.executable, "-m", "tests.support.native_fuzz", str(seed), str(ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-3000:]}"


def test_nothing_at_all_is_refused() -> None:
    native = library.load()
    error = ctypes.create_string_buffer(64)
    one, mask = (abi.Op * 1)(), (abi.Mask * 1)(abi.Mask(1, 1, 1, 0))
    for ops, count, masks, nmasks in (
        (None, 1, mask, 1),
        (one, 0, mask, 1),
        (one, 1, None, 1),
        (one, 1, mask, 0),
    ):
        assert not native.vf_plan_create(ops, count, masks, nmasks, -1, error, len(error))
        assert error.value
        error.value = b""
    assert not native.vf_plan_create(one, 1, mask, 1, -1, None, 0)  # nobody asks why
