"""What all tests share: threads, seeds, hypothesis' profile, skips of the marks `gpu` and `real`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from videoeff.kernels.cpp import build, first_use, library

ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"

_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_THREADS = max(1, len(os.sched_getaffinity(0)) // _WORKERS)
torch.set_num_threads(_THREADS)
os.environ["OMP_NUM_THREADS"] = str(_THREADS)  # for the processes that tests start
os.environ[first_use.VARIABLE] = "0"  # nothing is measured behind a test's back

# The same examples on every machine: derandomised, and no smaller or larger profile under CI. Constants of
# loaded modules are drawn on, too: other tests in the same run lead to other examples.
hypothesis.settings.register_profile(
    "videoeff",
    deadline=None,  # the first example of a test may compile
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # drawing an example may build a network
)
hypothesis.settings.load_profile("videoeff")


def pytest_configure(config: pytest.Config) -> None:
    """Without a compiler the tests run on the reference; with one, its warning stays an error."""
    if os.environ.get(library.VARIABLE) and library.unavailable():
        raise pytest.UsageError(library.unavailable())  # asked for by name: no test of it is skipped
    try:
        build.find_compiler()
    except build.NoCompilerError:
        config.addinivalue_line("filterwarnings", "ignore:videoeff computes with the slow reference")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, with the reason."""
    no_gpu = pytest.mark.skip(reason="needs a CUDA device; torch.cuda finds none here")
    no_data = pytest.mark.skip(reason="needs the real clips of ../shared/data, which is absent here")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "real" in item.keywords and not SHARED_DATA.is_dir():
            item.add_marker(no_data)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips beside the repository; tests that use it carry the mark `real`."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real clips of ../shared/data, which is absent here")
    return SHARED_DATA
