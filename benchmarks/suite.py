"""The project's own set of models, sizes and clips, run under one budget of time and resumed at will."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.store import Store
from videoeff.bench import measure
from videoeff.bench.clip_frames import write_frames
from videoeff.bench.contenders import Note
from videoeff.bench.spec import Model, Settings
from videoeff.errors import VideoEffError

DETECTOR = "fastestdet"
#: torchvision's and timm's with random weights, FastestDet trained.
MODELS = (
    Model("torchvision:mobilenet_v2"),
    Model("torchvision:mobilenet_v3_large"),
    Model("torchvision:resnet18"),
    Model("torchvision:resnet50"),
    Model("torchvision:efficientnet_b0"),
    Model("torchvision:lraspp_mobilenet_v3_large"),
    Model("torchvision:fasterrcnn_mobilenet_v3_large_fpn"),
    Model("timm:hrnet_w18", multiple=32),
    Model("torchvision:deeplabv3_resnet50"),
    Model("fastestdet.pt2", title=DETECTOR, multiple=32, bgr=True, trained=True),
)
SIZES = ((360, 480), (720, 1280))
#: Real clips: the size of their frames, and the first frame looked at.
CLIPS = {"campus": ((360, 480), 10), "plaza": ((720, 1280), 10)}
CLIP_MODELS = (DETECTOR, "hrnet_w18", "resnet50")
FIXED_MODELS = ("mobilenet_v2", "resnet50", "hrnet_w18")
FIXED_SIZE = (96, 128)

PARTS = ("synthetic", "clips", "fixed")


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        section: of the results.
        key: of the row.
        model: what is measured.
        size: asked for.
        clip: of a real clip, its name.
    """

    section: str
    key: str
    model: Model
    size: tuple[int, int]
    clip: str = ""


@dataclass(frozen=True)
class Choice:
    """What of the set is wanted.

    Attributes:
        models: names; empty for all.
        sizes: (height, width).
        parts: sections.
        data: folder with the clips and the trained detector, None where there is none.
        clip_frames: frames of a real clip, the first included.
    """

    models: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = SIZES
    parts: tuple[str, ...] = PARTS
    data: Path | None = None
    clip_frames: int = 24


def tasks(choice: Choice) -> Iterator[Task]:
    """All wanted measurements, the quick ones first."""
    models = {m.name: m for m in MODELS if not choice.models or m.name in choice.models}
    if choice.data is not None and DETECTOR in models:
        path = choice.data / models[DETECTOR].reference
        models[DETECTOR] = dataclasses.replace(models[DETECTOR], reference=str(path))
    else:
        models.pop(DETECTOR, None)
    if "fixed" in choice.parts:
        for name in FIXED_MODELS:
            if name in models:
                yield Task("fixed", name, models[name], FIXED_SIZE)
    for size in sorted(choice.sizes):
        if "synthetic" in choice.parts:
            for model in models.values():
                yield Task("synthetic", _key(model, size), model, size)
        if "clips" in choice.parts and choice.data is not None:
            for clip, (clip_size, _) in CLIPS.items():
                for name in CLIP_MODELS:
                    if name in models and clip_size == size:
                        yield Task("clips", f"{clip}/{name}", models[name], size, clip)


def _key(model: Model, size: Sequence[int]) -> str:
    height, width = model.fit(size)
    return f"{model.name}/{height}x{width}"


def run(
    wanted: Sequence[Task],
    choice: Choice,
    settings: Settings,
    store: Store,
    run_number: int,
    cache: Path,
    budget: float,
    note: Note,
    only_prepare: bool = False,
) -> int:
    """Measure what is not known yet, until the budget is spent.

    Args:
        wanted: the measurements.
        choice: what they were chosen by.
        settings: of each; the budget of each is its share of what is left.
        store: where results are looked up and kept.
        run_number: of this run in the store.
        cache: folder for weights, exports and compiled code.
        budget: seconds in all.
        note: told what happens.
        only_prepare: fill the cache and time nothing.

    Returns:
        How many measurements failed or were left out.
    """
    deadline = time.monotonic() + budget
    if only_prepare:  # what the others need is among it
        left = [t for t in wanted if t.section == "synthetic"]
    else:
        left = [t for t in wanted if not store.known(t.section, t.key)]
    overhead, bad = [25.0], 0
    for number, task in enumerate(left):
        remaining = deadline - time.monotonic()
        if remaining < 10:
            note(f"the budget is spent; left out: {', '.join(t.key for t in left[number:])}")
            return bad + len(left) - number
        share = remaining / (len(left) - number)
        own = dataclasses.replace(settings, budget=max(6.0, share - sum(overhead) / len(overhead)))
        begin = time.monotonic()
        row = _one(task, choice, own, cache, note, only_prepare)
        seconds = time.monotonic() - begin
        if "failed" in row:
            bad += 1
        if only_prepare:
            note(f"{number + 1}/{len(left)} {task.section} {task.key}: prepared in {seconds:.0f} s")
            continue
        overhead.append(max(0.0, seconds - row.get("timing_seconds", 0.0)))
        store.put(task.section, task.key, row | {"run": run_number, "seconds": round(seconds, 1)})
        said = row.get("failed") or brief(row)
        note(f"{number + 1}/{len(left)} {task.section} {task.key}: {said}, {seconds:.0f} s")
    return bad


def _one(
    task: Task, choice: Choice, settings: Settings, cache: Path, note: Note, only_prepare: bool
) -> dict[str, Any]:
    try:
        if only_prepare:
            return {"cannot": measure.prepare(task.model, task.size, settings, cache, note)}
        if task.section == "fixed":
            return measure.fixed_cost(task.model, task.size, settings, cache, note)
        if task.section == "synthetic":
            return measure.synthetic(task.model, task.size, settings, cache, note)
        return _clip(task, choice, settings, cache, note)
    except VideoEffError as error:
        return {"model": task.model.name, "failed": str(error)}


def _clip(task: Task, choice: Choice, settings: Settings, cache: Path, note: Note) -> dict[str, Any]:
    assert choice.data is not None  # or there were no such task
    first = CLIPS[task.clip][1]
    with tempfile.TemporaryDirectory(prefix="videoeff-bench-") as folder:
        frames = Path(folder) / "frames.npy"
        source = choice.data / f"{task.clip}.avi"
        model = task.model
        count = write_frames(source, frames, model.prepare(task.size), first, choice.clip_frames, note)
        row = measure.real(model, frames, count, settings, cache, task.size, note)
    return row | {"clip": task.clip, "frames": [first, first + count - 1]}


def brief(row: dict[str, Any]) -> str:
    """A result in a line."""
    if "us_per_op" in row:
        return f"{row['us_per_op']:.2f} µs an op"
    parts = [f"{r['label']}: {r['speedup']:.2f}x" for r in row["stream"] if "speedup" in r]
    dropped = [k for k, v in row["dense"].items() if "failed" in v]
    without = f"; without {', '.join(dropped)}" if dropped else ""
    return f"speed-up {', '.join(parts)}; {row['rounds']} round(s){without}"
