"""A small model beside its stream, called alike."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import videoeff
from tests.support.small_nets import SIZE, Plain, lively
from videoeff.runtime.streaming_module import StreamingModule


def make(model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, StreamingModule]:
    """A model with lively weights (``Plain`` by default) and its stream."""
    model = lively(Plain() if model is None else model)
    return model, videoeff.convert(model, torch.rand(SIZE), **options)


@torch.no_grad()
def dense(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What the model itself returns."""
    return model(*args, **kwargs)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Equal structures, types included, of close tensors and equal other values."""
    assert type(found) is type(expected)
    if isinstance(expected, Tensor):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key], tolerance)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_same(a, b, tolerance)
    else:
        assert found == expected
