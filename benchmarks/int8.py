"""Streams of quantised networks beside float32 ones and beside OpenVINO's int8, interleaved in one run.

    python benchmarks/int8.py --data FOLDER

Each network runs in OpenVINO (float32, bfloat16, int8 by NNCF), as a float32 stream and as a stream of the
network that NNCF quantised on the same frames: where every pixel changes, on a still picture, and on two real
clips at two thresholds. Times are medians of one run; ratios are over OpenVINO's int8. Errors are relative to
eager PyTorch in float32, over all outputs of the frames. Results go to ``benchmarks/results/int8.json``,
the tables to ``docs/cpu.md``; with ``--part int8-amx`` to the file and the part of the page of that name, for
another processor. FOLDER has the clips and the trained detectors; without it nothing is measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_render import run_line
from benchmarks.pages import fill
from benchmarks.store import Store
from benchmarks.suite import CLIPS
from videoeff.bench.clip_frames import write_frames
from videoeff.bench.contenders import Contenders
from videoeff.bench.errors import mean_error
from videoeff.bench.machine import describe
from videoeff.bench.measure import Series, job_of
from videoeff.bench.spec import (
    CLIP_INPUT,
    EAGER,
    OPENVINO,
    OPENVINO_BF16,
    OPENVINO_INT8,
    STREAM,
    STREAM_BF16,
    STREAM_INT8,
    STREAMS,
    Job,
    Model,
    Settings,
)
from videoeff.errors import VideoEffError
from videoeff.serialize.files import write_text
from videoeff.video.preprocess import Preprocess

ROOT = Path(__file__).resolve().parents[1]

DENSE = (OPENVINO, OPENVINO_BF16, OPENVINO_INT8)
THRESHOLDS = (0.05, 0.1)
#: Frames of a clip to calibrate on, every so many-th of those behind the measured ones.
CALIBRATION, APART = 40, 5
FRAMES = 24
ALL, STILL = "all", "still"


def models(data: Path) -> tuple[Model, ...]:
    """The networks: random weights, and the two trained detectors."""
    yolox = Preprocess(bgr=True, scale=1.0)
    return (
        Model("torchvision:resnet50"),
        Model("timm:hrnet_w18", multiple=32),
        Model("torchvision:mobilenet_v2"),
        Model(str(data / "yolox_nano.pt2"), "yolox_nano", 32, True, yolox, True),
        Model(str(data / "fastestdet.pt2"), "fastestdet", 32, True, None, True),
    )


def measure(model: Model, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One network on one clip.

    Raises:
        VideoEffError: a contender computes something else, or cannot run.
    """
    size, first = CLIPS[name]
    settings = Settings(threads=options.threads)
    clip = options.data / f"{name}.avi"
    with tempfile.TemporaryDirectory() as folder:
        frames, calibration = Path(folder) / "frames.npy", Path(folder) / "calibration.npy"
        look = model.prepare(size)
        write_frames(clip, frames, look, first, FRAMES)
        behind = Path(folder) / "behind.npy"
        write_frames(clip, behind, look, first + FRAMES + 10, CALIBRATION * APART)
        np.save(calibration, np.load(behind, mmap_mode="r")[::APART])
        job = dataclasses.replace(job_of(model, size, settings, options.cache), calibration=str(calibration))
        with Contenders(job, (EAGER, *DENSE, *STREAMS), 3600.0, note) as contenders:
            missing = [k for k in (*STREAMS, OPENVINO_INT8) if k not in contenders.ready]
            if missing:
                raise VideoEffError(f"{missing[0]} cannot take part: {contenders.failed[missing[0]]}")
            return _timed(contenders, job, {"file": str(frames)}, options)


def _timed(
    contenders: Contenders, job: Job, clip: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    moving = {"size": list(job.size), "share": 1.0, "seed": 0}
    still = {"size": list(job.size), "share": 0.0, "seed": 0}
    settings: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        ALL: (moving, {"threshold": 0.0}),
        STILL: (still, {"threshold": 0.0}),
        **{f"{t:g}": (clip, {"threshold": t, "input_test": dict(CLIP_INPUT)}) for t in THRESHOLDS},
    }
    series: dict[tuple[str, str], Series] = {}
    began, rounds = time.monotonic(), 0
    while rounds < options.rounds or (rounds < 20 and time.monotonic() - began < options.seconds):
        for kind in DENSE:
            if kind in contenders.ready:
                found = series.setdefault((kind, ""), Series())
                found.add(contenders.turn(kind, clip=clip, warm=1, frames=6))
        for kind in STREAMS:
            for label, (shown, how) in settings.items():
                contenders.ready[kind].ask("configure", **how)
                frames = FRAMES - 1 if shown is clip else 6
                found = series.setdefault((kind, label), Series())
                found.add(contenders.turn(kind, clip=shown, warm=1 if shown is clip else 2, frames=frames))
        rounds += 1
    notes = contenders.notes
    return {
        "model": job.name,
        "size": list(job.size),
        "rounds": rounds,
        "dense": {k: statistics.median(series[k, ""].times) for k in DENSE if (k, "") in series},
        "streams": {
            kind: {
                label: {
                    "ms": statistics.median(series[kind, label].times),
                    "work": statistics.mean(series[kind, label].needed),
                }
                for label in settings
            }
            for kind in STREAMS
        },
        "state_bytes": {kind: notes[kind]["state_bytes"] for kind in STREAMS},
        "kernels": notes[STREAM_INT8]["kernels"],
        "errors": _errors(contenders, clip, settings),
    }


def _errors(
    contenders: Contenders,
    clip: dict[str, Any],
    settings: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
) -> dict[str, float]:
    """Mean relative errors over the first frames of the clip, against eager PyTorch."""
    count = 13

    def outputs(kind: str) -> list[list[Any]]:
        arrays = contenders.outputs(kind, clip, count)
        return [[a for n, a in arrays.items() if n.startswith(f"frame{i}_")] for i in range(count)]

    expected = outputs(EAGER)
    found = {k: mean_error(outputs(k), expected) for k in DENSE if k in contenders.ready}
    for kind in STREAMS:
        for label in (ALL, *(f"{t:g}" for t in THRESHOLDS)):
            contenders.ready[kind].ask("configure", **settings[label][1])
            found[f"{kind} {label}"] = mean_error(outputs(kind), expected)
    return found


def note(text: str) -> None:
    """Say what happens."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- tables


def render(document: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the page by name."""
    rows = document["sections"].get("int8", {})
    found = {"speed": _speed(rows), "errors": _errors_table(rows), "command": _command(document)}
    halves = {k: row for k, row in rows.items() if STREAM_BF16 in row.get("streams", {})}
    return found | ({"bf16": _bf16_table(halves)} if halves else {})


def _speed(rows: Mapping[str, Any]) -> str:
    head = (
        "clip, network", "OpenVINO f32 / bf16 / **int8**, ms", "every pixel changes: f32, int8 stream",
        "still: int8 stream", "τ = 0.05: f32, int8 stream", "τ = 0.1: f32, int8 stream", "state, int8 / f32",
    )  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    for key, row in rows.items():
        if "failed" in row:
            lines.append(_line([key, row["failed"], *[""] * (len(head) - 2)]))
            continue
        dense, base = row["dense"], row["dense"][OPENVINO_INT8]
        size = row["state_bytes"]

        def both(label: str, row: Mapping[str, Any] = row, base: float = base) -> str:
            kinds = (STREAM, STREAM_INT8)
            return ", ".join(_one(row["streams"][kind][label], base, label) for kind in kinds)

        still = row["streams"][STREAM_INT8][STILL]["ms"]
        lines.append(
            _line(
                [
                    f"{key}, {row['size'][0]}×{row['size'][1]}",
                    " / ".join(_ms(dense[k]) if k in dense else "–" for k in DENSE),
                    both(ALL),
                    f"{100 * still / base:.1f} %",
                    *(both(f"{t:g}") for t in THRESHOLDS),
                    f"{size[STREAM_INT8] / size[STREAM]:.2f}",
                ]
            )
        )
    return "\n".join(lines)


def _bf16_table(rows: Mapping[str, Any]) -> str:
    labels = [f"{t:g}" for t in THRESHOLDS]
    head = (
        "clip, network", "OpenVINO bf16, ms", "every pixel changes", "still", "τ = 0.05", "τ = 0.1",
        "state, bf16 / f32", "error: OpenVINO bf16; stream, τ = 0 / 0.05 / 0.1",
    )  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    for key, row in rows.items():
        if OPENVINO_BF16 not in row["dense"]:
            continue
        base, found, errors = row["dense"][OPENVINO_BF16], row["streams"][STREAM_BF16], row["errors"]
        own = " / ".join(f"{errors[f'{STREAM_BF16} {label}']:.3f}" for label in (ALL, *labels))
        lines.append(
            _line(
                [
                    f"{key}, {row['size'][0]}×{row['size'][1]}",
                    _ms(base),
                    _one(found[ALL], base, ALL),
                    f"{100 * found[STILL]['ms'] / base:.1f} %",
                    *(_one(found[label], base, label) for label in labels),
                    f"{row['state_bytes'][STREAM_BF16] / row['state_bytes'][STREAM]:.2f}",
                    f"{errors[OPENVINO_BF16]:.3f}; {own}",
                ]
            )
        )
    return "\n".join(lines)


def _one(found: Mapping[str, float], base: float, label: str) -> str:
    work = "" if label == ALL else f" at {100 * found['work']:.0f} %"
    return f"{_ms(found['ms'])} ({base / found['ms']:.2f}×{work})"


def _errors_table(rows: Mapping[str, Any]) -> str:
    head = ("clip, network", "OpenVINO bf16", "OpenVINO int8", "int8 stream, τ = 0 / 0.05 / 0.1",
            "f32 stream, τ = 0.05 / 0.1")  # fmt: skip
    lines = [_line(head), _line(["---"] * len(head))]
    labels = [f"{t:g}" for t in THRESHOLDS]
    for key, row in rows.items():
        if "failed" in row:
            continue
        found = row["errors"]
        lines.append(
            _line(
                [
                    key,
                    f"{found[OPENVINO_BF16]:.3f}" if OPENVINO_BF16 in found else "–",
                    f"{found[OPENVINO_INT8]:.3f}",
                    " / ".join(f"{found[f'{STREAM_INT8} {label}']:.3f}" for label in (ALL, *labels)),
                    " / ".join(f"{found[f'{STREAM} {label}']:.3f}" for label in labels),
                ]
            )
        )
    return "\n".join(lines)


def _command(document: Mapping[str, Any]) -> str:
    return "\n".join(run_line(run) for run in document["runs"][-1:])


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with campus.avi, plaza.avi, *.pt2")
    parser.add_argument("--models", nargs="*", help="names; all if left out")
    parser.add_argument("--clips", nargs="*", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--rounds", type=int, default=5, help="rounds over all contenders, at least")
    parser.add_argument("--seconds", type=float, default=25.0, help="of further rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--part", default="int8", help="name of the result file and of the page's part")
    parser.add_argument("--json", type=Path, help="the result file, if it lies elsewhere")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "cpu.md")
    parser.add_argument("--again", action="store_true", help="measure what is known already, too")
    parser.add_argument("--render", action="store_true", help="write the tables only")
    options = parser.parse_args()
    results = options.json or ROOT / "benchmarks" / "results" / f"{options.part}.json"
    store, bad = Store(results, options.again), 0
    if not options.render:
        command = f"python benchmarks/int8.py --data FOLDER --threads {options.threads}"
        command += f" --part {options.part}" if options.part != "int8" else ""
        store.started(command, describe(options.threads), {"rounds": options.rounds})
        for name in options.clips:
            for model in models(options.data):
                key = f"{name}, {model.name}"
                if (options.models and model.name not in options.models) or store.known("int8", key):
                    continue
                note(key)
                try:
                    row = measure(model, name, options)
                except VideoEffError as error:
                    row, bad = {"failed": str(error)}, bad + 1
                    note(f"{key}: {error}")
                store.put("int8", key, row)
    page = options.page.read_text(encoding="utf-8")
    write_text(options.page, fill(page, options.part, render(store.document)))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
