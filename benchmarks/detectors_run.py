"""One detector on one clip: everybody in a process of its own, judged block by block and timed in turns."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detectors_calibrate import calibrated
from benchmarks.detectors_data import CONTROLS
from benchmarks.detectors_score import Agreement, Detector, Judge
from videoeff.bench.clip_frames import save_frames, write_calibration
from videoeff.bench.contenders import PAUSE, TOLERANCE, difference
from videoeff.bench.figures import best, summary
from videoeff.bench.precision import explained
from videoeff.bench.process import Process, WorkerFailed
from videoeff.bench.spec import COARSE, DENSE, EAGER, OPENVINO_INT8, SKIPS, STREAM, Job
from videoeff.calibration.controls import skip_label
from videoeff.errors import BackendError
from videoeff.rounding import Rounding
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

#: The streams that are not calibrated, by label: how each is configured.
STREAMS: Mapping[str, Mapping[str, Any]] = {
    f"{STREAM}, τ = 0": {"threshold": 0.0},
    f"{STREAM}, τ = 0.1": {"threshold": 0.1},
}
#: A pixel changed if a channel moved by more grey levels than this.
VISIBLE = 8
#: Frames of the clip on which every pixel changes.
CUT = 5

Frame = NDArray[np.uint8]
Note = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        file: of the exported network.
        clip: file.
        size: (height, width) the frames are resized to.
        first: the frame before the first one judged.
        frames: judged.
        block: consecutive frames of a turn.
        passes: over all frames, when timing.
        threads: of each contender.
        cache: folder for exports and compiled code.
        peers: the dense runtimes.
        budgets: by the label of a calibrated stream.
    """

    file: Path
    clip: Path
    size: tuple[int, int]
    first: int
    frames: int
    block: int
    passes: int
    threads: int
    cache: Path
    peers: tuple[str, ...]
    budgets: Mapping[str, str] = field(default_factory=dict)

    def blocks(self) -> list[tuple[int, int]]:
        """First frame and number of frames of each block; frame 0 comes before them all."""
        return [(i, min(self.block, self.frames + 1 - i)) for i in range(1, self.frames + 1, self.block)]


@dataclass
class Contender:
    """One that runs.

    Attributes:
        process: its own.
        options: how a stream is configured, None for a dense runtime.
        times: of frames, ms.
        worst: of frames on which everything changes, ms.
        shares: of the work needed and scheduled, a pair for each turn.
        worst_difference: largest difference from eager PyTorch over the output's largest magnitude.
        explained: what float64 says of the blocks in which that exceeds the law.
    """

    process: Process
    options: Mapping[str, Any] | None = None
    times: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    shares: list[tuple[float, float]] = field(default_factory=list)
    worst_difference: float = 0.0
    explained: list[Rounding] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """What float64 says of the block that is worst off."""
        return str(max(self.explained, key=lambda r: (not r.holds, r.worst[1])))


class Bench:
    """Everybody on one clip; a context manager that ends the processes.

    Args:
        detector: the network.
        setting: what is measured.
        note: told what happens.
    """

    def __init__(self, detector: Detector, setting: Setting, note: Note) -> None:
        self.detector, self.setting, self.note = detector, setting, note
        self.contenders: dict[str, Contender] = {}
        self.failed: dict[str, str] = {}
        self.judging = Judge(detector.decoder(setting.size))
        self.agreement: dict[str, Agreement] = {}
        self.judged = self.detections = 0
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videoeff-bench-")))
            self.preprocess = Preprocess(size=setting.size, bgr=True, scale=detector.scale)
            self.pictures = self._frames()
            self.calibrations = {
                label: calibrated(setting.file, setting.clip, self.preprocess, budget, setting.threads, note)
                for label, budget in setting.budgets.items()
            }
            self._start(stack)
            self._stack = stack.pop_all()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _frames(self) -> list[Frame]:
        """Write the clips that all map; returns the frames as they were decoded."""
        setting = self.setting
        count = setting.frames + 1
        with open_clip(setting.clip, frames=setting.first + count) as source:
            pictures = [picture for index, picture in enumerate(source) if index >= setting.first]
        if len(pictures) < count:
            raise BackendError(
                f"{setting.clip.name}: has {len(pictures)} of the {count} frames from frame "
                f"{setting.first} on; ask for fewer with --frames"
            )
        save_frames(pictures, self.folder / "clip.npy", self.preprocess)
        save_frames(([pictures[0], 255 - pictures[0]] * CUT)[:CUT], self.folder / "cut.npy", self.preprocess)
        return pictures

    # ---------------------------------------------------------------- processes

    def _start(self, stack: contextlib.ExitStack) -> None:
        setting = self.setting
        calibration = self.folder / "calibration.npy"
        if OPENVINO_INT8 in setting.peers:
            found = write_calibration(
                setting.clip, calibration, self.preprocess, setting.first, setting.frames + 1
            )
            if not found:
                raise BackendError(
                    f"{setting.clip.name}: has no frames but the judged ones to calibrate int8 on"
                )
        job = Job(
            str(setting.file.resolve()), "", setting.size, setting.threads, str(setting.cache.resolve()),
            self.detector.name, str(calibration),
        )  # fmt: skip
        setting.cache.mkdir(parents=True, exist_ok=True)
        everybody: dict[str, Mapping[str, Any] | None] = {**dict.fromkeys(setting.peers), **STREAMS}
        everybody |= {k: c.options for k, c in self.calibrations.items()}
        for number, (label, options) in enumerate(everybody.items()):
            kind = label if options is None else STREAM
            process = Process(kind, self.folder / f"{number}.log", setting.threads, setting.cache)
            stack.callback(process.stop)
            self.contenders[label] = Contender(process, options)
            process.send("prepare", job=job.to_json())
        for label in list(self.contenders):
            with self._dropping(label):
                answer = self.contenders[label].process.receive(900.0)
                self.contenders[label].notes = {
                    "prepare_seconds": round(answer["seconds"], 1),
                    **answer["notes"],
                }
                if (options := self.contenders[label].options) is not None:
                    self._ask(label, "configure", **options)
        missing = [k for k in (EAGER, *STREAMS) if k in self.failed]
        if missing:
            raise BackendError("; ".join(f"{k} cannot run: {self.failed[k]}" for k in missing))

    @contextlib.contextmanager
    def _dropping(self, label: str) -> Iterator[None]:
        """Go on without a contender that cannot serve."""
        try:
            yield
        except WorkerFailed as error:
            self.failed[label] = str(error)
            self.contenders.pop(label).process.stop()
            self.note(f"{label} cannot take part: {error}")

    def _ask(self, label: str, do: str, **request: Any) -> dict[str, Any]:
        return self.contenders[label].process.ask(do, 900.0, **request)

    @property
    def streams(self) -> list[str]:
        """Labels of the streams."""
        return [k for k, c in self.contenders.items() if c.options is not None]

    def _outputs(self, label: str, file: str, first: int, count: int) -> list[NDArray[Any]]:
        """The only output of some frames."""
        arrays = self._arrays(label, file, first, count)
        return [arrays[f"frame{i}_0"] for i in range(count)]

    def _arrays(self, label: str, file: str, first: int, count: int, **request: Any) -> dict[str, Any]:
        path = self.folder / "outputs.npz"
        clip = {"file": str(self.folder / file), "first": first}
        self._ask(label, "outputs", clip=clip, frames=count, save=str(path), **request)
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        path.unlink()
        return found

    # ---------------------------------------------------------------- agreement

    def judge(self) -> None:
        """Compare everybody's outputs with the dense network's on every frame after the first.

        Raises:
            BackendError: a float32 runtime or the stream at threshold 0 computes something else.
        """
        labels = [*self.contenders, *map(skip_label, SKIPS), *CONTROLS]
        self.agreement = {k: Agreement(self.judging) for k in labels if k != EAGER}
        for label in self.streams:
            self._ask(label, "configure")
            self._outputs(label, "clip.npy", 0, 1)
        before = self._outputs(EAGER, "clip.npy", 0, 1)
        held = dict.fromkeys(SKIPS, before[0])
        generators = {name: np.random.default_rng(7) for name in CONTROLS}
        for first, count in self.setting.blocks():
            dense = self._outputs(EAGER, "clip.npy", first, count)
            truth = [self.judging.read(output) for output in dense]
            self.judged += count
            self.detections += sum(map(self.judging.count, truth))

            def add(label: str, outputs: Sequence[NDArray[Any]], truth: Any = truth) -> None:
                for output, expected in zip(outputs, truth, strict=True):
                    self.agreement[label].add(self.judging.read(output), expected)

            for label in [k for k in self.contenders if k != EAGER]:
                outputs = self._outputs(label, "clip.npy", first, count)
                self._compare(label, outputs, dense, first)
                add(label, outputs)
            for step in SKIPS:
                row = []
                for index, output in enumerate(dense, first):
                    held[step] = output if index % step == 0 else held[step]
                    row.append(held[step])
                add(skip_label(step), row)
            for name, disturb in CONTROLS.items():
                pictures = [disturb(p, generators[name]) for p in self.pictures[first : first + count]]
                save_frames(pictures, self.folder / "disturbed.npy", self.preprocess)
                add(name, self._outputs(EAGER, "disturbed.npy", 0, count))
        self._check()

    def _compare(
        self, label: str, outputs: Sequence[NDArray[Any]], dense: Sequence[NDArray[Any]], first: int
    ) -> None:
        """Keep the largest difference; where it exceeds the law, ask float64 about it."""
        contender = self.contenders[label]
        found, wanted = ({f"frame{i}_0": a for i, a in enumerate(arrays)} for arrays in (outputs, dense))
        worst = difference(found, wanted)
        contender.worst_difference = max(contender.worst_difference, worst)
        if label in self._exact and not worst <= TOLERANCE:
            ask = partial(self._arrays, EAGER, "clip.npy", first, len(outputs), float64=True)
            contender.explained.append(explained({label: found}, wanted, ask)[label])

    @property
    def _exact(self) -> list[str]:
        """Those that have to compute what eager PyTorch computes."""
        return [k for k, c in self.contenders.items() if k in DENSE or c.options == {"threshold": 0.0}]

    def _check(self) -> None:
        contenders = {k: self.contenders[k] for k in self._exact}
        over = {k: c for k, c in contenders.items() if not c.worst_difference <= TOLERANCE}
        if over:
            text = ", ".join(f"{k} by {c.worst_difference:.2g} ({c.told})" for k, c in over.items())
            where = f"{self.detector.name} on {self.setting.clip.name}"
            text = f"{where}: outputs differ from eager PyTorch's: {text}"
            if not all(rounding.holds for c in over.values() for rounding in c.explained):
                raise BackendError(
                    f"{text} (allowed: {TOLERANCE:g} of the largest magnitude); nothing was timed"
                )
            self.note(text)

    # ---------------------------------------------------------------- time

    def measure(self) -> None:
        """Time all frames in blocks, everybody in turn on each block; then frames on which all changes."""
        for number in range(self.setting.passes):
            for label in self.streams:
                self._ask(label, "configure")  # start afresh
                self._turn(label, "clip.npy", first=0, frames=1)
            for index, (first, count) in enumerate(self.setting.blocks()):
                labels = list(self.contenders)
                begin = (index + number) % len(labels)
                for label in labels[begin:] + labels[:begin]:
                    answer = self._turn(label, "clip.npy", first=first, frames=count)
                    contender = self.contenders[label]
                    contender.times += answer["ms"]
                    if "needed" in answer:
                        contender.shares.append((answer["needed"], answer["scheduled"]))
            for label in self.streams:
                answer = self._turn(label, "cut.npy", first=0, warm=1, frames=CUT - 1)
                self.contenders[label].worst += answer["ms"]

    def _turn(self, label: str, file: str, *, first: int, frames: int, warm: int = 0) -> dict[str, Any]:
        """One contender's turn; the others sleep."""
        time.sleep(PAUSE)
        clip = {"file": str(self.folder / file), "first": first}
        return self._ask(label, "time", clip=clip, warm=warm, frames=frames, changed=False)

    # ---------------------------------------------------------------- results

    def row(self) -> dict[str, Any]:
        """Everything measured, as plain values."""
        setting = self.setting
        medians = {k: statistics.median(c.times) for k, c in self.contenders.items() if c.times}
        exact = best(medians)
        assert exact is not None  # eager PyTorch always runs
        int8 = self.agreement.get(OPENVINO_INT8)

        def told(label: str, group: str) -> dict[str, Any]:
            other = int8 if label != OPENVINO_INT8 and group in ("stream", "skip") else None
            return {"label": label, "group": group, **self.agreement[label].to_json(other)}

        rows = []
        for label in [k for k in DENSE if k in self.contenders]:
            contender = self.contenders[label]
            judged = told(label, "float32") if label != EAGER else {"label": label, "group": "float32"}
            rows.append(judged | _times(contender))
        for label in [k for k in COARSE if k in self.contenders]:
            rows.append(told(label, "coarse") | _times(self.contenders[label]))
        for step in SKIPS:
            ms = {"ms": medians[exact] / step, "worst_ms": medians[exact], "needed": 1 / step}
            rows.append(told(skip_label(step), "skip") | ms)
        for label in self.streams:
            rows.append(told(label, "stream") | _times(self.contenders[label]))
        rows += [told(label, "control") for label in CONTROLS]
        changed = [
            float((np.abs(b.astype(np.int16) - a) > VISIBLE).any(2).mean())
            for a, b in zip(self.pictures, self.pictures[1:], strict=False)
        ]
        return {
            "network": self.detector.name,
            "clip": setting.clip.name,
            "size": list(setting.size),
            "frames": [setting.first + 1, setting.first + setting.frames],
            "block": setting.block,
            "passes": setting.passes,
            "changed": statistics.mean(changed),
            "detections": self.detections / max(1, self.judged),
            "best": exact,
            "contenders": rows,
            "failed_contenders": self.failed,
            "calibrations": {k: c.told for k, c in self.calibrations.items()},
        }


def _times(contender: Contender) -> dict[str, Any]:
    """Times and work of a contender that ran."""
    spread = summary(contender.times)
    found: dict[str, Any] = {"ms": spread["median"], "spread": spread, "worst_ms": spread["median"]}
    if contender.worst:
        found["worst_ms"] = statistics.median(contender.worst)
    if contender.shares:
        found["needed"], found["scheduled"] = (
            statistics.mean(s) for s in zip(*contender.shares, strict=True)
        )
    kept = ("prepare_seconds", "calibration_frames", "state_bytes", "macs", "batch_norms_folded")
    return found | {
        "difference": contender.worst_difference,
        **{k: v for k, v in contender.notes.items() if k in kept},
    }
