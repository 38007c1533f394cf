"""Half precision: each kind of kernel within the table of tolerances."""

from __future__ import annotations

import pytest
import torch

from tests.support.triton.compare import dense, kernels, squares, twins
from tests.support.triton.nets import NETS, build
from videoeff.ops import OPS
from videoeff.testing import TOLERANCES, changing_frames, relative_error

HALF = [torch.float16, torch.bfloat16]

#: A case of the registry for each kind of kernel, and for norms and softmaxes behind and without a producer.
KINDS = (
    "convolution-3x3-stride2", "convolution-3x3-groups2", "convolution-3x3-depthwise-stride2",
    "convolution-7x7-stride4", "conv_transpose-4x4-stride2", "pool-max-3-2-1", "pool-avg-3-2-1",
    "upsample-bilinear-2", "adaptive_pool-global", "linear-pointwise", "norm-layer", "softmax-channels",
    "pixel-gelu6", "concat-channels",
)  # fmt: skip
CASES = {f"{op.name}-{case.name}": case for op in OPS for case in op.cases()}


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    module = CASES[kind].module().to(device, dtype).eval()
    clip = changing_frames(CASES[kind].shapes, 2, dtype=dtype, seed=1)
    frames = [tuple(t.to(device) for t in frame) for frame in clip]
    pair = twins(module, *frames[0])
    for frame in frames:
        pair.frame(*frame)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_networks(name: str, dtype: torch.dtype, device: torch.device) -> None:
    module = build(name, device, dtype)
    frames = list(squares(2, (2, 3, 13, 18), device, dtype))
    pair = twins(module, frames[0])
    assert set(kernels(pair.stream).values()) == {"triton"}
    for frame in frames:
        found, _ = pair.frame(frame)
        assert relative_error(found, dense(module, frame)) <= TOLERANCES[dtype].relative
