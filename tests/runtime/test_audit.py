"""Audits: a share of the frames compared with the dense network, at no change of the stream."""

from __future__ import annotations

import copy
import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.calls import assert_same, dense, make
from tests.support.remembering import SHAPE, Last, Net, RunningMean, branch, calls_inner, counts, in_parts
from tests.support.small_nets import SIZE, Gated, Plain, clip, lively
from videoeff.errors import DriftWarning, StateError
from videoeff.runtime.auditing import RECORDS, Audit, relative_error
from videoeff.runtime.dense import Carried, run_dense
from videoeff.runtime.fidelity import Audited, AuditReport, Drift
from videoeff.runtime.options import AuditOptions
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.streaming_module import StreamingModule

PAIR = (2, *SIZE[1:])


def report_of(stream: StreamingModule) -> AuditReport:
    found = stream.report().audit
    assert found is not None
    return found


def audited(share: float, count: int) -> list[int]:
    """The frames of a run that are audited."""
    audit, options = Audit(), AuditOptions(share)
    _, stream = PLAIN
    found = []
    for number in range(1, count + 1):
        due = audit.begin(options, stream.body)
        if due is not None:
            assert due.frame == number
            found.append(number)
            due = None
            audit._plan()
        audit.frames += 1
    return found


PLAIN = make()


@pytest.mark.parametrize("share", [1.0, 0.7, 0.5, 0.3, 0.1, 0.01])
def test_which_frames_are_audited(share: float) -> None:
    count = round(20 / share)
    found = audited(share, count)
    assert found == audited(share, count), "the same each time"
    assert abs(len(found) - share * count) <= 1
    if share <= 0.5:
        assert 1 not in found, "the first frame is computed whole"
        gaps = {b - a for a, b in itertools.pairwise(found)}
        assert len(gaps) > 1, "not at even distances"
        assert max(gaps) < 2 / share + 1
    if share == 1.0:
        assert found == list(range(1, count + 1))


MODELS: dict[str, Any] = {
    "whole": lambda: lively(Gated()),
    "carried": Last,
    "statistics": RunningMean,
    "in parts": lambda: calls_inner(2),
    "around parts": lambda: Net(in_parts(counts)),
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_state_are_those_without_audits(name: str, idle: bool, every: int) -> None:
    torch.manual_seed(0)
    size = SIZE if name == "whole" else SHAPE
    plain = videoeff.convert(MODELS[name]().eval(), torch.rand(size), threshold=0.1, every=every)
    stream = copy.deepcopy(plain).audit(0.5, idle=idle)
    for frame in clip(9, size):
        with torch.no_grad():
            assert_same(stream(frame), plain(frame), 0.0)
            stream.audit_now()
    assert report_of(stream).count >= 3
    state, expected = stream.snapshot(), plain.snapshot()
    assert_same(dict(state.outside), dict(expected.outside), 0.0)
    for engine, want in expected.engines.items():
        assert_same(dict(state.engines[engine].tensors), dict(want.tensors), 0.0)
        assert_same(dict(state.engines[engine].carried), dict(want.carried), 0.0)


@pytest.mark.parametrize("idle", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_an_exact_stream_has_no_error(name: str, idle: bool) -> None:
    """Also where the model carries something: the dense network begins the frame with the same."""
    torch.manual_seed(0)
    size = SIZE if name == "whole" else SHAPE
    stream = videoeff.convert(MODELS[name]().eval(), torch.rand(size)).audit(1.0, idle=idle)
    for frame in clip(6, size):
        with torch.no_grad():
            stream(frame)
            stream.audit_now()
    report = report_of(stream)
    assert (report.count, report.frames) == (6, 6)
    assert report.largest is not None
    assert report.largest < 1e-5


def test_the_error_is_that_against_the_model() -> None:
    model, stream = make(Gated(), threshold=0.4, audit=1.0)
    expected = []
    for frame in clip(6):
        expected.append(relative_error(stream(frame), dense(model, frame))[0])
    report = report_of(stream)
    assert [r.frame for r in report.records] == [1, 2, 3, 4, 5, 6]
    assert [r.value for r in report.records] == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 1e-3
    assert report.mean == pytest.approx(sum(expected) / 6, abs=1e-5)
    assert report.largest == pytest.approx(max(expected), abs=1e-5)
    assert report.running_mean == pytest.approx(sum(expected[1:]) / 5, abs=1e-5)


def test_held_frames_are_audited_with_what_was_handed_out() -> None:
    model, stream = make(every=3, audit=1.0)
    frames = [torch.rand(SIZE) for _ in range(6)]
    for frame in frames:
        stream(frame)
    records = report_of(stream).records
    assert [r.held for r in records] == [False, True, True] * 2
    for index, record in enumerate(records):
        error, _ = relative_error(dense(model, frames[index // 3 * 3]), dense(model, frames[index]))
        assert record.value == pytest.approx(error, abs=1e-5)
    assert "of frames handed out without looking: mean " in str(stream.report())


def test_a_metric_of_ones_own() -> None:
    seen = []

    def agreement(outputs: Tensor, dense: Tensor) -> float:
        seen.append((outputs.shape, dense.shape))
        return float((outputs.argmax(1) == dense.argmax(1)).float().mean())

    _, stream = make(threshold=0.5)
    stream.audit(1.0, metric=agreement, at_least=0.5)
    for frame in clip(4):
        stream(frame)
    report = report_of(stream)
    assert report.metric == "agreement"
    assert len(seen) == 4
    assert report.smallest is not None
    assert 0 <= report.smallest <= 1
    assert not report.outside
    assert "at least 0.5: kept" in str(stream.report())


def test_the_callback_hears_once_each_time_a_bound_is_left() -> None:
    values = iter([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    _, stream = make()
    heard: list[Drift] = []
    stream.audit(1.0, metric=lambda *_: next(values), at_most=0.5, over=2)
    assert stream.on_drift(heard.append) is stream
    for frame in clip(10):
        stream(frame)
    assert [d.frame for d in heard] == [4, 10]
    assert heard[0].mean == 1.0
    assert heard[0].bound == 0.5
    assert heard[0].last == Audited(4, 1.0, False)
    assert "above the bound 0.5" in str(heard[0])
    assert report_of(stream).outside


def test_one_audit_alone_may_be_chance() -> None:
    values = iter([9.0, 0.0, 0.0, 0.0, 9.0])
    _, stream = make()
    heard: list[Drift] = []
    stream.audit(1.0, metric=lambda *_: next(values), at_most=3.5, over=4).on_drift(heard.append)
    for frame in clip(5):
        stream(frame)
    assert heard == []


def test_a_warning_where_nobody_listens() -> None:
    _, stream = make(threshold=0.5)
    stream.audit(1.0, at_most=1e-5, over=2)
    frames = list(clip(4))
    stream(frames[0])
    with pytest.warns(
        DriftWarning, match=r"Plain: frame 2: the mean of the last 2 audit\(s\) is .*above"
    ) as caught:
        stream(frames[1])
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream(frames[2])  # it is known
    assert "LEFT" in str(stream.report())


def test_a_metric_that_is_no_number_leaves_every_bound() -> None:
    for bound in ("at_most", "at_least"):
        _, stream = make()
        options: dict[str, Any] = {bound: 0.5}
        stream.audit(1.0, metric=lambda *_: math.nan, over=1, **options)
        with pytest.warns(DriftWarning):
            stream(torch.rand(SIZE))


def test_the_callback_may_use_the_stream() -> None:
    _, stream = make(Gated(), threshold=0.5)
    stream.audit(1.0, at_most=1e-6, over=1).on_drift(lambda _: stream.set_threshold(0.0))
    for frame in clip(5):
        stream(frame)
    assert set(stream.thresholds().values()) == {0.0}
    stream.on_drift(lambda _: stream.reset())


def test_a_stream_whose_light_goes_is_noticed() -> None:
    """Dusk: the camera's picture gets dark, and the input test holds it all back."""
    stream = videoeff.convert(lively(Plain()), torch.rand(SIZE), threshold=0.05, input_threshold=3.0)
    heard: list[Drift] = []
    stream.audit(0.25, at_most=0.05).on_drift(heard.append)
    day = torch.rand(SIZE)
    for index in range(60):
        stream(day if index < 30 else day * 0.3)
    assert [30 < d.frame <= 50 for d in heard] == [True]


def test_the_worst_stream_of_a_batch() -> None:
    stream = videoeff.convert(lively(Plain()), torch.rand(PAIR), threshold=0.05, input_threshold=3.0)
    heard: list[Drift] = []
    stream.audit(1.0, at_most=0.05, over=1).on_drift(heard.append)
    day = torch.rand(PAIR)
    for dark in (1.0, 1.0, 0.3):
        stream(torch.stack([day[0], day[1] * dark]))
    record = report_of(stream).records[-1]
    assert record.stream == 1
    assert [d.last.stream for d in heard] == [1]
    assert "(stream 1)" in str(heard[0])


def test_idle_time() -> None:
    model, stream = make(Gated(), threshold=0.4)
    stream.audit(0.5, idle=True)
    assert stream.audit_now() is None
    frames = list(clip(8))
    kept = []
    for number, frame in enumerate(frames, 1):
        given = frame.clone()
        out = stream(given)
        error, _ = relative_error(out, dense(model, frame))
        given.fill_(5.0)  # the caller's own, both
        for value in out:
            value.fill_(5.0)
        kept.append(error)
        if number == 4:
            found = stream.audit_now()
            assert found is not None
            assert found.frame in (3, 4)
            assert found.value == pytest.approx(kept[found.frame - 1], abs=1e-5)
            assert stream.audit_now() is None
    report = report_of(stream)
    assert report.count == 1
    assert report.missed == 2
    assert "waited for idle time in vain: 2" in str(stream.report())
    stream.reset()
    stream.set_threshold(0.0)
    found = stream.audit_now()  # of a frame before the reset
    assert found is not None
    assert found.value == pytest.approx(kept[found.frame - 1], abs=1e-5)


def test_a_frame_that_waits_goes_with_its_network() -> None:
    _, stream = make(on_resize="replan")
    stream.audit(1.0, idle=True)
    stream(torch.rand(SIZE))
    stream(torch.rand(1, 3, 12, 16))
    found = stream.audit_now()
    assert found is not None
    assert found.frame == 2
    stream(torch.rand(1, 3, 12, 16))
    stream.double()
    assert stream.audit_now() is None
    stream(torch.rand(1, 3, 12, 16).double())
    stream.load_state_dict({k: v * 2 if v.is_floating_point() else v for k, v in stream.state_dict().items()})
    assert stream.audit_now() is None


def test_a_refused_frame_is_no_frame() -> None:
    _, stream = make(audit=1.0)
    with pytest.raises(StateError, match="NaN"):
        stream(torch.full(SIZE, float("nan")))
    stream(torch.rand(SIZE))
    assert [r.frame for r in report_of(stream).records] == [1]


def test_a_model_in_parts_with_other_shapes() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.d = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()), nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.d(self.inner(branch(x)))
            return found[found > found.mean()]

    torch.manual_seed(0)
    stream = videoeff.convert(Parts().eval(), torch.rand(SHAPE), threshold=50.0)
    assert isinstance(stream.body, PartitionedModel)
    stream.audit(1.0)
    with torch.no_grad():
        stream(torch.rand(SHAPE))
        stream(torch.zeros(SHAPE))
    report = report_of(stream)
    assert report.records[0].value < 1e-5
    assert report.records[1].value == math.inf
    assert json.loads(json.dumps(stream.report().to_json()))["audit"]["records"][1]["value"] == "inf"
    stream.audit(1.0, metric=lambda outputs, dense: abs(len(outputs) - len(dense)))
    with torch.no_grad():
        stream(torch.rand(SHAPE))
    assert math.isfinite(report_of(stream).records[-1].value)


def test_relative_error() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 4.0])
    assert relative_error(a, b)[0] == pytest.approx(0.75)
    assert relative_error((a, {"x": b}), (a, {"x": b})) == (0.0, None)
    assert relative_error(torch.zeros(3), torch.zeros(3)) == (0.0, None)
    assert relative_error(torch.ones(1), torch.zeros(1)) == (1.0, None)
    assert relative_error(torch.zeros(0, 4), torch.zeros(0, 4)) == (0.0, None)
    assert relative_error(a, torch.zeros(3))[0] == math.inf
    bad = torch.tensor([math.nan, math.inf])
    assert relative_error(bad, bad) == (0.0, None)
    assert relative_error(bad, a)[0] == math.inf
    assert relative_error(a, bad)[0] == math.inf
    batch = torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    error, stream = relative_error(*batch, 2)
    assert stream == 1
    assert error == pytest.approx(0.5)
    mixed = (torch.ones(2, 1), torch.ones(3))
    assert relative_error(mixed, mixed, 2) == (0.0, None)
    assert relative_error(torch.tensor([1, 2]), torch.tensor([1, 3]))[0] == pytest.approx(1 / math.sqrt(10))


def test_what_is_refused() -> None:
    _, stream = make()
    for wrong in (-0.1, 1.1, math.nan, "0.1", None, True):
        with pytest.raises(StateError, match="the share of audited frames"):
            stream.audit(wrong)  # type: ignore[arg-type]
    wrong_bounds: tuple[dict[str, Any], ...] = ({"at_most": math.inf}, {"at_least": "x"})
    for bounds in wrong_bounds:
        with pytest.raises(StateError, match="no finite number"):
            stream.audit(0.1, **bounds)
    with pytest.raises(StateError, match="over=0"):
        stream.audit(0.1, over=0)
    with pytest.raises(StateError, match="cannot be called"):
        stream.audit(0.1, metric="f1")  # type: ignore[arg-type]
    assert stream.options.audit == AuditOptions()
    with pytest.raises(StateError, match="the share of audited frames"):
        videoeff.convert(lively(Plain()), torch.rand(SIZE), audit=2.0)


def test_report_text_json_and_html() -> None:
    _, stream = make(Gated(), threshold=0.4)
    assert stream.report().audit is None
    stream.audit(0.5, at_most=10.0)
    stream(torch.rand(SIZE))
    assert "audits: none yet in 1 frame(s), share 50 %" in str(stream.report())
    for frame in clip(7):
        stream(frame)
    report = stream.report()
    audit = report_of(stream)
    assert (audit.frames, audit.count) == (8, 4)
    assert audit.work_share == 0.5
    assert 0 < audit.time_share < 1
    assert report.macs_handed_out["audits"] == report.macs["dense"] / 2
    text = str(report)
    assert "audits (relative error): 4 of 8 frame(s)" in text
    assert "(to be at most 10: kept)" in text
    assert "audits cost 50 % of the dense work a frame" in text
    found = json.loads(json.dumps(report.to_json()))["audit"]
    assert [r["frame"] for r in found["records"]] == [r.frame for r in audit.records]
    assert found["work_share"] == 0.5
    page = report._repr_html_()
    assert page.count("<polyline") == 1
    assert page.count("stroke-dasharray") == 1
    stream.clear_report()
    audit = report_of(stream)
    assert (audit.count, audit.frames, audit.records) == (0, 0, ())
    stream.audit(0.0)
    assert stream.report().audit is None


def test_long_runs_keep_the_last_records() -> None:
    _, stream = make()
    stream.audit(1.0, metric=lambda *_: 1.0)
    audit, options, due = stream._audit, stream.options.audit, Carried()
    for number in range(RECORDS + 5):
        audit.begin(options, stream.body)
        audit._records.append(Audited(number, 1.0, False))
    stream(torch.rand(SIZE))
    assert len(report_of(stream).records) == RECORDS
    assert due.outside is None


def test_copies_and_artifacts(tmp_path: Path) -> None:
    _, stream = make(Gated(), threshold=0.4)
    heard: list[Drift] = []
    stream.audit(0.5, at_most=0.25, over=3, idle=True).on_drift(heard.append)
    for frame in clip(5):
        stream(frame)
    twin = copy.deepcopy(stream)
    one, other = stream.audit_now(), twin.audit_now()
    assert one is not None
    assert one == other
    stream.save(tmp_path / "a.veff")
    loaded = videoeff.load(tmp_path / "a.veff")
    assert loaded.options.audit == AuditOptions(0.5, None, 0.25, None, 3, True)
    stream.audit(0.5, metric=lambda *_: 1.0, at_least=0.9)
    stream.save(tmp_path / "b.veff")
    again = videoeff.load(tmp_path / "b.veff").options.audit
    assert again == AuditOptions(0.5), "a bound without its metric would be another bound"


def test_the_dense_network_leaves_the_stream_alone() -> None:
    """What the code around the parts changes is the stream's, also while the dense network runs."""
    torch.manual_seed(0)
    model = Net(in_parts(counts)).eval()
    source = copy.deepcopy(model)
    stream = videoeff.convert(model, torch.rand(SHAPE))
    carried = Carried()
    with torch.no_grad():
        for index in range(4):
            frame = torch.rand(SHAPE)
            expected = source(frame)
            torch.testing.assert_close(run_dense(stream.body, (frame,), {}, carried), expected)
            torch.testing.assert_close(stream(frame), expected, rtol=1e-4, atol=1e-5)
            assert carried.outside is not None
            assert float(carried.outside["n"]) == index + 1
