"""Kernels compiled side by side before a frame asks for them one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from videoeff.kernels.triton.binding import Launch

#: Most kernels compiled at once; each takes a core and up to 300 MB.
MOST = 16


def workers() -> int:
    """Cores of this process, ``MOST`` at most."""
    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return min(MOST, len(here))


def compile_all(launches: Iterable[Launch], threads: int = 0) -> None:
    """Compile what the launches run, on many threads: Triton gives up Python's lock while it compiles.

    What is in Triton's cache is loaded from there. A kernel that cannot be compiled is left to its launch,
    which raises where it is known whose kernel it is.

    Args:
        launches: of a plan on the current device.
        threads: how many; 0 for ``workers()``.
    """
    from triton import AsyncCompileMode

    with ThreadPoolExecutor(threads or workers()) as pool, AsyncCompileMode(pool, ignore_errors=True):
        for launch in launches:
            launch.warm()
