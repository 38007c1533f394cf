"""A contender's process: ``python -m videoeff.bench.worker KIND``, JSON lines in, JSON lines out.

Requests, one at a time, each answered by one line:

- ``{"do": "prepare", "job": {...}}``: get ready;
- ``{"do": "configure", ...}``: thresholds, and start afresh;
- ``{"do": "outputs", "clip": {...}, "frames": n, "save": path}``: outputs of the first n frames, as ``.npz``;
  with ``"float64": true`` the dense network's in float64, beside eager PyTorch's in both memory formats;
- ``{"do": "time", "clip": {...}, "warm": k, "frames": n}``: times of n frames after k untimed ones, and the
  share of the pixels that changed in each unless ``"changed": false``.

An answer holds ``failed`` where a request could not be served. The process ends with its input.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from videoeff.bench.runners import Runner


class Worker:
    """Serves requests for one contender.

    Args:
        kind: its name in ``runners.RUNNERS``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runner: Runner | None = None
        self._clips: dict[str, Iterator[Any]] = {}

    def serve(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """One request; failures are answers."""
        name = str(request["do"])
        action = {"prepare": self._prepare, "configure": self._configure}.get(name)
        action = action or {"outputs": self._outputs, "time": self._time}[name]
        try:
            return action(request)
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises is its reason, and reported
            lines = str(error).strip().splitlines() or [""]
            return {"failed": f"{type(error).__name__}: {lines[0]}"[:400]}

    def _prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        from videoeff.bench.spec import Job

        job = Job.from_json(request["job"])
        begin = time.perf_counter()
        import torch

        torch.set_num_threads(job.threads)
        from videoeff.bench.runners import RUNNERS

        self.runner = RUNNERS[self.kind](job)
        return {"seconds": time.perf_counter() - begin, "notes": self.runner.notes}

    def _ready(self) -> Runner:
        if self.runner is None:
            raise RuntimeError("not prepared")
        return self.runner

    def _configure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._ready().configure(request)
        return {}

    def _frames(self, clip: Mapping[str, Any]) -> Iterator[Any]:
        """Frames of a clip: a synthetic one goes on where the last turn ended, a file starts at ``first``."""
        import numpy as np

        if "file" in clip:
            return iter(np.load(clip["file"], mmap_mode="r")[clip.get("first", 0) :])
        key = _key(clip)
        if key not in self._clips:
            from videoeff.bench.clips import BlobClip, as_input

            look = self._ready().job.look
            blobs = BlobClip(tuple(clip["size"]), clip["share"], channels=look.channels, seed=clip["seed"])
            self._clips[key] = (as_input(picture, look) for picture in blobs)
        return self._clips[key]

    def _outputs(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        runner = self._ready()
        arrays: dict[str, Any] = {}
        self._clips.pop(_key(request["clip"]), None)  # so that all see the same frames, however often
        frames = self._frames(request["clip"])
        for index in range(request["frames"]):
            fed = runner.feed(np.array(next(frames)))
            if request.get("float64"):
                found = runner.in_float64(fed)
            else:
                found = {"frame": runner.outputs(runner.run(fed))}
            for name, values in found.items():
                arrays |= {f"{name}{index}_{i}": np.array(v) for i, v in enumerate(values)}
        with Path(request["save"]).open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        return {"arrays": len(arrays)}

    def _time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        import numpy as np

        runner, frames = self._ready(), self._frames(request["clip"])
        before = None
        for _ in range(request["warm"]):
            before = np.array(next(frames))
            runner.run(runner.feed(before))
        pictures = [np.array(next(frames)) for _ in range(request["frames"])]
        row = pictures if before is None else [before, *pictures]
        told = request.get("changed", True)
        changed = [float((a != b).any(0).mean()) for a, b in itertools.pairwise(row)] if told else []
        fed = [runner.feed(p) for p in pictures]
        runner.begin()
        times = []
        for one in fed:
            begin = time.perf_counter()
            kept = runner.run(one)
            times.append(1e3 * (time.perf_counter() - begin))
        del kept
        return {"ms": times, "changed": changed, **runner.end()}


def _key(clip: Mapping[str, Any]) -> str:
    return json.dumps(clip, sort_keys=True)


def serve_all(kind: str, requests: IO[str], answers: IO[str]) -> None:
    """Serve until the input ends. Each answer tells the processor time spent idle since the one before."""
    worker = Worker(kind)
    before = time.process_time(), time.perf_counter()
    for line in requests:
        idle = time.process_time() - before[0], time.perf_counter() - before[1]
        answer = worker.serve(json.loads(line)) | {"idle_cpu": idle[0], "idle": idle[1]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        before = time.process_time(), time.perf_counter()


def main() -> None:
    """Serve over the standard streams; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    serve_all(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
