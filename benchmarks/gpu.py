"""The GPU benchmark: streams against dense peers at the same precision, over the project's networks.

    python benchmarks/gpu.py                      # eight minutes: goals first, then as much as fits
    python benchmarks/gpu.py --budget 240 --parts frames --models resnet50 --streams 8 --sizes 1080x1920
    python benchmarks/gpu.py --render             # only write table, plot and page from the results there are

On a machine with a GPU where nothing can be installed, but PyTorch (2.11 or newer, with its Triton),
torchvision and timm are there, from the root of a checkout::

    nvidia-smi
    PYTHONPATH=. python3 -m pytest -q -m gpu tests/kernels/triton  # the kernels' own tests come first
    PYTHONPATH=. python3 benchmarks/gpu.py --budget 460 --json out/gpu.json
    PYTHONPATH=. python3 -m videoeff tune --device cuda --budget 500 -o out/sizes.json

and, back where the results are to be committed::

    cp out/gpu.json benchmarks/results/ && python benchmarks/gpu.py --render

Results are added to ``benchmarks/results/gpu.json`` as they come, so a run that is cut off loses nothing; a
second call measures what is missing, or everything asked for with ``--again``. A small network is compared
with the reference first: where they differ nothing is timed. A network of a package that is not there is left
out, or its twin from another package is taken, and the notes say so.
"""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.gpu_render import PEERS, compared, render
from benchmarks.store import Store
from videoeff.bench.machine import describe, version_of
from videoeff.bench.spec import SHARES, Model

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"

MODELS = (
    Model("torchvision:resnet50"),
    Model("timm:hrnet_w18", multiple=32),
    Model("torchvision:mobilenet_v2"),
    Model("torchvision:efficientnet_b0"),
    Model("torchvision:deeplabv3_resnet50"),
    Model("torchvision:fasterrcnn_resnet50_fpn", title="fpn"),
)
#: Where torchvision is not installed.
TWINS = {"resnet50": "resnet50", "mobilenet_v2": "mobilenetv2_100", "efficientnet_b0": "efficientnet_b0"}

SIZES = ((1080, 1920), (720, 1280))
STREAMS = (8, 1, 4, 16)
PARTS = ("frames", "convolutions", "compiled", "thresholds")

#: What the goals are about; measured before anything else, with these shares first.
GOALS = tuple((name, (1080, 1920), streams) for streams in (8, 1) for name in ("resnet50", "hrnet_w18"))
GOAL_SHARES = (0.05, 0.10, 0.0, 1.0)

#: Seconds without which nothing more is begun.
LEAST = 15.0


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        part: which part it belongs to.
        model, size, streams: of frames; None for the convolutions.
    """

    part: str
    model: Model | None = None
    size: tuple[int, int] = (0, 0)
    streams: int = 0


def steps(
    models: Iterable[Model],
    sizes: Sequence[tuple[int, int]],
    streams: Sequence[int],
    parts: Sequence[str],
) -> list[Step]:
    """What is to be done, in the order of its worth.

    The goals' frames, the convolutions, peers that take long to compile, thresholds, then all other frames.
    """
    by_name = {m.name: m for m in models}
    goals = [
        (by_name[n], size, count)
        for n, size, count in GOALS
        if n in by_name and size in sizes and count in streams
    ]
    rest = [
        (m, size, count)
        for size in sizes
        for count in streams
        for m in by_name.values()
        if (m, size, count) not in goals
    ]
    found = [Step("frames", *g) for g in goals] + [Step("convolutions")]
    found += [Step(part, *g) for part in ("compiled", "thresholds") for g in goals]
    found += [Step("frames", *r) for r in rest]
    return [s for s in found if s.part in parts]


def available(
    models: Iterable[Model], there: Any = importlib.util.find_spec
) -> tuple[list[Model], list[str]]:
    """The networks whose packages are there, or twins of them, and notes on the others."""
    found, notes = [], []
    for model in models:
        package = model.reference.partition(":")[0]
        if there(package) is not None:
            found.append(model)
        elif model.name in TWINS and there("timm") is not None:
            found.append(replace(model, reference=f"timm:{TWINS[model.name]}", title=model.name))
            notes.append(f"{model.name}: {package} is not installed; timm's {TWINS[model.name]} instead")
        else:
            notes.append(f"{model.name}: left out, {package} is not installed")
    return found, notes


def size(text: str) -> tuple[int, int]:
    """``1080x1920`` as (height, width)."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def note(text: str) -> None:
    """Progress, on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], choices=[m.name for m in MODELS])
    parser.add_argument("--sizes", nargs="+", type=size, default=list(SIZES), metavar="HxW")
    parser.add_argument("--streams", nargs="+", type=int, default=list(STREAMS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--threshold", type=float, default=0.1, help="of the part 'thresholds'")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--frames", type=int, default=6, help="of a turn")
    parser.add_argument(
        "--compile-seconds", type=float, default=100.0, help="most that torch.compile may take"
    )
    parser.add_argument("--budget", type=float, default=460.0, help="seconds in all")
    parser.add_argument("--json", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs" / "cuda.md", help="page whose marked parts are filled"
    )
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--render", action="store_true", help="write table, plot and page only")
    return parser.parse_args(given)


def gpu() -> dict[str, Any]:
    """The device, for the record."""
    import torch

    try:
        fields = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(fields, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        driver = ""
    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "capability": f"sm_{found.major}{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory": found.total_memory,
        "driver": driver.strip().partition("\n")[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "triton": version_of("triton"),
    }


class Run:
    """One run over the steps, under one deadline."""

    def __init__(self, options: argparse.Namespace, store: Store, models: Sequence[Model]) -> None:
        import torch

        from benchmarks.gpu_compile import Ahead, Compiler
        from benchmarks.gpu_frames import Clips, Subject

        self.options, self.store, self.models = options, store, models
        self.deadline: float = time.monotonic() + options.budget
        self.dtype = getattr(torch, options.dtype)
        self.clips, self.compiler = Clips(self.dtype), Compiler()
        self.machine = describe(torch.get_num_threads()) | gpu()
        self.device = (self.machine["gpu"], int(self.machine["capability"].removeprefix("sm_")))
        self.subjects: dict[str, Subject] = {}
        self._ahead = Ahead
        torch.backends.cudnn.benchmark = True

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def go(self, wanted: Sequence[Step]) -> int:
        """Everything that fits; how much failed."""
        import torch

        from benchmarks.gpu_kernels import parity

        for step in wanted:
            if step.model is not None and step.part in ("frames", "thresholds"):
                self._compile(step)  # while the small network is compared
        command = "python " + shlex.join(["benchmarks/gpu.py", *sys.argv[1:]])
        self.machine["matmul_tflops"] = matmul_tflops(self.dtype)
        settings = {n: str(v) for n, v in vars(self.options).items()}
        self.number = self.store.started(command, self.machine, settings)
        note(f"{self.machine['gpu']}: matrix products at {self.machine['matmul_tflops']:.0f} TFLOP/s")
        row = parity(self.dtype)
        self.store.put("parity", self.options.dtype, row | {"run": self.number})
        note(f"parity with the reference: {row['error']:.2g} of {row['limit']:g}")
        if "failed" in row:
            note(f"parity is red, so nothing is timed: {row['failed']}")
            return 1
        bad = 0
        for number, step in enumerate(wanted):
            if self.left < LEAST:
                note(f"the budget is spent; {len(wanted) - number} of {len(wanted)} steps left out")
                break
            begin = time.monotonic()
            bad += self._convolutions() if step.model is None else self._frames(step, wanted[number + 1 :])
            name = step.part if step.model is None else f"{step.part} {self._setting(step).key}"
            note(f"{number + 1}/{len(wanted)} {name}: {time.monotonic() - begin:.0f} s")
            torch.cuda.empty_cache()
        self.compiler.stop()
        return bad

    def _setting(self, step: Step) -> Any:
        from benchmarks.gpu_frames import Setting

        assert step.model is not None  # the step is about frames
        return Setting(step.model, step.model.fit(step.size), step.streams, self.dtype)

    def _ahead_of(self, step: Step) -> Any:
        threshold = self.options.threshold if step.part == "thresholds" else 0.0
        model, fitted = step.model, self._setting(step).size
        assert model is not None  # the step is about frames
        return self._ahead(model.reference, fitted, step.streams, self.options.dtype, threshold, *self.device)

    def _compile(self, step: Step) -> None:
        slices = 6 if "hrnet" in step.model.name else 3  # type: ignore[union-attr] # about frames
        self.compiler.ask(self._ahead_of(step), slices)

    def _convolutions(self) -> int:
        from benchmarks.gpu_kernels import run, wanted_shapes

        found = wanted_shapes(self.models, SIZES[0], note)
        until = time.monotonic() + 0.35 * self.left
        return run(self.store, self.number, found, 8, self.dtype, until, note, self.compiler, self.device)

    def _frames(self, step: Step, later: Sequence[Step]) -> int:
        """A network at a size; 1 if that failed."""
        from benchmarks.gpu_frames import reason_of

        key = self._setting(step).key
        if self._is_known(step, key):
            return 0
        try:
            self._measure(step, key)
        except Exception as error:  # noqa: BLE001 - written down with the reason; the next one is tried
            self.store.put("frames", key, {"failed": reason_of(error), "run": self.number})
            note(f"{key}: {reason_of(error)}")
            self.subjects.pop(key, None)
            return 1
        if not any(s.model is not None and self._setting(s).key == key for s in later):
            self.subjects.pop(key, None)
        return 0

    def _is_known(self, step: Step, key: str) -> bool:
        if not self.store.known("frames", key):
            return False
        row = self.store.section("frames")[key]
        if step.part == "compiled":
            wanted = [p for p in self.options.peers if p.startswith("compile")]
            return all("median" in row["dense"].get(p, {}) for p in wanted)
        if step.part == "thresholds":
            return any(one["threshold"] == self.options.threshold for one in row["stream"])
        return True

    def _measure(self, step: Step, key: str) -> None:
        from benchmarks.gpu_frames import ONE_LANE, STREAM, Subject
        from benchmarks.gpu_render import COMPILED

        setting = self._setting(step)
        order = sorted(self.options.shares, key=lambda s: (s not in GOAL_SHARES, s == 1.0, s == 0.0, s))
        self.clips.make(setting.size, [0.05, *order])
        ahead = self._ahead_of(step)
        if ahead in self.compiler.found:
            note(f"{key}: {self.compiler.wait([ahead], min(120.0, self.left - LEAST))}")
        subject = self.subjects.get(key)
        if subject is None:
            subject = self.subjects[key] = Subject(setting, self.clips)
            error = subject.parity()
            if not error <= subject.limit():
                raise ArithmeticError(f"outputs differ from the dense ones by {error:.2g}")
            subject.error = error
        if step.part == "thresholds" and subject.threshold != self.options.threshold:
            subject.threshold = self.options.threshold
            subject.stream.set_threshold(subject.threshold)
        for kind in self.options.peers:
            if step.part == "compiled" or kind not in COMPILED:
                seconds = self.options.compile_seconds if kind in COMPILED else 60.0
                if not subject.ready(kind, min(seconds, self.left - LEAST / 2)):
                    note(f"{key}: {kind}: {subject.failed[kind]}")
        turns = [(kind, 0.0) for kind in subject.peers] + [(STREAM, share) for share in order]
        if step.part == "frames" and any(len({s.lane for s in p.slots}) > 1 for p in subject.plans()):
            turns += [(ONE_LANE, share) for share in (0.05, 0.0) if share in order]
        for done in range(self.options.rounds):
            for index in range(len(turns)):
                kind, share = turns[(index + done) % len(turns)] if done else turns[index]
                if self.left < (LEAST / 3 if done else 2.0):
                    self._put(key, subject, done == 0)
                    return
                if kind in subject.peers:
                    subject.turn_of_peer(kind, self.options.frames)
                else:
                    subject.turn_of_stream(share, self.options.frames, kind)
            self._put(key, subject, False)
        subject.count_kernels(0.05)
        self._put(key, subject, False)

    def _put(self, key: str, subject: Any, partial: bool) -> None:
        row = compared(subject.row(), self.machine["matmul_tflops"])
        self.store.put("frames", key, row | {"run": self.number, "partial": partial})


def matmul_tflops(dtype: Any, edge: int = 8192) -> float:
    """What this device makes of a large matrix product: the peak that shares are of."""
    import torch

    from benchmarks.gpu_frames import DEVICE
    from videoeff.bench.cuda_kernels import graph_ms

    a, b = (torch.randn(edge, edge, device=DEVICE, dtype=dtype) for _ in range(2))
    torch.backends.cuda.matmul.allow_tf32 = True
    out = torch.empty_like(a)
    return 2e-9 * edge**3 / graph_ms(lambda: void(torch.mm(a, b, out=out)), 5, 5)


def void(_: Any) -> None:
    """Nothing, of something."""


def main() -> None:
    """Measure and write."""
    options = arguments()
    store = Store(options.json, options.again)
    bad = 0
    if not options.render:
        import torch

        if not torch.cuda.is_available():
            sys.exit("PyTorch finds no CUDA device here, so nothing can be timed; --render works anywhere")
        wanted = [m for m in MODELS if not options.models or m.name in options.models]
        models, notes = available(wanted)
        for text in notes:
            note(text)
        run = Run(options, store, models)
        bad = run.go(steps(models, options.sizes, options.streams, options.parts))
    for path in render(store.document, options.json.parent, options.docs):
        note(f"wrote {path.name}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
