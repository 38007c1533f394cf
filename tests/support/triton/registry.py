"""Every case of every op: node by node as the reference, and served unless it is listed."""

from __future__ import annotations

import pytest
import torch

from tests.support.op_cases import ALL, NOT_NATIVE
from tests.support.triton.compare import kernels, twins
from videoeff.ops import Case, Op
from videoeff.testing import changing_frames

#: Cases that hold a region without a kernel, and a word of each reason.
DECLINED = NOT_NATIVE | {
    "pixel-where": {"gives bool"},
    **{f"quantize-{case}": {"8-bit numbers"} for case in ("unsigned", "signed", "by-channel")},
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
