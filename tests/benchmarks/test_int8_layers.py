"""The benchmark of single 8-bit layers: a small layer is measured, and rows become a table."""

from __future__ import annotations

import pytest
import torch

from benchmarks import int8_layers
from videoeff.kernels.cpp import library


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
@pytest.mark.skipif(not hasattr(torch.ops.onednn, "qconv_pointwise"), reason="a PyTorch without oneDNN")
@pytest.mark.parametrize("outputs", [24, 0])
def test_a_layer_is_measured(outputs: int) -> None:
    """A convolution and a depthwise one agree with oneDNN's, else measuring raises."""
    shape = int8_layers._shape(16, outputs, 3, (12, 20), 2)
    row = int8_layers.measure(shape, 3)
    assert row["steps_off"] <= 1.01
    assert row["macs"] == shape.macs == 6 * 10 * (16 * 24 if outputs else 16) * 9
    assert row["ms"] > 0


def test_rows_become_a_table() -> None:
    def row(macs: int, ratio: float) -> dict[str, object]:
        least = {"onednn_ms": 0.5, "ms": 1.0, "ratio": 0.5}
        return {"macs": macs, "onednn_ms": ratio, "ms": 1.0, "ratio": ratio, "least": least}

    rows = {"a": row(3_000_000, 1.0), "b": row(1_000_000, 0.6)}
    mean, worst, where = int8_layers.summary(rows)
    assert mean == pytest.approx(0.9)
    assert (worst, where) == (0.6, "b")
    assert int8_layers.summary(rows, least=True)[:2] == (0.5, 0.5)
    machine = {"cpu": "x", "cores": 2, "instruction_sets": [], "caches": {}, "threads": 2, "python": "3",
               "versions": {}}  # fmt: skip
    run = {"command": "python x", "machine": machine}
    parts = int8_layers.render({"runs": [run], "sections": {int8_layers.PART: rows}})
    assert "| b | 1 | 0.600 | 1.000 | **0.60** | 0.50 |" in parts["table"]
    assert "Mean by multiply-accumulates 0.90" in parts["goals"]
    assert "of 1 of 2 layers a median" in parts["goals"]  # 1.0 of 0.5
