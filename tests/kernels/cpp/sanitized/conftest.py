"""Fixtures of the tests of the native kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Products


@pytest.fixture(params=list(Products), ids=lambda p: p.name.lower())
def products(request: pytest.FixtureRequest) -> Iterator[Products]:
    """Each way to compute products of 8-bit numbers and of bfloat16, as far as the processor has it."""
    native = library.load()
    found = native.vf_use_products(int(request.param))
    try:
        if found != request.param:
            pytest.skip("this processor has no such products")
        yield request.param
    finally:
        native.vf_use_products(-1)
