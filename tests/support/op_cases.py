"""Every case of every op: the list that tests of ops, kernels and descriptions go through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from videoeff.ops import OPS, Case, Op
from videoeff.testing import changing_frames

EVERY: list[tuple[Op, Case]] = [(op, case) for op in OPS for case in op.cases()]

#: The same as parameters of a test.
ALL = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op, case in EVERY]


def build(case: Case) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The case's module in float64, and an example."""
    torch.manual_seed(0)
    module = case.module().double().eval()
    return module, next(changing_frames(case.shapes, 1))
