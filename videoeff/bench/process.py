"""The parent's side of a contender's process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from videoeff.errors import BackendError


class WorkerFailed(BackendError):
    """A contender could not serve; the message is its reason."""


class Process:
    """A contender in a process of its own, idle unless asked.

    Args:
        kind: its name.
        log: file for what it prints.
        threads: for every thread pool in it.
        cache: folder for compiled code.
        command: what to start, to stand in for the worker in tests.
    """

    def __init__(
        self, kind: str, log: Path, threads: int, cache: Path, command: Sequence[str] | None = None
    ) -> None:
        self.kind, self.log = kind, log
        self.idle_cpu, self.idle = 0.0, 0.0
        environment = os.environ | environment_of(threads, cache)
        with log.open("wb") as sink:
            self._child = subprocess.Popen(
                command or [sys.executable, "-W", "ignore", "-m", "videoeff.bench.worker", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                env=environment,
            )
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._child.pid, sorted(os.sched_getaffinity(0))[:threads])
        self._pending = b""

    def send(self, do: str, **values: Any) -> None:
        """Ask; the answer is waited for by :meth:`receive`.

        Raises:
            WorkerFailed: the process has ended.
        """
        assert self._child.stdin is not None  # a pipe
        try:
            self._child.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
            self._child.stdin.flush()
        except (OSError, ValueError) as error:  # broken, or closed when it was stopped
            raise WorkerFailed(self._ended()) from error

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next answer.

        Raises:
            WorkerFailed: it says so, it ended, or it took longer than ``seconds`` and was stopped.
        """
        answer = json.loads(self._line(seconds))
        self.idle_cpu += answer.pop("idle_cpu", 0.0)
        self.idle += answer.pop("idle", 0.0)
        if "failed" in answer:
            raise WorkerFailed(str(answer["failed"]))
        return dict(answer)

    def ask(self, do: str, seconds: float = 600.0, **values: Any) -> dict[str, Any]:
        """:meth:`send` and :meth:`receive`."""
        self.send(do, **values)
        return self.receive(seconds)

    def _line(self, seconds: float) -> bytes:
        assert self._child.stdout is not None  # a pipe
        deadline = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._child.stdout], [], [], left)[0]
            if not ready:
                self.stop()
                raise WorkerFailed(f"no answer within {seconds:.0f} s; it was stopped")
            part = os.read(self._child.stdout.fileno(), 1 << 16)
            if not part:
                raise WorkerFailed(self._ended())
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _ended(self) -> str:
        self.stop()
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"its process ended with status {self._child.returncode}: {lines[-1] if lines else 'no word'}"[
            :400
        ]

    def stop(self) -> None:
        """End the process and wait for it."""
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._child.wait(5.0)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def environment_of(threads: int, cache: Path) -> Mapping[str, str]:
    """The same thread settings for every library."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
        "PYTHONUNBUFFERED": "1",
        "CI": "true",  # else OpenVINO and NNCF send statistics of use
        "NNCF_CI": "1",
    }
