"""A real detector saved by ``torch.export``, on a real clip: exact, and cheaper than dense."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import videoeff
from videoeff.errors import CaptureError
from videoeff.video.source import Preprocess, open_clip

pytestmark = pytest.mark.real


@pytest.fixture(name="exported", scope="module")
def _exported(shared_data: Path) -> torch.export.ExportedProgram:
    return torch.export.load(str(shared_data / "fastestdet.pt2"))


def test_fastestdet_on_campus(
    exported: torch.export.ExportedProgram, shared_data: Path, tmp_path: Path
) -> None:
    dense = exported.module()
    prepare = Preprocess(size=(192, 256), bgr=True)
    with open_clip(shared_data / "campus.avi") as clip:
        frames = [prepare(frame) for frame in itertools.islice(clip, 5)]
    stream = videoeff.convert(exported, frames[0], name="fastestdet", strict=True)
    for frame in frames[:4]:
        out = stream(frame)
        with torch.no_grad():
            expected = dense(frame)
        assert out.shape == expected.shape == (1, 85, 12, 16)
        assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert stream.report().convolutions_streamed == 1.0
    assert (stream.report().active_share or 0.0) > 0.0
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    stream.reset()
    stream.set_threshold(0.1)
    loaded.set_threshold(0.1)
    for frame in frames:
        assert torch.equal(loaded(frame), stream(frame))
    macs = loaded.report().macs
    assert 0.0 < macs["needed"] < 0.6 * macs["dense"]


def test_the_example_decides_the_size(exported: torch.export.ExportedProgram) -> None:
    dense = exported.module()
    stream = videoeff.convert(exported, torch.rand(1, 3, 128, 160), on_resize="replan")
    for size in ((128, 160), (160, 128)):
        frame = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(stream(frame), dense(frame), rtol=1e-4, atol=1e-4)
    with pytest.raises(CaptureError, match=r"torch\.export could not trace it: Guard failed: .* >= 128"):
        videoeff.convert(exported, torch.rand(1, 3, 64, 160))
