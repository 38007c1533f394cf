"""Kernels that do what ``watch.py`` is there to find, and kernels that do it right."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def beside(x, by):
    """Load a number some places on."""
    tl.store(x, tl.load(x + by))


@triton.jit
def one_place(x, same: tl.constexpr):
    """Every program stores to one place, all the same or each its own number."""
    tl.store(x, 7.0 if same else tl.program_id(0).to(tl.float32))


@triton.jit
def neighbour(x):
    """Store a number and load the other program's."""
    tl.store(x + tl.program_id(0), 1.0)
    tl.store(x + 2 + tl.program_id(0), tl.load(x + 1 - tl.program_id(0)))


@triton.jit
def overwrite(x):
    """Load a number that the other program stores."""
    tl.store(x + 2 + tl.program_id(0), tl.load(x + 1 - tl.program_id(0)))
    tl.store(x + tl.program_id(0), 1.0)


@triton.jit
def read_back(x, BARRIER: tl.constexpr):
    """Load what was stored, as other threads do it."""
    tl.store(x + tl.arange(0, 4), tl.arange(0, 4).to(tl.float32))
    if BARRIER:
        tl.debug_barrier()
    tl.store(x + 4 + tl.arange(0, 4), tl.load(x + 3 - tl.arange(0, 4)))


@triton.jit
def one_store(x):
    """Different values to one place."""
    tl.store(x + tl.arange(0, 4) * 0, tl.arange(0, 4).to(tl.float32))


@triton.jit
def count(x, ATOMIC: tl.constexpr, VOLATILE: tl.constexpr):
    """Add one, and look at the sum."""
    if ATOMIC:
        tl.atomic_add(x, 1, sem="relaxed")
    else:
        tl.store(x, tl.load(x) + 1)
    tl.store(x + 1 + tl.program_id(0), tl.load(x, volatile=VOLATILE))


@triton.jit
def hand_over(x, arrived, SEM: tl.constexpr, BEFORE: tl.constexpr, BEHIND: tl.constexpr):
    """The last program to arrive sums what all of them left."""
    tl.store(x + tl.program_id(0), 1.0)
    if BEFORE:
        tl.debug_barrier()
    before = tl.atomic_add(arrived, 1, sem=SEM)
    if BEHIND:
        tl.debug_barrier()
    if before == tl.num_programs(0) - 1:
        tl.store(x + 4, tl.sum(tl.load(x + tl.arange(0, 4)), 0))
