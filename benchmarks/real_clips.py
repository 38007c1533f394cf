"""Fidelity and work of streaming on real clips: FastestDet against thresholds, with its two controls.

    python benchmarks/real_clips.py --data ../shared/data --out benchmarks/results/real_clips.json

The folder must hold ``fastestdet.pt2`` (a detector of 80 classes), ``campus.avi`` (a clean fixed camera) and
``plaza.avi`` (a noisy one). Reported per clip and setting, frames after the first of the stretch:

- MACs needed over dense MACs,
- relative error: ||stream - dense|| / ||dense|| over the cells where the dense network detects, and over all,
- agreement: F1 of the detections (score > 0.4, same class, IoU > 0.5) with the dense network's own.

An agreement means something only beside the two controls: the network against itself on a slightly disturbed
frame (its noise floor), and frame skipping, which holds the last full result for n frames at 1/n of the work.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import batched_nms, box_iou

import videoeff
from videoeff.calibration.controls import noisy, skip_label
from videoeff.serialize.files import write_text
from videoeff.video.preprocess import Preprocess
from videoeff.video.source import open_clip

CLIPS = {"campus": (352, 480), "plaza": (704, 1280)}
THRESHOLDS = (0.05, 0.1, 0.2)
PREDICTIONS = (0.0, 1.0, 1.5)


class InputTest(TypedDict):
    """What ``convert`` is told of the test of a frame."""

    input_threshold: float
    block: int
    dilation: int


INPUT: InputTest = {
    "input_threshold": 0.0625,
    "block": 8,
    "dilation": 1,
}  # about 4 grey levels on these clips
Boxes = tuple[Tensor, Tensor]


def detections(output: Tensor, threshold: float = 0.4) -> Boxes:
    """Boxes (N, 4) as fractions of the image, and classes (N,), of FastestDet's output (1, 85, h, w)."""
    grid = output[0]
    height, width = grid.shape[1:]
    best, label = grid[5:].max(0)
    score = grid[0].clamp(min=0) ** 0.6 * best**0.4
    y, x = torch.nonzero(score > threshold, as_tuple=True)
    cell = grid[:, y, x]
    cx, cy = (cell[1].tanh() + x) / width, (cell[2].tanh() + y) / height
    w, h = cell[3].sigmoid(), cell[4].sigmoid()
    boxes = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1)
    keep = batched_nms(boxes, score[y, x], label[y, x], 0.45)
    return boxes[keep], label[y, x][keep]


def matches(found: Boxes, truth: Boxes) -> int:
    """How many of two sets of boxes pair up, each once."""
    if not len(found[0]) or not len(truth[0]):
        return 0
    overlap = box_iou(found[0], truth[0])
    overlap[found[1][:, None] != truth[1][None]] = 0
    pairs = 0
    while overlap.numel() and float(overlap.max()) > 0.5:
        i, j = divmod(int(overlap.argmax()), overlap.shape[1])
        overlap[i], overlap[:, j] = 0, 0
        pairs += 1
    return pairs


def f1(found: Sequence[Boxes], truth: Sequence[Boxes]) -> float:
    """F1 over all frames."""
    hit = sum(matches(a, b) for a, b in zip(found, truth, strict=True))
    total = sum(len(a[0]) for a in found) + sum(len(b[0]) for b in truth)
    return 2 * hit / total if total else 1.0


def compare(outputs: Sequence[Tensor], dense: Sequence[Tensor]) -> dict[str, float]:
    """Relative errors and agreement, the first frame left out."""
    everywhere, detected = [], []
    for a, b in list(zip(outputs, dense, strict=True))[1:]:
        everywhere.append(float((a - b).norm() / b.norm()))
        score = b[0, 0].clamp(min=0) ** 0.6 * b[0, 5:].amax(0) ** 0.4
        cells = score > 0.4
        if bool(cells.any()):
            detected.append(float((a - b)[0, :, cells].norm() / b[0, :, cells].norm()))
    pairs = f1([detections(o) for o in outputs[1:]], [detections(o) for o in dense[1:]])
    return {
        "relative_error": statistics.mean(everywhere),
        "relative_error_at_detections": statistics.mean(detected) if detected else 0.0,
        "f1": pairs,
        "max_abs": max(float((a - b).abs().max()) for a, b in zip(outputs, dense, strict=True)),
    }


def jpeg(frame: np.ndarray[Any, Any], quality: int) -> np.ndarray[Any, Any]:
    """A frame through JPEG and back."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def controls(
    frames: Sequence[np.ndarray[Any, Any]], dense: Sequence[Tensor], run: Callable[[Any], Tensor]
) -> dict[str, dict[str, float]]:
    """The noise floor and frame skipping."""
    generator = np.random.default_rng(0)
    found = {}
    for sigma in (1.0, 2.0):
        outputs = [run(noisy(f, sigma, generator)) for f in frames]
        found[f"noise sigma {sigma:g}"] = compare(outputs, dense)
    found["JPEG quality 95"] = compare([run(jpeg(f, 95)) for f in frames], dense)
    for step in (2, 3, 4, 6, 8):
        found[skip_label(step)] = compare([dense[i - i % step] for i in range(len(dense))], dense)
    return found


def measure(data: Path, clip: str, first: int, count: int, note: Callable[[str], None]) -> dict[str, Any]:
    """All settings on one clip."""
    exported = torch.export.load(str(data / "fastestdet.pt2"))
    preprocess = Preprocess(size=CLIPS[clip], bgr=True)
    frames = list(open_clip(data / f"{clip}.avi", frames=first + count))[first:]
    example = preprocess(frames[0])
    model = exported.module()
    with torch.no_grad():
        dense = [model(preprocess(f)) for f in frames]
    dense_ms = []
    with torch.no_grad():
        for frame in frames[:5]:
            start = time.perf_counter()
            model(preprocess(frame))
            dense_ms.append(1e3 * (time.perf_counter() - start))

    def run(frame: Any) -> Tensor:
        with torch.no_grad():
            result: Tensor = model(preprocess(frame))
        return result

    rows = []
    settings: list[dict[str, float]] = [{"threshold": 0.0, "predict": 0.0}]
    settings += [{"threshold": t, "predict": p} for t in THRESHOLDS for p in PREDICTIONS]
    for setting in settings:
        options: dict[str, Any] = {**INPUT} if setting["threshold"] else {}
        stream = videoeff.convert(exported, example, **setting, **options)  # type: ignore[arg-type]
        outputs, times = [], []
        for frame in frames:
            tensor = preprocess(frame)
            start = time.perf_counter()
            outputs.append(stream(tensor))
            times.append(1e3 * (time.perf_counter() - start))
        macs = stream.report().macs
        row = {**setting, "macs_needed_share": macs["needed"] / macs["dense"], **compare(outputs, dense)}
        row["ms_stream_median"] = statistics.median(times[1:])
        largest = max(float(d.abs().max()) for d in dense)
        row["max_abs_over_largest_output"] = row["max_abs"] / largest
        rows.append(row)
        note(f"{clip} τ={setting['threshold']:g} π={setting['predict']:g}: {row}")
    return {
        "clip": clip,
        "size": list(CLIPS[clip]),
        "frames": [first, first + count - 1],
        "macs_dense": macs["dense"],
        "state_bytes": stream.report().state_bytes,
        "ms_dense_eager_median": statistics.median(dense_ms),
        "settings": rows,
        "controls": controls(frames, dense, run),
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = []
    for result in results:
        height, width = result["size"]
        lines += [
            f"### {result['clip']}, {height}×{width}, frames {result['frames'][0]} to {result['frames'][1]}",
            "",
            "| setting | MACs needed | relative error at detections | over all cells | F1 with dense |",
            "|---|---|---|---|---|",
        ]
        for row in result["settings"]:
            name = f"τ = {row['threshold']:g}" + (f", π = {row['predict']:g}" if row["predict"] else "")
            lines.append(_line(name, row, f"{row['macs_needed_share']:.3f}"))
        for name, row in result["controls"].items():
            work = "" if "frame" not in name else f"{1 / int(name.split()[1][:-2]):.3f}"
            lines.append(_line(name, row, work))
        lines.append("")
    return "\n".join(lines)


def _line(name: str, row: dict[str, float], work: str) -> str:
    return (
        f"| {name} | {work} | {row['relative_error_at_detections']:.3g} | {row['relative_error']:.3g} "
        f"| {row['f1']:.3f} |"
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--first", type=int, default=10)
    parser.add_argument("--frames", type=int, default=40)
    arguments = parser.parse_args()
    results = []
    for clip in arguments.clips:
        results.append(
            measure(
                arguments.data, clip, arguments.first, arguments.frames, lambda t: print(t, file=sys.stderr)
            )
        )
    print(table(results))
    if arguments.out:
        document = {
            "command": "benchmarks/real_clips.py",
            "versions": {"videoeff": videoeff.__version__, "torch": torch.__version__},
            "threads": torch.get_num_threads(),
            "input_test": INPUT,
            "clips": results,
        }
        write_text(arguments.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
