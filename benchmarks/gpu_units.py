"""What lists of tiles cost on real clips: work scheduled and entries listed, by the edge U of a tile.

    python benchmarks/gpu_units.py --data ../shared/data --out benchmarks/results/gpu_units.json

A CUDA stream lists squares of U x U pixels and computes them whole. This needs no GPU: a stream on the CPU
tells which pixels each layer computes, and these are covered with squares. 1 is a list of pixels, 8 a list of
tiles; "shipped" takes each layer's U from the shipped table. Reported are

- A/E: multiply-accumulates of the covered pixels over those of the pixels themselves,
- entries: squares listed in a frame, all layers together, over those of U = 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videoeff
from benchmarks.real_clips import CLIPS, INPUT
from videoeff.bench.clip_frames import write_frames
from videoeff.bench.network import network, settle
from videoeff.bench.tables import markdown
from videoeff.kernels.call import RegionCall
from videoeff.kernels.triton.configs import Device, tile_of
from videoeff.serialize.files import write_text
from videoeff.video.preprocess import Preprocess

MODELS = ("torchvision:resnet50", "timm:hrnet_w18", "detector")
EDGES = (1, 2, 4, 8)
SHIPPED = "shipped"


def covered(mask: Tensor, edge: int) -> tuple[int, int]:
    """Pixels of the squares that hold any pixel of a mask (R, H, W), and how many squares those are."""
    rows, height, width = mask.shape
    padded = F.pad(mask, (0, -width % edge, 0, -height % edge))
    squares = padded.view(rows, padded.shape[1] // edge, edge, padded.shape[2] // edge, edge).any(4).any(2)
    spread = squares.repeat_interleave(edge, 1).repeat_interleave(edge, 2)[:, :height, :width]
    return int(spread.sum()), int(squares.sum())


def frame_of(calls: Mapping[str, RegionCall], active: Mapping[str, Tensor]) -> dict[str, tuple[float, int]]:
    """MACs and entries of one frame by the edge of a tile."""
    totals: dict[str, tuple[float, int]] = {}
    for name, call in calls.items():
        rows, height, width = call.extent
        if call.kind == "input" or height * width == 1:
            continue
        each = call.macs / (rows * height * width)
        edges = {str(e): e for e in EDGES} | {SHIPPED: tile_of(call.extent, Device("", "sm_90"))}
        for label, edge in edges.items():
            pixels, entries = covered(active[name], edge)
            macs, listed = totals.get(label, (0.0, 0))
            totals[label] = (macs + each * pixels, listed + entries)
    return totals


def model_of(reference: str, data: Path, size: tuple[int, int]) -> nn.Module | torch.export.ExportedProgram:
    """A network with random weights and settled batch norms, or the detector."""
    if reference == "detector":
        return torch.export.load(data / "fastestdet.pt2")
    torch.manual_seed(0)
    made = network(reference)
    settle(made, size, 0)
    return made


def measure(
    reference: str, data: Path, clip: str, threshold: float, first: int, frames: int
) -> dict[str, Any]:
    """One network on one clip: medians over the frames in which anything is computed."""
    size = CLIPS[clip]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        prepare = Preprocess(size, bgr=reference == "detector")
        write_frames(data / f"{clip}.avi", path, prepare, first, frames)
        pictures = np.load(path)
    model = model_of(reference, data, size)
    stream = videoeff.convert(model, torch.from_numpy(pictures[:1]), threshold=threshold, **INPUT)
    calls = {i.call.name: i.call for e in stream.engines.values() for i in e.plan.instructions}
    seen_frames: list[dict[str, tuple[float, int]]] = []
    with torch.no_grad():
        stream(torch.from_numpy(pictures[:1]))
        for number in range(1, len(pictures)):
            with stream.observe() as seen:
                stream(torch.from_numpy(pictures[number : number + 1]))
            seen_frames.append(frame_of(calls, seen.active))
    dense = sum(c.macs for c in calls.values())
    worked = [f for f in seen_frames if f["1"][0] > 0]
    return {
        "needed_share": statistics.median(f["1"][0] / dense for f in worked),
        "amplification": {
            label: statistics.median(f[label][0] / f["1"][0] for f in worked) for label in worked[0]
        },
        "entries": {label: statistics.median(f[label][1] for f in worked) for label in worked[0]},
        "frames": len(worked),
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """As Markdown."""
    labels = [*map(str, EDGES), SHIPPED]
    head = ["network, clip", "E/D", *(f"A/E, U = {x}" for x in labels)]
    head += ["entries, U = 1", f"entries, {SHIPPED}"]
    lines = []
    for name, row in rows.items():
        shares = [f"{row['amplification'][x]:.2f}" for x in labels]
        entries = [f"{row['entries'][x]:.0f}" for x in ("1", SHIPPED)]
        lines.append([name, f"{100 * row['needed_share']:.1f} %", *shares, *entries])
    return markdown(head, lines)


def main(given: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the clips and the detector")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--threshold", type=float, default=0.05)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--frames", type=int, default=12)
    options = parser.parse_args(given)
    settings = {"threshold": options.threshold, "first": options.first, "frames": options.frames, **INPUT}
    rows = {}
    for reference in options.models:
        for clip in options.clips:
            name = f"{reference.rpartition(':')[2]}, {clip}"
            rows[name] = measure(
                reference, options.data, clip, options.threshold, options.first, options.frames
            )
            print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
            write_text(options.out, json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
