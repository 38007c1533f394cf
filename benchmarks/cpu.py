"""The CPU benchmark: streams against dense runtimes, over the project's models, sizes and clips.

    python benchmarks/cpu.py --budget 2400
    python benchmarks/cpu.py --models resnet50 mobilenet_v2 --sizes 360x480 --rounds 3 --budget 300
    python benchmarks/cpu.py --prepare          # fill the cache (exports, compiled code), time nothing
    python benchmarks/cpu.py --render           # only write tables, plot and page from the results there are

Results are added to ``benchmarks/results/cpu.json`` as they come; a second call measures what is missing, or
everything asked for with ``--again``. The parity of all contenders is checked before anything is timed, and
``--tests`` runs the kernels' own tests first. The real clips and the trained detector are looked for beside
the checkout (``--data``) and left out, with a word, where they are absent.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import suite
from benchmarks.cpu_render import render
from benchmarks.store import Store
from videoeff.bench.machine import describe
from videoeff.bench.spec import DENSE, SHARES, Settings

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = ROOT.parent / "shared" / "data"
PARTS = (*suite.PARTS, "layers")


def size(text: str) -> tuple[int, int]:
    """``360x480`` as (height, width)."""
    height, _, width = text.partition("x")
    return int(height), int(width)


def note(text: str) -> None:
    """Progress, on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], choices=[m.name for m in suite.MODELS])
    parser.add_argument("--sizes", nargs="+", type=size, default=list(suite.SIZES), metavar="HxW")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--peers", nargs="+", default=list(DENSE), choices=DENSE)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--thresholds", nargs="+", type=float, default=[0.05, 0.1, 0.2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=8, help="most frames of a turn")
    parser.add_argument("--clip-frames", type=int, default=24, help="frames of a real clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--budget", type=float, default=2400.0, help="seconds in all")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real clips and the detector")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench", help="exports, compiled code")
    parser.add_argument("--json", type=Path, default=RESULTS / "cpu.json")
    parser.add_argument(
        "--docs", type=Path, default=ROOT / "docs" / "cpu.md", help="page whose marked parts are filled"
    )
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--prepare", action="store_true", help="fill the cache, time nothing")
    parser.add_argument("--render", action="store_true", help="write tables, plot and page only")
    parser.add_argument("--tests", nargs="*", help="tests to run first; without names those of the kernels")
    return parser.parse_args()


def tests_pass(paths: list[str]) -> bool:
    """Whether the kernels' own tests pass; they come before any figure."""
    found = paths or [str(p) for p in (ROOT / "tests").glob("*cpp*")] or ["tests/laws/test_laws.py"]
    note(f"tests first: {' '.join(found)}")
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *found], cwd=ROOT, check=False)
    return done.returncode == 0


def measure(options: argparse.Namespace, store: Store) -> int:
    """Measure what is asked for and not known; how much of it failed or was left out."""
    data = options.data if options.data.is_dir() else None
    if data is None:
        note(
            f"no folder {options.data.name} beside the checkout: real clips and the trained detector are "
            "left out"
        )
    choice = suite.Choice(
        tuple(options.models), tuple(options.sizes), tuple(options.parts), data, options.clip_frames
    )
    settings = Settings(
        threads=options.threads,
        rounds=options.rounds,
        frames=options.frames,
        shares=tuple(options.shares),
        thresholds=tuple(options.thresholds),
        peers=tuple(p for p in DENSE if p in {*options.peers, "eager"}),
    )
    command = "python " + shlex.join(["benchmarks/cpu.py", *sys.argv[1:]])
    number = 0 if options.prepare else store.started(command, describe(options.threads), settings.to_json())
    deadline = time.monotonic() + options.budget
    bad = 0
    if "layers" in options.parts and not options.prepare:
        bad += layers(options, store, number, data)
    wanted = list(suite.tasks(choice))
    left = deadline - time.monotonic()
    return bad + suite.run(
        wanted, choice, settings, store, number, options.cache, left, note, options.prepare
    )


def layers(options: argparse.Namespace, store: Store, number: int, data: Path | None) -> int:
    """The benchmark of single layers, at a sixth of the budget."""
    from benchmarks.cpu_layers import run
    from videoeff.kernels.cpp.library import unavailable

    if unavailable():
        note(f"layers: left out, there is no native library: {unavailable()}")
        return 1
    sizes = [tuple(s) for s in options.sizes]
    return run(store, number, options.threads, sizes, options.models, options.budget / 6, note, data)


def main() -> None:
    """Measure and write."""
    options: Any = arguments()
    store = Store(options.json, options.again)
    bad = 0
    if not options.render:
        if options.tests is not None and not tests_pass(options.tests):
            sys.exit("tests fail, so nothing was timed")
        bad = measure(options, store)
    if not options.prepare:
        for path in render(store.document, options.json.parent, options.docs):
            note(f"wrote {path.name}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
