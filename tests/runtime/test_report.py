"""Looking inside: reports, graphs, values, masks."""

from __future__ import annotations

import json

import pytest
import torch

import videoeff
from tests.support.calls import make
from tests.support.small_nets import (
    Gated,
    Plain,
    clip,
    lively,
)


def test_report_before_and_after_frames() -> None:
    _, stream = make(Gated(), threshold=0.1)
    report = stream.report()
    assert report.frames == 0
    assert report.active_share is None
    assert all(x.active_share is None and x.macs_needed == 0.0 for x in report.layers)
    assert "no second frame yet" in str(report)
    frames = list(clip(4))
    stream(frames[0])
    assert stream.report().frames == 0, "a first frame is not counted"
    stream(frames[1])
    stream(frames[1])
    report = stream.report()
    assert report.frames == 2
    assert report.name == "Gated"
    assert report.streams == 1
    assert report.convolutions_streamed == 1.0
    assert report.eager == ()
    layers = {x.name: x for x in report.layers}
    assert set(layers) == set(stream.values())
    assert layers["a"].macs_dense == 8 * 3 * 9 * 20 * 24
    assert layers["a"].macs_needed == pytest.approx(layers["a"].macs_dense * (layers["a"].active_share or 0))
    assert 0.0 < (layers["a"].active_share or 0) < 0.5
    assert layers["a"].kind == "map"
    assert layers["x"].kind == "input"
    assert sum(x.state_bytes for x in report.layers) == report.state_bytes
    macs = report.macs
    assert macs["dense"] == sum(x.macs_dense for x in report.layers)
    assert macs["needed"] <= macs["scheduled"] <= macs["dense"]
    assert json.loads(json.dumps(report.to_json()))["frames"] == 2
    assert report._repr_html_() == stream._repr_html_()
    assert "Gated" in repr(stream)
    stream.clear_report()
    assert stream.report().frames == 0


def test_the_report_does_not_count_a_reset_stream() -> None:
    stream = videoeff.convert(lively(Plain()), torch.rand(2, 3, 20, 24))
    for frame in clip(3, (2, 3, 20, 24)):
        stream(frame)
    stream.reset(0)
    stream(frame)
    assert stream.report().frames == 2


def test_graph_programs_and_values() -> None:
    _, stream = make(Plain())
    calls = [n for n in stream.graph.nodes if n.op == "call_function"]
    assert any("delta_cache" in str(n.target) for n in calls)
    (program,) = stream.programs.values()
    assert program.graph is stream.graph
    assert next(r.name for r in program.history) == "fold-batchnorm"
    assert list(stream.values())[:2] == ["x", "first"]


def test_observe() -> None:
    _, stream = make(Plain())
    frames = list(clip(4))
    stream(frames[0])
    with stream.observe() as outer:
        with stream.observe() as seen:
            stream(frames[1])
            changed = (frames[1] != frames[0]).any(1)
            assert torch.equal(seen.changed["x"], changed)
            assert int(seen.active["first"].sum()) >= int(changed.sum())
            assert seen.active["second"].shape == (1, 10, 12)
            heat = seen.heat(40, 48)
            assert heat.shape == (1, 40, 48)
            assert 0.0 <= float(heat.min()) < float(heat.max()) <= 1.0
        assert outer.active == {}
        stream(frames[2])
        assert not bool(outer.active["first"].any())
    stream(frames[0])
    assert not bool(outer.active["first"].any()), "outside the block nothing is observed"
    assert not bool(seen.changed["x"].all())
