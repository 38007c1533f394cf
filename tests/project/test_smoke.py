"""Does anything work? One small network, three frames, a few seconds."""

from __future__ import annotations

import torch
from torch import nn

import videoeff
from videoeff.testing import assert_close, moving_clip


def test_a_small_network_streams() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2)
    ).eval()
    stream = videoeff.convert(model, torch.rand(1, 3, 24, 32))
    for frame in moving_clip(3, (1, 3, 24, 32)):
        assert_close(stream(frame), model(frame))
    report = stream.report()
    assert report.frames == 2
    assert 0 < report.macs["needed"] < report.macs["dense"]
