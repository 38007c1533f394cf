"""A fleet: each camera gets the outputs of a stream of its own, whatever the others do."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.fleets import SIZE, assert_all_counted, clip, collecting, network, straight, until
from tests.support.scripted_source import ScriptedSource
from videoeff import Fleet
from videoeff.errors import FleetError
from videoeff.fleet.output import Output


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_each_camera_has_a_stream_of_its_own(workers: int, threshold: float) -> None:
    stream = network(threshold=threshold)
    clips = {f"cam{i}": clip(i, 12) for i in range(5)}
    with collecting() as (found, collect), Fleet(stream, workers=workers) as fleet:
        for name, frames in clips.items():
            fleet.add(name, ScriptedSource(frames), on_output=collect)
        assert fleet.wait(60)
        for name, frames in clips.items():
            assert [o.number for o in found[name]] == list(range(12))
            for output, expected in zip(found[name], straight(stream, frames), strict=True):
                assert torch.equal(output.outputs, expected)
            status = fleet[name].status()
            assert_all_counted(status)
            assert status.frames == 12
            assert status.state == "ended"
            assert status.work_share is not None
            assert 0 < status.work_share < 1
    assert fleet.status().cameras == ()


def test_thresholds_and_networks_are_the_cameras_own() -> None:
    exact, other = network(), network(seed=5)
    frames = clip(0, 8)
    with collecting() as (found, collect), Fleet(exact, workers=2) as fleet:
        fleet.add("exact", ScriptedSource(frames), on_output=collect)
        fleet.add("coarse", ScriptedSource(frames), threshold=0.5, on_output=collect)
        fleet.add("other", ScriptedSource(frames), network=other, on_output=collect)
        assert fleet.wait(60)
    coarse = exact.twin()
    coarse.set_threshold(0.5)
    for name, stream in {"exact": exact, "coarse": coarse, "other": other}.items():
        for output, expected in zip(found[name], straight(stream, frames), strict=True):
            assert torch.equal(output.outputs, expected)
    assert not torch.equal(found["exact"][-1].outputs, found["coarse"][-1].outputs)


def test_cameras_come_and_go_while_it_runs() -> None:
    stream = network()
    with collecting() as (found, collect), Fleet(stream, workers=2) as fleet:
        first = ScriptedSource()
        fleet.add("first", first, on_output=collect)
        for frame in clip(1, 3):
            first.give(frame)
        until(lambda: len(found["first"]) == 3)
        second = ScriptedSource(clip(2, 4))
        fleet.add("second", second, on_output=collect)
        until(lambda: len(found["second"]) == 4)
        last = fleet.remove("first")
        assert first.state == "closed"
        assert last.frames == 3
        first.give(clip(1, 1)[0])
        assert list(fleet) == ["second"]
        again = ScriptedSource(clip(1, 1))
        fleet.add("first", again, on_output=collect)
        until(lambda: len(found["first"]) == 4)
        assert torch.equal(found["first"][3].outputs, found["first"][0].outputs)  # a new stream
    assert again.state == second.state == "closed"


def test_a_camera_may_be_removed_by_who_is_told_of_its_output() -> None:
    ended = threading.Event()
    with Fleet(network(), workers=2) as fleet:

        def enough(output: Output) -> None:
            fleet.remove(output.camera)
            ended.set()

        fleet.add("cam", ScriptedSource(clip(0, 5)), on_output=enough)
        assert ended.wait(60)
        until(lambda: "cam" not in fleet)


def test_slow_dead_and_failing_cameras_hold_nobody_up() -> None:
    stream, release = network(), threading.Event()

    def wait_for_release(_: Output) -> None:
        release.wait(60)

    with collecting() as (found, collect), Fleet(stream, workers=2) as fleet:
        fleet.add("dead", ScriptedSource())
        wrong = network(seed=3)
        wrong.extra["preprocess"] = {**wrong.extra["preprocess"], "size": None}
        odd = ScriptedSource(clip(9, 4, (40, 40)))
        fleet.add("odd", odd, network=wrong)
        slow = ScriptedSource(clip(8, 4))
        fleet.add("slow", slow, on_output=wait_for_release)
        fleet.add("good", ScriptedSource(clip(1, 20)), on_output=collect)
        until(lambda: len(found["good"]) == 20)
        release.set()
        assert fleet["odd"].status().refused == 4
        assert "planned for 24x32" in fleet["odd"].status().why
        assert_all_counted(fleet["odd"].status())
        odd.become("live")
        assert fleet["odd"].status().state == "failing"
        odd.give(clip(9, 1)[0])  # of the right size
        until(lambda: fleet["odd"].status().frames == 1)
        assert fleet["odd"].status().why == ""


def test_callbacks_that_fail_do_not_end_the_camera(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Output) -> None:
        raise ValueError("mine")

    with Fleet(network(), workers=1) as fleet:
        fleet.add("cam", ScriptedSource(clip(0, 3)), on_output=fail)
        assert fleet.wait(60)
        assert fleet["cam"].status().frames == 3
    assert "camera cam: on_output failed: ValueError('mine')" in caplog.text


def test_late_pictures_are_dropped_and_counted() -> None:
    begun, go = threading.Event(), threading.Event()

    def hold(_: Output) -> None:
        begun.set()
        go.wait(60)

    source = ScriptedSource(keep=1)
    with Fleet(network(), workers=1) as fleet:
        fleet.add("cam", source, on_output=hold)
        frames = clip(0, 6)
        source.give(frames[0])
        assert begun.wait(60)
        for frame in frames[1:]:
            source.give(frame)
        go.set()
        until(lambda: fleet["cam"].status().frames == 2)
        status = fleet["cam"].status()
        assert status.late == 4
        assert_all_counted(status)
        latest = fleet["cam"].latest
        assert latest is not None
        assert latest.number == 5


def test_a_rate_is_kept_to() -> None:
    with collecting() as (found, collect), Fleet(network(), workers=1) as fleet:
        source = ScriptedSource()
        fleet.add("cam", source, fps=5, on_output=collect)
        for i, frame in enumerate(clip(0, 26)):
            source.give(frame, arrived=100 + i / 25 + 0.004 * (i % 3))  # 25 a second, with jitter
        until(lambda: fleet["cam"].status().waiting == 0 and not fleet._turns.busy)
        assert [o.number for o in found["cam"]] == [0, 5, 10, 15, 20, 25]
        assert fleet["cam"].status().skipped == 20
        assert_all_counted(fleet["cam"].status())


def test_subscribers_get_outputs_and_slow_ones_lose_the_oldest() -> None:
    with Fleet(network(), workers=1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source)
        eager, slow = camera.subscribe(20), camera.subscribe(2)
        for frame in clip(0, 6):
            source.give(frame)
        until(lambda: camera.status().frames == 6)
        assert [o.number for o in (eager.get(10) for _ in range(6)) if o] == list(range(6))
        assert [o.number for o in (slow.get(10) for _ in range(2)) if o] == [4, 5]
        assert (eager.lost, slow.lost) == (0, 4)
        assert eager.get(0) is None
        slow.close()
        source.give(clip(0, 1)[0])
        assert eager.get(60) is not None
        assert slow.get(0) is None
        fleet.remove("cam")
        assert list(eager) == []


def test_audits_run_when_a_worker_is_idle_and_tell_of_drift() -> None:
    stream = network(threshold=0.8)
    with Fleet(stream, workers=1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source, audit=1.0, audit_budget=1e-6)
        for i, frame in enumerate(clip(0, 12)):
            source.give(frame)
            until(lambda i=i: camera.status().frames == i + 1 and not fleet._turns.busy)  # type: ignore[misc]
        until(lambda: (camera.status().audit_error or 0) > 1e-6)
        assert camera.status().drifting
        assert fleet["cam"].report().audit.missed == 0  # type: ignore[union-attr]


def test_the_heat_map_is_of_the_frame() -> None:
    with Fleet(network(), workers=1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source)
        frames = clip(0, 4, (48, 64))
        source.give(frames[0])
        until(lambda: camera.status().frames == 1)
        assert camera.heat() is None
        source.give(frames[1])
        until(lambda: camera.heat() is not None)
        source.give(frames[1])
        until(lambda: camera.status().frames == 3)
        heat = camera.heat()
        assert heat is not None
        assert heat.shape == (SIZE[0] // 8, SIZE[1] // 8)
        least = heat.min()  # a frame is looked at everywhere
        assert heat.max() == least  # nothing else was
        source.give(frames[2])
        until(lambda: camera.status().frames == 4)
        heat = camera.heat()
        assert heat is not None
        assert heat[0].max() > least == heat[2].max()


def test_one_camera_has_all_threads_and_the_others_their_own_number() -> None:
    seen: dict[str, set[int]] = defaultdict(set)
    before = torch.get_num_threads()
    with Fleet(network(), workers=2) as fleet:
        fleet.add(
            "cam", ScriptedSource(clip(0, 4)), on_output=lambda o: seen[o.camera].add(torch.get_num_threads())
        )
        assert fleet.wait(60)
        assert torch.get_num_threads() == before
    assert seen["cam"] == {2}


def test_status_is_json_and_adds_up() -> None:
    import json

    with Fleet(network(), workers=2) as fleet:
        fleet.add("a", ScriptedSource(clip(0, 5)))
        fleet.add("b", ScriptedSource(clip(1, 7)))
        assert fleet.wait(60)
        told = json.loads(json.dumps(fleet.status().to_json()))
        assert told["frames"] == 12
        assert told["workers"] == 2
        assert [c["name"] for c in told["cameras"]] == ["a", "b"]
        assert told["state_bytes"] == sum(c["state_bytes"] for c in told["cameras"]) > 0
        assert told["cameras"][0]["ms"]["p50"] > 0
        assert 0 < told["busy"] <= 1


def test_misuse_is_named() -> None:
    stream = network()
    fleet = Fleet(stream)
    fleet.add("cam", ScriptedSource())
    closed = ScriptedSource()
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("cam", {}, "there is one of this name"),
        ("a/b", {}, "letters, digits"),
        ("..", {}, "letters, digits"),
        ("x" * 65, {}, "at most 64"),
        ("ok", {"fps": 0}, "above 0"),
        ("ok", {"fps": float("nan")}, "above 0"),
        ("ok", {"threshold": -1.0}, "threshold"),
        ("ok", {"audit": 2.0}, "audit"),
        ("ok", {"every": 0}, "every"),
        ("ok", {"network": "nowhere.veff"}, "no such file"),
    ]
    for name, options, message in wrong:
        with pytest.raises(Exception, match=message) as found:
            fleet.add(name, closed, **options)
        assert type(found.value).__module__ == "videoeff.errors"
    assert list(fleet) == ["cam"]
    with pytest.raises(FleetError, match="no camera 'b'; there are: cam"):
        fleet["b"]
    with pytest.raises(FleetError, match="no camera"):
        fleet.remove("b")
    with pytest.raises(FleetError, match="no network"):
        Fleet().add("cam", closed)
    with pytest.raises(FleetError, match="workers=0"):
        Fleet(stream, workers=0)
    with pytest.raises(FleetError, match="keep="):
        Fleet(stream, evict_after=1)
    fleet.close()
    fleet.close()
    with pytest.raises(FleetError, match="closed"):
        fleet.add("late", closed)
    with pytest.raises(FleetError, match="closed"):
        fleet.start()


def test_a_network_that_fails_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    frames = clip(0, 3)
    frames[1] = np.zeros((0, 0, 3), dtype=np.uint8)
    with Fleet(network(), workers=1) as fleet:
        source = ScriptedSource()
        camera = fleet.add("cam", source)
        for frame in frames:
            source.give(frame)
        until(lambda: camera.status().frames == 2)
        assert camera.status().refused == 1
        assert_all_counted(camera.status())
    assert "camera cam:" in caplog.text
