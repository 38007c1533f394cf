"""Measurements of one model at one size: synthetic clips, a real clip, the fixed cost."""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videoeff.bench import errors
from videoeff.bench.contenders import Contenders, Note
from videoeff.bench.figures import compare, summary
from videoeff.bench.process import WorkerFailed
from videoeff.bench.spec import STREAM, Job, Model, Settings
from videoeff.calibration.controls import skip_label
from videoeff.errors import BackendError
from videoeff.video.preprocess import Preprocess


def job_of(model: Model, size: Sequence[int], settings: Settings, cache: Path) -> Job:
    """The job, with its weights written where there are none yet."""
    fitted, look = model.fit(size), model.prepare(size)
    weights = ""
    if not model.trained and not model.reference.endswith(".pt2"):
        from videoeff.bench.network import make_weights

        path = cache / f"{model.name}-seed{settings.seed}{_suffix(look)}.pt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            make_weights(model.reference, path, settings.seed, look)
        weights = str(path.resolve())
    return Job(
        model.reference,
        weights,
        fitted,
        settings.threads,
        str(cache.resolve()),
        model.name,
        preprocess=look.to_json(),
    )


def _suffix(look: Preprocess) -> str:
    """What tells weights apart that were settled on other values than three channels in 0..1."""
    values = (look.channels, look.scale, look.mean, look.std)
    if values == (3, 1 / 255, None, None):
        return ""
    return "-" + hashlib.blake2b(repr(values).encode(), digest_size=4).hexdigest()


@dataclass
class Series:
    """Times of one contender in one setting, over all its turns."""

    times: list[float] = field(default_factory=list)
    changed: list[float] = field(default_factory=list)
    needed: list[float] = field(default_factory=list)
    scheduled: list[float] = field(default_factory=list)
    native_ms: list[float] = field(default_factory=list)

    def add(self, answer: dict[str, Any]) -> None:
        """A turn's answer. Of a stream that looks at every n-th frame, a time is the mean of n frames."""
        every = answer.get("every", 1)
        turns = [answer["ms"][i : i + every] for i in range(0, len(answer["ms"]), every)]
        self.times += [statistics.fmean(t) for t in turns if len(t) == every]
        self.changed += answer["changed"]
        if "needed" in answer:
            self.needed.append(answer["needed"])
            self.scheduled.append(answer["scheduled"])
            self.native_ms.append(answer["native_ms"])

    def frames(self, settings: Settings) -> int:
        """How many frames the next turn should have."""
        if not self.times:
            return min(2, settings.frames)
        return max(1, min(settings.frames, int(1e3 * settings.turn_seconds / statistics.median(self.times))))


class Rounds:
    """Interleaved rounds: every round, each dense runtime has one turn and the stream one in each setting.

    Args:
        contenders: the contenders, checked.
        settings: rounds, frames and budget.
        clips: the stream's settings by label, each a clip.
        dense_clip: what the dense runtimes are shown; their time does not depend on it.
        before: called before the stream's turn in a setting.
        whole: every turn of the stream is one pass over this many frames, None to let time decide.
    """

    def __init__(
        self,
        contenders: Contenders,
        settings: Settings,
        clips: dict[str, dict[str, Any]],
        dense_clip: dict[str, Any],
        configure: dict[str, dict[str, Any]] | None = None,
        whole: int | None = None,
    ) -> None:
        self.contenders, self.settings, self.clips, self.dense_clip = contenders, settings, clips, dense_clip
        self.configure, self.whole = configure or {}, whole
        self.series: dict[tuple[str, str], Series] = {}
        self.rounds, self.partial, self.seconds = 0, False, 0.0

    def run(self) -> None:
        """Run, and keep how long it took."""
        began = time.monotonic()
        self._run(began)
        self.seconds = time.monotonic() - began

    def _run(self, began: float) -> None:
        """Rounds until all are done or the budget is spent.

        The first round is finished unless it takes twice the budget.
        """
        budget = self.settings.budget
        while self.rounds < self.settings.rounds:
            turns = [(k, "") for k in self.contenders.dense] + [(STREAM, label) for label in self.clips]
            first = self.rounds % len(turns)
            for kind, label in turns[first:] + turns[:first]:
                spent = time.monotonic() - began
                if spent > 2 * budget or (self.rounds > 0 and spent > budget):
                    self.partial = self.rounds == 0
                    return
                if kind in self.contenders.ready:
                    self._turn(kind, label)
            self.rounds += 1

    def _turn(self, kind: str, label: str) -> None:
        series = self.series.setdefault((kind, label), Series())
        frames = series.frames(self.settings)
        slow = frames < self.settings.frames and bool(series.times)
        clip, warm = self.dense_clip, 0 if slow else 1
        try:
            if kind == STREAM:
                clip = self.clips[label]
                warm = 1 if slow or self.whole is not None else 2
                frames = frames if self.whole is None else self.whole
                if label in self.configure:
                    self.contenders.ready[kind].ask("configure", **self.configure[label])
            series.add(self.contenders.turn(kind, clip=clip, warm=warm, frames=frames))
        except WorkerFailed as error:
            if kind == STREAM:
                raise
            self.contenders.drop(kind, str(error))

    def dense(self) -> dict[str, Any]:
        """Times of the dense runtimes, and the reasons of those that have none."""
        found: dict[str, Any] = {}
        for kind in self.contenders.dense:
            series = self.series.get((kind, ""))
            if series is not None and series.times:
                found[kind] = summary(series.times)
        return found | {k: {"failed": reason} for k, reason in self.contenders.failed.items()}

    def rows(self) -> list[dict[str, Any]]:
        """The stream's settings beside the best dense runtime."""
        medians = {k: v["median"] for k, v in self.dense().items() if "median" in v}
        rows = []
        for label in self.clips:
            series = self.series.get((STREAM, label))
            if series is None or not series.times:
                continue
            spread = summary(series.times)
            row = compare(
                float(spread["median"]),
                medians,
                statistics.mean(series.scheduled),
                statistics.mean(series.needed),
            )
            changed = statistics.mean(series.changed) if series.changed else None
            native = statistics.median(series.native_ms)
            rows.append({"label": label, "changed": changed, **row, "native_ms": native, "spread": spread})
        return rows


def _common(contenders: Contenders, rounds: Rounds, parity: dict[str, float]) -> dict[str, Any]:
    from videoeff.bench.network import note_on

    notes = contenders.notes.get(STREAM, {})
    row: dict[str, Any] = {
        "model": contenders.job.name,
        "size": list(contenders.job.size),
        "threads": contenders.job.threads,
        "rounds": rounds.rounds,
        "partial": rounds.partial,
        "timing_seconds": round(rounds.seconds, 1),
        "note": note_on(contenders.job.reference),
        "preprocess": contenders.job.look.to_json(),
        "parity": parity,
        "dense": rounds.dense(),
        "stream": rounds.rows(),
        "notes": contenders.notes,
        "idle_cpu_share": {
            k: round(p.idle_cpu / p.idle, 4) for k, p in contenders.ready.items() if p.idle > 0
        },
    }
    if notes.get("convolution_output_bytes"):
        row["state_bytes"] = notes["state_bytes"]
        row["convolution_output_bytes"] = notes["convolution_output_bytes"]
        row["state_ratio"] = notes["state_bytes"] / notes["convolution_output_bytes"]
    return row


def synthetic(
    model: Model, size: Sequence[int], settings: Settings, cache: Path, note: Note
) -> dict[str, Any]:
    """All shares of changed pixels at threshold 0.

    Raises:
        BackendError: somebody's outputs differ from eager PyTorch's, or the stream cannot run.
    """
    job = job_of(model, size, settings, cache)
    with Contenders(job, (*settings.peers, STREAM), settings.prepare_seconds, note) as contenders:
        _require_stream(contenders)
        parity = contenders.parity(_blobs(job, 0.05, settings.seed + 1))
        clips = {f"{share:g}": _blobs(job, share, settings.seed) for share in settings.shares}
        rounds = Rounds(contenders, settings, clips, _blobs(job, 0.05, settings.seed))
        rounds.run()
        return _common(contenders, rounds, parity)


def real(
    model: Model,
    frames: Path,
    count: int,
    settings: Settings,
    cache: Path,
    size: Sequence[int],
    note: Note,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """A real clip at each threshold, and everybody's error on it.

    Args:
        model: the model.
        frames: preprocessed frames as one array (N, C, H, W), ``.npy``.
        count: frames of it.
        settings: of the run.
        cache: folder for weights and exports.
        size: of the frames.
        note: told what happens.
        calibration: other frames of the clip, to calibrate int8 on.

    Raises:
        BackendError: somebody's outputs differ from eager PyTorch's, or the stream cannot run.
    """
    job = job_of(model, size, settings, cache)
    if calibration is not None:
        job = dataclasses.replace(job, calibration=str(calibration))
    clip = {"file": str(frames)}
    with Contenders(job, (*settings.peers, STREAM), settings.prepare_seconds, note) as contenders:
        _require_stream(contenders)
        parity = contenders.parity(clip)
        chosen = {} if settings.input_test is None else {"input_test": dict(settings.input_test)}
        labels = {
            f"{t:g}" if n == 1 else f"{t:g}, {skip_label(n)}": {"threshold": t, "every": n, **chosen}
            for t in settings.thresholds
            for n in settings.every
            if n < count
        }
        for n in (n for n in settings.every if n >= count):
            note(f"{job.name}: {skip_label(n)} is left out: the clip has {count} frames")
        rounds = Rounds(contenders, settings, {k: clip for k in labels}, clip, labels, whole=count - 1)
        rounds.run()
        return _common(contenders, rounds, parity) | {
            "errors": errors.on_clip(contenders, clip, count, labels)
        }


def fixed_cost(
    model: Model, size: Sequence[int], settings: Settings, cache: Path, note: Note
) -> dict[str, Any]:
    """The time of a still picture on a tiny input, over the number of ops.

    Raises:
        BackendError: the stream cannot run.
    """
    job = job_of(model, size, settings, cache)
    with Contenders(job, (STREAM,), settings.prepare_seconds, note) as contenders:
        _require_stream(contenders)
        series = Series()
        for _ in range(settings.rounds):
            series.add(contenders.turn(STREAM, clip=_blobs(job, 0.0, settings.seed), warm=3, frames=50))
        ops, spread = contenders.notes[STREAM]["ops"], summary(series.times)
        return {
            "model": job.name,
            "size": list(job.size),
            "threads": job.threads,
            "ops": ops,
            "ms": spread,
            "us_per_op": 1e3 * float(spread["median"]) / ops,
            "native_us_per_op": 1e3 * statistics.median(series.native_ms) / ops,
        }


def prepare(model: Model, size: Sequence[int], settings: Settings, cache: Path, note: Note) -> dict[str, str]:
    """Fill the cache (weights, exports, compiled code) without timing anything, one runtime after another.

    Returns:
        The reasons of those that cannot take part.
    """
    job = job_of(model, size, settings, cache)
    failed: dict[str, str] = {}
    for kind in settings.peers[1:]:
        with Contenders(job, (kind,), settings.prepare_seconds, note) as contenders:
            failed |= contenders.failed
    return failed


def _require_stream(contenders: Contenders) -> None:
    if STREAM not in contenders.ready:
        raise BackendError(
            f"{contenders.job.name}: videoeff itself cannot run it: {contenders.failed[STREAM]}"
        )


def _blobs(job: Job, share: float, seed: int) -> dict[str, Any]:
    return {"size": list(job.size), "share": share, "seed": seed}
