"""Kernels run by Triton's interpreter, on the CPU."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

#: What numpy says where a kernel meets NaN or infinity: in poisoned buffers, and in frames that hold some.
SILENT = ("overflow encountered", "invalid value encountered")


def pytest_configure(config: pytest.Config) -> None:
    """On a GPU nobody would say so."""
    for words in SILENT:
        config.addinivalue_line("filterwarnings", f"ignore:{words}:RuntimeWarning")


@pytest.fixture(autouse=True)
def interpreter() -> None:
    """Triton, where it is installed."""
    pytest.importorskip("triton", reason="needs triton, which is not installed here")


@pytest.fixture(autouse=True)
def accesses(request: pytest.FixtureRequest, interpreter: None) -> Iterator[None]:
    """The programs of every test's kernels take turns; none may touch what it should not, or when."""
    from tests.support.triton.watch import watched

    with watched(seed=zlib.crc32(request.node.nodeid.encode())):
        yield


@pytest.fixture
def device() -> torch.device:
    """Where interpreted kernels compute."""
    return torch.device("cpu")
