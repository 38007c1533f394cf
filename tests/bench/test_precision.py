"""Contenders' outputs judged in float64, without processes."""

from __future__ import annotations

from typing import Any

import numpy as np

from videoeff.bench.precision import explained
from videoeff.bench.process import WorkerFailed

#: Two frames, each with an output that is sensitive and one that is not.
EXACT = [[np.array([1.0, 0.5]), np.array([2.0, -1.0])] for _ in range(2)]


def arrays(name: str, sensitive: float, other: float, dtype: str = "float32") -> dict[str, Any]:
    """Outputs that are off by so much."""
    return {
        f"{name}{f}_{o}": (value + (sensitive, other)[o]).astype(dtype)
        for f, frame in enumerate(EXACT)
        for o, value in enumerate(frame)
    }


def double(sensitive: float = 1e-4) -> dict[str, Any]:
    """What the worker of eager PyTorch gives."""
    exact = arrays("exact", 0.0, 0.0, "float64")
    return exact | arrays("eager", -sensitive, 0.0) | arrays("last", 0.5 * sensitive, 0.0)


def judged(sensitive: float, other: float, eager: float = -1e-4) -> Any:
    found = {"onnxruntime": arrays("frame", sensitive, other)}
    return explained(found, arrays("frame", eager, 0.0), double)["onnxruntime"]


def test_rounding_is_told_from_a_fault() -> None:
    assert judged(3e-4, 0.0).holds
    assert not judged(5e-4, 0.0).holds
    assert not judged(3e-4, 5e-4).holds
    assert "onnxruntime by 5.0e-04" in str(judged(5e-4, 0.0))


def test_a_later_frame_counts_too() -> None:
    found = arrays("frame", 0.0, 0.0)
    found["frame1_0"] = (EXACT[1][0] + 5e-4).astype("float32")
    assert not explained({"videoeff": found}, arrays("frame", -1e-4, 0.0), double)["videoeff"].holds


def test_where_eager_itself_is_wrong_nothing_is_explained() -> None:
    told = judged(1e-4, 0.0, eager=-6e-4)
    assert not told.holds
    assert "eager PyTorch itself is wrong" in str(told)


def test_large_differences_are_not_asked_about() -> None:
    def never() -> dict[str, Any]:
        raise AssertionError("asked after all")

    found = {"openvino": arrays("frame", 0.1, 0.0)}
    told = explained(found, arrays("frame", 0.0, 0.0), never)["openvino"]
    assert told.fault
    assert not told.holds


def test_a_worker_that_cannot_tells_why() -> None:
    def cannot() -> dict[str, Any]:
        raise WorkerFailed("BackendError: aten.x computes in float16")

    found = {"openvino": arrays("frame", 3e-4, 0.0)}
    told = explained(found, arrays("frame", 0.0, 0.0), cannot)["openvino"]
    assert not told.holds
    assert "float64 cannot tell whether it is rounding" in str(told)
    assert "float16" in str(told)
