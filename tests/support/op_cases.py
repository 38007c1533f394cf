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


#: Cases of the registry that hold a region without a native form, and a word of each reason.
NOT_NATIVE = {
    "pixel-hardshrink18": {"hardshrink"},
    "pixel-threshold21": {"threshold"},
    "pixel-where": {"bool"},
    "pixel-one-channel": {"runs over channels"},
    "concat-batch": {"cat.default"},
    "concat-stack": {"stack.default"},
    "softmax-pixels": {"some of the channels", "cannot be followed"},
    "softmax-argmax": {"int64"},
    "linear-convnext": {"vector_norm"},
    "reduce-channel-attention": {"runs over channels", "amax"},
    "reduce-rows": {"rows or columns alone", "another size"},
    "global-group": {"group_norm"},
    "global-attention": {"attention"},
    "global-bicubic": {"bicubic"},
    "global-roll": {"roll"},
    "convolution-conv3d": {"conv3d"},
    "convolution-conv3d-stride": {"conv3d"},
    "pool-max3d": {"max_pool3d"},
    "adaptive_pool-3d": {"adaptive_avg_pool3d"},
    "pad-channels": {"padding of channels"},
    "pixel_shuffle-up": {"pixel_shuffle"},
    "pixel_shuffle-down": {"pixel_unshuffle"},
    "reshape-shuffle": {"needs a copy"},
    "reshape-windows": {"needs a copy"},
    "index_select-channels": {"index_select"},
    **{
        f"quantize-{case}": {"it reads float", "gives float32"}
        for case in ("unsigned", "signed", "by-channel")
    },  # of float64
}
