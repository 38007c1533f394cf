"""Streams of quantised networks as a user has them: saved, moved, copied, audited, verified."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import videoeff
from tests.support.quantised import Net
from videoeff.cli.main import main
from videoeff.ir import grids
from videoeff.runtime.dense import Carried, run_dense
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import moving_clip
from videoeff.video.preprocess import Preprocess

SHAPE = (1, 3, 36, 44)


def make(**options: float) -> StreamingModule:
    torch.manual_seed(0)
    return videoeff.convert(Net(12).eval(), torch.rand(SHAPE), **options)  # type: ignore[arg-type]


def clip() -> list[Tensor]:
    return list(moving_clip(5, SHAPE))


def test_an_artifact_gives_the_same_bits(tmp_path: Path) -> None:
    stream = make()
    stream.save(tmp_path / "net.veff")
    grids._kept_tensors.cache_clear()  # what is made while shapes are derived has no values
    loaded = videoeff.load(tmp_path / "net.veff")
    for frame in clip():
        for ours, expected in zip(loaded(frame), stream(frame), strict=True):
            assert torch.equal(ours, expected)


def test_the_dense_network_is_the_stream_s_own() -> None:
    """Computed whole by the same kernels: bit for bit what the stream gives at threshold 0."""
    stream = make()
    for frame in clip():
        outputs = [o.clone() for o in stream(frame)]
        dense = run_dense(stream.body, (frame,), {}, Carried())
        assert all(torch.equal(a, b) for a, b in zip(outputs, dense, strict=True))


def test_audits_find_no_error_at_threshold_0() -> None:
    stream = make().audit(1.0)
    for frame in clip():
        stream(frame)
    audit = stream.report().audit
    assert audit is not None
    assert audit.records
    assert all(record.value == 0 for record in audit.records)


def test_a_copy_and_a_snapshot_go_on_alike() -> None:
    stream, frames = make(threshold=0.1), clip()
    for frame in frames[:3]:
        stream(frame)
    other, kept = copy.deepcopy(stream), stream.snapshot()
    expected = [o.clone() for o in stream(frames[3])]
    assert all(torch.equal(a, b) for a, b in zip(other(frames[3]), expected, strict=True))
    stream.restore(kept)
    assert all(torch.equal(a, b) for a, b in zip(stream(frames[3]), expected, strict=True))


def test_in_float64_it_goes_on_by_the_reference() -> None:
    stream, frames = make(), clip()
    expected = [o.double() for o in stream(frames[0])]
    stream.double()
    found = stream(frames[0].double())
    assert all(o.dtype == torch.float64 for o in found)
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.1  # numbers a step apart


@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_verify_judges_it_by_its_own_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], threshold: float
) -> None:
    stream = make(threshold=threshold)
    stream.extra.update(preprocess=Preprocess(size=SHAPE[2:]).to_json(), input_size=list(SHAPE[2:]))
    stream.save(tmp_path / "net.veff")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(tmp_path / "net.veff"), "--json", "--frames", "6"])
    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert found["holds"]
    assert found["steps"] in (0, 1)
    assert (found["relative"] == 0) == (threshold == 0)
