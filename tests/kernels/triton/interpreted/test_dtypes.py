"""Half precision, interpreted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.triton.dtypes import *  # noqa: F403 - the tests themselves


@pytest.fixture(autouse=True)
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter keeps bfloat16 as whole numbers, and multiplies and compares them as such."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    dot, maximum = InterpreterBuilder.create_dot, InterpreterBuilder.create_maximumf

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, widened(a), widened(b), *rest)

    def create_maximumf(self: Any, a: Any, b: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return maximum(self, a, b)
        larger = maximum(self, widened(a), widened(b)).data
        return TensorHandle((larger.view(np.uint32) >> 16).astype(np.uint16), a.dtype)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "create_maximumf", create_maximumf)
