"""The contenders for one model and size: started together, checked, then run in turns."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videoeff.bench.process import Process, WorkerFailed
from videoeff.bench.spec import COARSE, EAGER, STREAM, STREAM_BF16, STREAM_INT8, STREAMS, Job
from videoeff.errors import BackendError

#: Largest difference from eager PyTorch over an output's largest magnitude, float32: the project's tolerance
#: table (other orders of sums and folded norms, magnified by depth), for all that compute in float32. What
#: computes more coarsely by its nature has its error told beside its time.
TOLERANCE = 1e-4
#: Seconds between two turns, in which thread pools of the last one fall asleep.
PAUSE = 0.03

Note = Callable[[str], None]
Start = Callable[[str, Path, int, Path], Process]


class Contenders:
    """Starts a process for each contender and lets them get ready side by side.

    One that cannot is kept in ``failed`` with its reason; the measurement goes on without it.

    Args:
        job: what all of them run.
        kinds: the contenders.
        seconds: each may take to get ready.
        note: told what happens.
        start: makes a process, to stand in for it in tests.
    """

    def __init__(
        self,
        job: Job,
        kinds: Sequence[str],
        seconds: float,
        note: Note = lambda _: None,
        start: Start = Process,
    ) -> None:
        self.job, self.note = job, note
        self.ready: dict[str, Process] = {}
        self.failed: dict[str, str] = {}
        self.notes: dict[str, dict[str, Any]] = {}
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videoeff-bench-")))
            cache = Path(job.cache)
            cache.mkdir(parents=True, exist_ok=True)
            started = {}
            for kind in kinds:
                started[kind] = start(kind, self.folder / f"{kind}.log", job.threads, cache)
                stack.callback(started[kind].stop)
                with contextlib.suppress(WorkerFailed):  # said again by the answer
                    started[kind].send("prepare", job=job.to_json())
            deadline = time.monotonic() + seconds
            for kind, process in started.items():
                self._collect(kind, process, deadline)
            self._stack = stack.pop_all()

    def _collect(self, kind: str, process: Process, deadline: float) -> None:
        try:
            answer = process.receive(max(1.0, deadline - time.monotonic()))
        except WorkerFailed as error:
            self.failed[kind] = str(error)
            self.note(f"{self.job.name}: {kind} cannot take part: {error}")
            return
        self.ready[kind] = process
        self.notes[kind] = {"prepare_seconds": round(answer["seconds"], 1), **answer["notes"]}

    def __enter__(self) -> Contenders:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def dense(self) -> list[str]:
        """The dense runtimes that are ready."""
        return [k for k in self.ready if k not in STREAMS]

    def drop(self, kind: str, reason: str) -> None:
        """Go on without a contender."""
        self.failed[kind] = reason
        self.ready.pop(kind).stop()
        self.note(f"{self.job.name}: {kind} dropped out: {reason}")

    def turn(self, kind: str, seconds: float = 600.0, **request: Any) -> dict[str, Any]:
        """One contender's turn; everybody else sleeps."""
        time.sleep(PAUSE)
        return self.ready[kind].ask("time", seconds, **request)

    def parity(self, clip: dict[str, Any], frames: int = 3) -> dict[str, float]:
        """Compare everybody's outputs with eager's.

        Who exceeds the law is judged in float64: a network may magnify float32's rounding that far.

        Returns:
            Largest difference over the output's largest magnitude, for each contender.

        Raises:
            BackendError: somebody in float32 computes something else, and it is no rounding; or eager
                PyTorch itself cannot run.
        """
        if EAGER not in self.ready:
            raise BackendError(
                f"{self.job.name}: eager PyTorch, which the others are compared with, cannot run: "
                f"{self.failed.get(EAGER, 'it was not asked for')}"
            )
        expected = self.outputs(EAGER, clip, frames)
        first = {name: array for name, array in expected.items() if name.startswith("frame0_")}
        found: dict[str, float] = {}
        red: dict[str, dict[str, Any]] = {}
        for kind in [k for k in self.ready if k not in (EAGER, STREAM_BF16, STREAM_INT8)]:
            try:  # a dense runtime has no memory, so one frame tells
                outputs = self.outputs(kind, clip, frames if kind == STREAM else 1)
            except WorkerFailed as error:
                self.drop(kind, str(error))
                continue
            found[kind] = difference(outputs, expected if kind == STREAM else first)
            if kind not in COARSE and not found[kind] <= TOLERANCE:
                red[kind] = outputs
        for kind in [k for k in COARSE if found.get(k) == float("inf")]:
            self.drop(kind, "its outputs have other shapes or are not finite")
            del found[kind]
        if red:
            from videoeff.bench.precision import explained  # torch, which this process mostly does without

            told = explained(red, expected, lambda: self.outputs(EAGER, clip, frames, float64=True))
            text = ", ".join(f"{k} by {found[k]:.2g} ({told[k]})" for k in red)
            where = f"{self.job.name} at {self.job.size[0]}x{self.job.size[1]}"
            text = f"{where}: outputs differ from eager PyTorch's: {text}"
            if not all(rounding.holds for rounding in told.values()):
                raise BackendError(
                    f"{text} (allowed: {TOLERANCE:g} of the largest magnitude); nothing was timed"
                )
            self.note(text)
            for kind, rounding in told.items():
                self.notes.setdefault(kind, {})["float64"] = rounding.to_json()
        return found

    def outputs(self, kind: str, clip: dict[str, Any], frames: int, **request: Any) -> dict[str, Any]:
        """Outputs of the first frames of a clip, ``frame0_0`` and so on, each an array."""
        path = self.folder / f"{kind}.npz"
        self.ready[kind].ask("outputs", clip=clip, frames=frames, save=str(path), **request)
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        path.unlink()
        return found


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """Largest difference of any array over its largest magnitude; infinity where shapes or NaNs differ."""
    if set(found) != set(expected):
        return float("inf")
    worst = 0.0
    for name, right in expected.items():
        left = found[name]
        if left.shape != right.shape or not np.isfinite(left).all() or not np.isfinite(right).all():
            return float("inf")
        size = float(np.abs(right).max(initial=0.0))
        error = float(np.abs(left.astype(np.float64) - right).max(initial=0.0))
        worst = max(worst, error / size if size > 0 else error)
    return worst
