"""Every case of every op: node by node as the reference, and served unless it is listed."""

from __future__ import annotations

import pytest
import torch

from tests.cuda.compare import kernels, twins
from videoeff.ops import OPS, Case, Op
from videoeff.testing import changing_frames

ALL = [pytest.param(op, case, id=f"{op.name}-{case.name}") for op in OPS for case in op.cases()]

#: Cases of the registry that hold a region without a kernel, and a word of each reason.
DECLINED = {
    "pixel-hardshrink18": {"hardshrink"},
    "pixel-threshold21": {"threshold"},
    "pixel-where": {"gives bool"},
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
}


@pytest.mark.parametrize(("op", "case"), ALL)
def test_case(op: Op, case: Case, device: torch.device) -> None:
    """A first frame over poisoned buffers, then changes in one stream and place each."""
    torch.manual_seed(0)
    module = case.module().to(device, torch.float32).eval()
    clip = changing_frames(case.shapes, 2 if op.name == "pixel" else 3, dtype=torch.float32, seed=1)
    frames = [tuple(t.to(device) for t in frame) for frame in clip]
    pair = twins(module, *frames[0], backend="auto")
    served = {layer: why for layer, why in kernels(pair.stream).items() if why != "triton"}
    expected = DECLINED.get(f"{op.name}-{case.name}", set())
    assert bool(served) == bool(expected), served
    for why in served.values():
        assert any(word in why for word in expected), why
    for frame in frames:
        pair.frame(*frame)
