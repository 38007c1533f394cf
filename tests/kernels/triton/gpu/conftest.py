"""What the tests on a GPU share: the device, and PyTorch's kernels as exact and repeatable as they can be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The GPU."""
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Float32 is float32, also in the reference; memory of the test before is given back."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
