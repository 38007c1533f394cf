"""Contenders in processes of their own: the protocol, missing packages, parity, turns."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from videoeff.bench.contenders import Contenders, difference
from videoeff.bench.measure import Rounds, job_of, synthetic
from videoeff.bench.process import Process, WorkerFailed
from videoeff.bench.spec import Job, Model, Settings
from videoeff.errors import BackendError

TINY = Path(__file__).resolve().parents[1] / "support" / "tiny_net.py"
SENSITIVE = TINY.with_name("sensitive_net.py")
REFERENCE = f"{TINY}:net"
SIZE = (48, 64)
CLIP = {"size": list(SIZE), "share": 0.1, "seed": 0}
SETTINGS = Settings(threads=1, rounds=2, frames=3, budget=60.0, shares=(0.0, 0.1, 1.0))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return job_of(Model(REFERENCE, title="tiny"), SIZE, SETTINGS, tmp_path_factory.mktemp("cache"))


def starting(function: str, *kinds: str, file: Path = TINY) -> Callable[[str, Path, int, Path], Process]:
    """Starts the usual worker, but for some kinds a function of ``tiny_net`` or another file."""

    def start(kind: str, log: Path, threads: int, cache: Path) -> Process:
        command = None
        if kind in kinds:
            code = f"import runpy; runpy.run_path({str(file)!r})[{function!r}]()"
            command = [sys.executable, "-W", "ignore", "-c", code, kind]
        return Process(kind, log, threads, cache, command)

    return start


@pytest.fixture(scope="module")
def contenders(job: Job) -> Iterator[Contenders]:
    """Eager PyTorch, the stream, and a machine without ONNX Runtime."""
    kinds = ("eager", "onnxruntime", "videoeff")
    with Contenders(job, kinds, 240.0, start=starting("without_packages", "onnxruntime")) as made:
        yield made


def test_a_missing_package_is_reported(contenders: Contenders) -> None:
    assert set(contenders.ready) == {"eager", "videoeff"}
    assert "onnxruntime" in contenders.failed["onnxruntime"]
    assert "Error" in contenders.failed["onnxruntime"]


def test_parity(contenders: Contenders) -> None:
    errors = contenders.parity(CLIP)
    assert set(errors) == {"videoeff"}
    assert 0 <= errors["videoeff"] < 1e-4


def test_a_turn(contenders: Contenders) -> None:
    answer = contenders.turn("videoeff", clip=CLIP, warm=2, frames=4)
    assert len(answer["ms"]) == 4
    assert min(answer["ms"]) > 0
    assert answer["changed"] == pytest.approx([0.1] * 4, abs=1e-3)
    assert 0 < answer["needed"] <= answer["scheduled"] <= 1
    assert 0 <= answer["native_ms"] <= max(answer["ms"])
    still = contenders.turn("videoeff", clip=CLIP | {"share": 0.0}, warm=2, frames=2)
    assert still["needed"] == still["scheduled"] == 0
    assert "needed" not in contenders.turn("eager", clip=CLIP, warm=0, frames=1)


def test_rounds_and_rows(contenders: Contenders) -> None:
    clips = {f"{s:g}": CLIP | {"share": s} for s in SETTINGS.shares}
    rounds = Rounds(contenders, SETTINGS, clips, CLIP)
    rounds.run()
    assert rounds.rounds == 2
    assert not rounds.partial
    dense = rounds.dense()
    assert dense["eager"]["count"] >= 4
    assert "failed" in dense["onnxruntime"]
    rows = {r["label"]: r for r in rounds.rows()}
    assert list(rows) == ["0", "0.1", "1"]
    assert rows["0"]["scheduled_share"] == 0
    assert rows["1"]["needed_share"] == 1
    for row in rows.values():
        assert row["best_peer"] == "eager"
        expected = dense["eager"]["median"] * row["needed_share"] / row["ms"]
        assert row["efficiency"] == pytest.approx(expected)


def test_a_spent_budget_ends_within_the_first_round(contenders: Contenders) -> None:
    import dataclasses

    rounds = Rounds(contenders, dataclasses.replace(SETTINGS, budget=0.0), {"0.1": CLIP}, CLIP)
    rounds.run()
    assert rounds.partial
    assert rounds.rounds == 0


def test_workers_sleep_while_others_work(contenders: Contenders) -> None:
    contenders.turn("eager", clip=CLIP, warm=0, frames=3)
    for process in contenders.ready.values():
        assert process.idle > 0
        assert process.idle_cpu < 0.05 * process.idle + 0.05


def test_thresholds_are_set(contenders: Contenders) -> None:
    everywhere = CLIP | {"share": 1.0}

    def needed() -> float:
        return float(contenders.turn("videoeff", clip=everywhere, warm=1, frames=2)["needed"])

    assert needed() == 1
    contenders.ready["videoeff"].ask("configure", threshold=1e6)
    assert 0 < needed() < 0.6  # the first layer sees the input change and passes nothing on
    contenders.ready["videoeff"].ask("configure", threshold=0.0)
    assert needed() == 1


def test_failures_are_answers(contenders: Contenders) -> None:
    with pytest.raises(WorkerFailed, match="FileNotFoundError"):
        contenders.turn("eager", clip={"file": "absent.npy"}, warm=0, frames=1)
    assert contenders.turn("eager", clip=CLIP, warm=0, frames=1)["ms"]


def test_disagreement_stops_before_timing(job: Job) -> None:
    kinds = ("eager", "openvino")
    with (
        Contenders(job, kinds, 240.0, start=starting("wrong_worker", "openvino")) as made,
        pytest.raises(BackendError, match=r"openvino by 0\.01.*nothing was timed"),
    ):
        made.parity(CLIP)


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return job_of(Model(f"{SENSITIVE}:build"), SIZE, SETTINGS, tmp_path_factory.mktemp("sensitive"))


@pytest.mark.parametrize("worker", ["rounding_worker", "faulty_worker"])
def test_float64_tells_rounding_from_a_fault(sensitive: Job, worker: str) -> None:
    notes: list[str] = []
    start = starting(worker, "openvino", file=SENSITIVE)
    with Contenders(sensitive, ("eager", "openvino"), 240.0, notes.append, start) as made:
        if worker == "faulty_worker":
            with pytest.raises(BackendError, match=r"openvino by 0\.00.*it is not rounding: eager PyTorch"):
                made.parity(CLIP)
            return
        assert 1e-4 < made.parity(CLIP)["openvino"] < 1e-3
        told = made.notes["openvino"]["float64"]
        assert 1e-5 < told["eager"] < told["found"] < 4 * told["eager"]
        assert "the network itself is that sensitive to float32's rounding" in notes[0]


def test_everybody_sees_the_same_frames_however_often(contenders: Contenders) -> None:
    first = contenders.outputs("eager", CLIP, 2)
    assert difference(contenders.outputs("eager", CLIP, 2), first) == 0


def test_disagreement_stops_a_measurement(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def differs(self: Contenders, clip: Any, frames: int = 3) -> dict[str, float]:
        raise BackendError("outputs differ")

    class Ready(Contenders):
        def __init__(self, *_: Any) -> None:
            self.ready = {"videoeff": None}  # type: ignore[dict-item]

        def __exit__(self, *_: object) -> None:
            pass

    def never(self: Rounds) -> None:
        raise AssertionError("timed after all")

    monkeypatch.setattr("videoeff.bench.measure.Contenders", Ready)
    monkeypatch.setattr(Ready, "parity", differs)
    monkeypatch.setattr(Rounds, "run", never)
    with pytest.raises(BackendError, match="outputs differ"):
        synthetic(Model(REFERENCE, title="tiny"), SIZE, SETTINGS, Path(job.cache), lambda _: None)


# ---------------------------------------------------------------- the protocol, with stand-ins for the worker


def stand_in(tmp_path: Path, code: str) -> Process:
    return Process("eager", tmp_path / "log", 1, tmp_path, [sys.executable, "-c", code])


def test_an_ended_process_is_reported_with_its_last_word(tmp_path: Path) -> None:
    code = "import sys; sys.stdin.readline(); sys.exit('Illegal instruction')"
    with stand_in(tmp_path, code) as process, pytest.raises(WorkerFailed, match="Illegal instruction"):
        process.ask("prepare", 60.0)


def test_a_slow_process_is_stopped(tmp_path: Path) -> None:
    with stand_in(tmp_path, "import sys; sys.stdin.read()") as process:
        with pytest.raises(WorkerFailed, match="no answer within"):
            process.ask("prepare", 0.2)
        with pytest.raises(WorkerFailed, match="ended"):
            process.ask("prepare", 5.0)


def test_threads_are_the_same_for_every_library(tmp_path: Path) -> None:
    code = "import json, os, sys; sys.stdin.readline(); print(json.dumps(dict(os.environ)))"
    with stand_in(tmp_path, code) as process:
        found = process.ask("prepare", 60.0)
    assert {found[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin processes")
def test_cores_are_the_same_for_everybody(tmp_path: Path) -> None:
    code = (
        "import json, os, sys; sys.stdin.readline(); print(json.dumps({'n': len(os.sched_getaffinity(0))}))"
    )
    with stand_in(tmp_path, code) as process:
        assert process.ask("prepare", 60.0) == {"n": 1}


def test_answers_in_pieces(tmp_path: Path) -> None:
    code = (
        "import sys, time; sys.stdin.readline(); w = sys.stdout\n"
        "w.write('{\"a\": '); w.flush(); time.sleep(0.2); w.write('1}\\n{\"a\": 2}\\n'); w.flush()\n"
        "sys.stdin.readline()"
    )
    with stand_in(tmp_path, code) as process:
        assert process.ask("x", 60.0) == {"a": 1}
        process.send("y")
        assert process.receive(60.0) == {"a": 2}


def test_difference() -> None:
    import numpy as np

    a = {"x": np.array([1.0, -4.0])}
    assert difference(a, a) == 0
    assert difference({"x": np.array([1.0, -3.0])}, a) == 0.25
    for other in ({}, {"x": np.array([1.0])}, {"x": np.array([1.0, np.nan])}, a | {"y": a["x"]}):
        assert difference(other, a) == float("inf")


def test_jobs_go_through_json(job: Job) -> None:
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
