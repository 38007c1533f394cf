"""Two trained detectors on real clips: time and fidelity of streaming beside what a user would run instead.

    python benchmarks/detectors.py --data FOLDER             # measures all, writes results and tables
    python benchmarks/detectors.py --data FOLDER --prepare   # only fills the cache: exports, compiled code
    python benchmarks/detectors.py --render                  # only writes the tables from the results

FOLDER holds FastestDet and YOLOX-Nano as exported programs, and the clips; where a file is absent the script
says where it comes from. On every clip and for every network

- the stream at τ = 0 (exact), at 0.1 with one input test for all clips (``CLIP_INPUT``), and calibrated to a
  settled agreement and to int8's error,
- eager PyTorch, torch.compile, ONNX Runtime, OpenVINO in float32, and OpenVINO in bfloat16 and in int8 (NNCF,
  calibrated on frames of the clip that are not judged),
- every 2nd and every 4th frame of the fastest float32 runtime

are judged against the dense network on the last third of the clip, on which calibration chose nothing, and
timed, block of frames by block of frames in turn.
The network on slightly disturbed frames is the noise floor beside which an agreement means something.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.detectors_calibrate import BUDGETS, LABELS, budget_of
from benchmarks.detectors_data import CLIPS, missing
from benchmarks.detectors_render import render
from benchmarks.detectors_run import Bench, Setting
from benchmarks.detectors_score import BLOCK, DETECTORS, Detector
from benchmarks.store import Store
from videoeff.bench.machine import describe
from videoeff.bench.spec import CLIP_INPUT, EAGER, PEERS
from videoeff.errors import VideoEffError

ROOT = Path(__file__).resolve().parents[1]


def note(text: str) -> None:
    """Progress, on stderr, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data", help="clips and networks"
    )
    parser.add_argument("--networks", nargs="+", default=list(DETECTORS), choices=list(DETECTORS))
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS, help="dense runtimes")
    parser.add_argument(
        "--budgets", nargs="*", default=list(BUDGETS), choices=BUDGETS, help="of calibrated streams"
    )
    parser.add_argument("--frames", type=int, help="frames judged and timed; each clip's own if left out")
    parser.add_argument("--block", type=int, default=BLOCK, help="consecutive frames of a turn")
    parser.add_argument("--passes", type=int, default=2, help="how often each frame is timed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench", help="exports, compiled code")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "detectors.json")
    parser.add_argument(
        "--pages",
        nargs="*",
        type=Path,
        default=[ROOT / "README.md", ROOT / "docs" / "real_clips.md"],
        help="pages whose marked parts are filled",
    )
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--prepare", action="store_true", help="fill the cache, measure nothing")
    parser.add_argument("--render", action="store_true", help="write the tables only")
    return parser.parse_args()


def setting_of(options: argparse.Namespace, detector: Detector, name: str) -> Setting:
    """What is measured of a network on a clip of this name."""
    clip = CLIPS[name]
    return Setting(
        file=options.data / f"{detector.name}.pt2",
        clip=options.data / clip.file,
        size=clip.size,
        first=clip.first,
        frames=options.frames or clip.frames,
        block=options.block,
        passes=options.passes,
        threads=options.threads,
        cache=options.cache,
        peers=tuple(p for p in PEERS if p == EAGER or p in options.peers),
        budgets={
            LABELS[word]: budget_of(word, detector.name, name)
            for word in ([] if options.prepare else options.budgets)
        },
    )


def cleaned(text: str, options: argparse.Namespace) -> str:
    """A reason without the paths of this machine."""
    for folder in (options.data.resolve(), options.cache.resolve(), ROOT, Path(tempfile.gettempdir())):
        text = text.replace(str(folder), folder.name)
    return text


def one(detector: Detector, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network on the clip of a name."""
    began = time.monotonic()
    try:
        with Bench(detector, setting_of(options, detector, name), note) as bench:
            ready = time.monotonic()
            if options.prepare:
                return {"seconds": round(ready - began, 1)}
            bench.judge()
            judged = time.monotonic()
            bench.measure()
            row = bench.row()
    except VideoEffError as error:
        return {"network": detector.name, "clip": CLIPS[name].file, "failed": cleaned(str(error), options)}
    ended = time.monotonic()
    row["failed_contenders"] = {k: cleaned(v, options) for k, v in row.pop("failed_contenders").items()}
    seconds = {"prepare": ready - began, "judge": judged - ready, "time": ended - judged}
    return row | {"seconds": {k: round(v, 1) for k, v in seconds.items()}}


def measure(options: argparse.Namespace, store: Store) -> int:
    """Measure what is asked for and not known; how many failed."""
    files = [f"{n}.pt2" for n in options.networks] + [CLIPS[c].file for c in options.clips]
    absent = missing(options.data, files)
    if absent:
        sys.exit(
            f"{absent}\n\nPut the files into a folder and name it: "
            "python benchmarks/detectors.py --data FOLDER"
        )
    kept = {k: getattr(options, k) for k in ("frames", "block", "passes", "threads", "peers", "budgets")}
    told = {k: v for k, v in kept.items() if k in ("frames", "passes", "threads") and v is not None}
    command = " ".join(
        [
            "python benchmarks/detectors.py --data FOLDER",
            *(f"--{k} {v}" for k, v in told.items()),
            " ".join(["--budgets", *options.budgets]),
        ]
    )
    number = 0
    if not options.prepare:
        settings = kept | {"input_test": dict(CLIP_INPUT)}
        number = store.started(command, describe(options.threads), settings)
    bad = 0
    for clip in options.clips:
        for network in options.networks:
            key = f"{network}/{clip}"
            if not options.prepare and store.known("detectors", key):
                note(f"{key}: known")
                continue
            row = one(DETECTORS[network], clip, options)
            bad += "failed" in row
            note(f"{key}: {row.get('failed') or row['seconds']}")
            if not options.prepare:
                store.put("detectors", key, row | {"clip": clip, "run": number})
    return bad


def main() -> None:
    """Measure and write."""
    options = arguments()
    store = Store(options.json, options.again)
    bad = 0 if options.render else measure(options, store)
    if not options.prepare:
        for path in render(store.document, options.json.with_suffix(".md"), options.pages):
            note(f"wrote {path.name}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
