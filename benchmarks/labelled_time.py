"""Milliseconds of the labelled study's contenders: in processes of their own, in turns, at equal threads.

Run as a script it is the stream's process, which converts with any options of ``videoeff.convert``.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import videoeff
from benchmarks.labelled_contenders import STEPS, Contender, Tracker, options_on
from benchmarks.labelled_nets import DETECTOR, pad, padded, preprocess
from videoeff.bench import network
from videoeff.bench.clip_frames import save_frames
from videoeff.bench.contenders import PAUSE
from videoeff.bench.process import Process, WorkerFailed
from videoeff.bench.runners import RUNNERS, Stream
from videoeff.bench.spec import DENSE, EAGER, STREAM, Job
from videoeff.bench.worker import main
from videoeff.serialize.files import write_atomic

Array = NDArray[Any]
Note = Callable[[str], None]

#: Windows spread over a clip, frames timed in each, and how often; of the passes the quickest counts.
WINDOWS, FRAMES, PASSES = 3, 25, 3
SECONDS = 300.0


class Streams(Stream):
    """videoeff with any options; each set of them is converted once."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._made: dict[str, Any] = {}

    def configure(self, options: Mapping[str, Any]) -> None:
        """Take the stream of these options and start it afresh."""
        chosen = dict(options["options"])
        key = json.dumps(chosen, sort_keys=True)
        if key not in self._made:
            self._made[key] = videoeff.convert(network.load(self.job), network.example(self.job), **chosen)
        self.stream = self._made[key]
        self.stream.reset()


def export(model: nn.Module, size: tuple[int, int], path: Path) -> None:
    """Write a network as an exported program for frames of ``size`` (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exported = torch.export.export(model, (torch.rand(1, 3, *padded(size)),))
    write_atomic(path, lambda partial: torch.export.save(exported, partial))


def windows(total: int, every: int) -> list[list[int]]:
    """The frames of each window, the one before the timed ones first; every n-th frame of a clip."""
    count = min(FRAMES, (total // every - 1) // WINDOWS)
    starts = [int((i + 0.5) * total / WINDOWS - (count + 1) * every / 2) for i in range(WINDOWS)]
    return [[max(s, 0) + i * every for i in range(count + 1)] for s in starts]


class Timing:
    """All contenders on one clip; a context manager that ends their processes.

    Args:
        reference: file of the exported network.
        frames: (T, H, W, 3).
        contenders: those with streams are timed, besides the dense runtimes.
        threads: of each.
        cache: folder for exports.
        note: told what happens.
    """

    def __init__(
        self,
        reference: Path,
        frames: Array,
        contenders: Sequence[Contender],
        threads: int,
        cache: Path,
        note: Note,
    ) -> None:
        self.size: tuple[int, int] = (frames.shape[1], frames.shape[2])
        self.streams = [c for c in contenders if not c.dense]
        self.failed: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        look = preprocess(self.size)
        self.options = {c.label: options_on(c, frames, look) for c in self.streams}
        job = Job(
            str(reference.resolve()), "", padded(self.size), threads, str(cache.resolve()),
            reference.stem, preprocess=look.to_json(),
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videoeff-bench-")))
            self.count = {}
            for every in sorted({1, *(c.every for c in self.streams)}):
                rows = windows(len(frames), every)
                self.count[every] = len(rows[0]) - 1
                save_frames([pad(frames[i]) for row in rows for i in row], self._clip(every), look)
            cache.mkdir(parents=True, exist_ok=True)
            for kind in (*(k for k in DENSE if k != "compile"), STREAM):
                command = None
                if kind == STREAM:
                    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), kind]
                process = Process(kind, self.folder / f"{kind}.log", threads, cache, command)
                stack.callback(process.stop)
                self.processes[kind] = process
                process.send("prepare", job=job.to_json())
            for kind in list(self.processes):
                try:
                    self.processes[kind].receive(SECONDS)
                except WorkerFailed as error:
                    if kind in (EAGER, STREAM):
                        raise
                    self.failed[kind] = str(error)
                    self.processes.pop(kind).stop()
                    note(f"{kind} cannot take part: {error}")
            for contender in self.streams:
                self._configure(contender)
            self._stack = stack.pop_all()

    def __enter__(self) -> Timing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _clip(self, every: int) -> Path:
        return self.folder / f"every-{every}.npy"

    def _configure(self, contender: Contender) -> None:
        self.processes[STREAM].ask("configure", SECONDS, options=self.options[contender.label])

    def measure(self) -> dict[str, Any]:
        """Mean milliseconds of a frame of every dense runtime and every stream, and of the tracker."""
        turns: list[tuple[str, Contender | None]] = [(k, None) for k in self.processes if k != STREAM]
        turns += [(c.label, c) for c in self.streams]
        times: dict[str, list[list[float]]] = {label: [] for label, _ in turns}
        for number in range(PASSES):
            row: dict[str, list[float]] = {label: [] for label, _ in turns}
            for window in range(WINDOWS):
                begin = (number * WINDOWS + window) % len(turns)
                for label, contender in turns[begin:] + turns[:begin]:
                    row[label] += self._turn(label, contender, window)
            for label, ms in row.items():
                times[label].append(ms)
        means = {label: float(np.min(rows, axis=0).mean()) for label, rows in times.items()}
        for contender in self.streams:
            means[contender.label] /= contender.every
        dense = {k: means.pop(k) for k in list(self.processes) if k != STREAM}
        return {"dense": dense, "streams": means, "frames": WINDOWS * self.count[1], "failed": self.failed}

    def _turn(self, label: str, contender: Contender | None, window: int) -> list[float]:
        """One contender on one window; the others sleep."""
        every = 1 if contender is None else contender.every
        if contender is not None:
            self._configure(contender)
        time.sleep(PAUSE)
        clip = {"file": str(self._clip(every)), "first": window * (self.count[every] + 1)}
        process = self.processes[label if contender is None else STREAM]
        answer = process.ask("time", SECONDS, clip=clip, warm=1, frames=self.count[every], changed=False)
        return [float(ms) for ms in answer["ms"]]

    def tracker(self) -> dict[int, float]:
        """Mean milliseconds of a frame that ByteTrack takes if every n-th is looked at, by n."""
        path, count = self.folder / "outputs.npz", WINDOWS * (self.count[1] + 1)
        clip = {"file": str(self._clip(1)), "first": 0}
        self.processes[EAGER].ask("outputs", SECONDS, clip=clip, frames=count, save=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            boxes = [DETECTOR.boxes(arrays[f"frame{i}_0"], padded(self.size)) for i in range(count)]
        found = {}
        for every in (1, *STEPS):
            best = np.inf
            for _ in range(PASSES):
                tracker, begin = Tracker(), time.perf_counter()
                for frame in range(count):
                    if frame % every == 0:
                        tracker.see(boxes[frame], frame)
                    else:
                        tracker.guess(frame)
                best = min(best, 1e3 * (time.perf_counter() - begin) / count)
            found[every] = float(best)
        return found


if __name__ == "__main__":
    RUNNERS[STREAM] = Streams
    main()
