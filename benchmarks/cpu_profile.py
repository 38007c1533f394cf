"""Where the time of a streaming frame goes: the slowest ops by the plan's own clock, and what is outside.

    python benchmarks/cpu_profile.py resnet50 --size 720x1280 --share 0.05 --threads 2
    python benchmarks/cpu_profile.py resnet50 --clip campus --threshold 0.2

Per op: its time, its share of the frame, the pixels it computed, and its rate of multiply-accumulates.
*outside the plan* is the rest of a call: checks, the copy of the outputs, regions that run elsewhere.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import videoeff
from benchmarks import suite
from videoeff.bench.clip_frames import write_frames
from videoeff.bench.clips import BlobClip
from videoeff.bench.measure import job_of
from videoeff.bench.network import load
from videoeff.bench.spec import CLIP_INPUT, Settings

ROOT = Path(__file__).resolve().parents[1]


def native_times(stream: Any, reset: bool) -> dict[str, int]:
    """Nanoseconds of every op since the last reset, by layer."""
    found: dict[str, int] = {}
    for engine in stream.engines.values():
        for step in engine.plan.groups:
            found |= step.times(reset)
    return found


def pictures(task: suite.Task, size: tuple[int, int], options: argparse.Namespace) -> Iterable[Any]:
    """Three untimed pictures and the timed ones, (3, H, W)."""
    count = options.frames + 3
    if not options.clip:
        return itertools.islice(BlobClip(size, options.share), count)
    clip, first = options.data / f"{options.clip}.avi", suite.CLIPS[options.clip][1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frames.npy"
        write_frames(clip, path, task.model.prepare(size), first, count)
        return list(np.load(path))


def main() -> None:
    """Profile one setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=[m.name for m in suite.MODELS])
    parser.add_argument("--size", default="360x480", metavar="HxW")
    parser.add_argument("--share", type=float, default=0.05, help="of the pixels that changes")
    parser.add_argument("--clip", choices=list(suite.CLIPS), help="a real clip instead, of its own size")
    parser.add_argument("--threshold", type=float, default=0.1, help="of the real clip")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--top", type=int, default=25)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.clip:
        size = suite.CLIPS[options.clip][0]
    else:
        height, _, width = options.size.partition("x")
        size = (int(height), int(width))
    choice = suite.Choice((options.model,), (size,), ("synthetic",), options.data)
    (task,) = suite.tasks(choice)
    job = job_of(task.model, task.size, Settings(threads=options.threads), options.cache)
    example = torch.rand(1, 3, *job.size).contiguous(memory_format=torch.channels_last)
    changes = {"threshold": options.threshold, **CLIP_INPUT} if options.clip else {}
    stream = videoeff.convert(load(job), example, name=job.name, **changes)
    frames = [
        torch.from_numpy(f[None]).contiguous(memory_format=torch.channels_last)
        for f in pictures(task, job.size, options)
    ]
    for frame in frames[:3]:
        stream(frame)
    stream.clear_report()
    native_times(stream, reset=True)
    times = []
    for frame in frames[3:]:
        begin = time.perf_counter_ns()
        stream(frame)
        times.append(time.perf_counter_ns() - begin)
    spent = {k: v / len(times) for k, v in native_times(stream, reset=False).items()}
    total = statistics.mean(times)
    layers = {layer.name: layer for layer in stream.report().layers}
    print(f"{'us':>10} {'share':>7} {'active':>8} {'GMAC/s':>8}  op")
    for name in sorted(spent, key=lambda n: -spent[n])[: options.top]:
        layer = layers.get(name)
        active = f"{100 * layer.active_share:7.1f}%" if layer and layer.active_share is not None else ""
        rate = (
            f"{layer.macs_needed / spent[name]:8.1f}" if layer and layer.macs_needed and spent[name] else ""
        )
        print(f"{spent[name] / 1e3:10.1f} {100 * spent[name] / total:6.1f}% {active:>8} {rate:>8}  {name}")
    inside = sum(spent.values())
    macs = stream.report().macs
    print(
        f"{len(spent)} ops {inside / 1e6:.3f} ms, outside the plan {(total - inside) / 1e6:.3f} ms, ", end=""
    )
    print(f"a frame {total / 1e6:.3f} ms (median {statistics.median(times) / 1e6:.3f})")
    print(
        f"{macs['dense'] / 1e9:.3f} GMACs dense, E/D {macs['needed'] / macs['dense']:.3f}, "
        f"A/D {macs['scheduled'] / macs['dense']:.3f}"
    )


if __name__ == "__main__":
    main()
