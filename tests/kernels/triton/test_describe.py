"""What the CUDA backend takes and what it declines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import videoeff
from videoeff.kernels.backend import Accepted, Declined

triton = pytest.importorskip("videoeff.kernels.triton.describe", reason="Triton is absent")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"block": 4, "dilation": 1, "threshold": 0.1}, None),
        ({"noise": ((0.0, 1e-4, 0.0),) * 3}, "its change test knows the camera's noise"),
        ({"block": 4, "weak": 0.5, "grow": 1, "threshold": 0.1}, "its change test lets hits grow"),
        ({"zones": torch.arange(256).view(16, 16) > 7}, "its change test ignores some pixels"),
    ],
    ids=["blocks", "noise", "grow", "zones"],
)
def test_frames_whose_test_it_does_not_know_are_declined(options: dict[str, Any], reason: str | None) -> None:
    """So that the reference tests them: nothing of an option is passed over."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    stream = videoeff.convert(net, torch.rand(1, 3, 16, 16), backend="reference", **options)
    (call,) = (i.call for i in stream.engines[""].plan.instructions if i.call.kind == "input")
    found = triton.describe(replace(call, device=triton.served_device()))
    if reason is None:
        assert isinstance(found, Accepted)
    else:
        assert isinstance(found, Declined)
        assert reason in found.reason
