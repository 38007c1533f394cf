"""Convert every torchvision model, stream 20 frames with a moving object at threshold 0, and write the table.

    python benchmarks/coverage.py --out docs/coverage.md --json benchmarks/results/coverage.json

Each model runs in a process of its own; results are kept in the JSON file as they come, and a second
call goes on where the first one stopped (``--again`` starts afresh). Weights are random; batch-norm
statistics are set by a few frames so that activations stay sane. Inputs are small, since coverage and
exactness do not depend on size: 96x96 where a model takes it, its own size where it does not, detectors
with their internal resize on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from videoeff.serialize.files import write_text

DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 20},
    "maskrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 5},
    "keypointrcnn": {"min_size": 160, "max_size": 256, "box_score_thresh": 0.0, "box_detections_per_img": 5},
    "retinanet": {"min_size": 160, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20},
    "fcos": {"min_size": 160, "max_size": 256, "score_thresh": 0.0, "detections_per_img": 20},
    "ssd300": {"score_thresh": 0.0, "detections_per_img": 20},
    "ssdlite320": {"score_thresh": 0.0, "detections_per_img": 20},
}
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}


def names() -> list[str]:
    """Every torchvision model that is not quantised."""
    from torchvision.models import list_models

    return [n for n in list_models() if not n.startswith("quantized")]


def build(name: str) -> tuple[Any, str, tuple[int, ...]]:
    """(model, kind, size): kind is image, pair, clip or list."""
    import inspect

    from torchvision.models import get_model, get_model_builder

    options: dict[str, Any] = {"weights": None}
    parameters = inspect.signature(get_model_builder(name)).parameters
    if "weights_backbone" in parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    kind, size = "image", (96, 96)
    if name.startswith("vit_"):
        options["image_size"] = size[0] if name != "vit_h_14" else 98
        size = (options["image_size"],) * 2
    elif name == "maxvit_t":
        size = (224, 224)
    elif name.startswith("raft"):
        kind, size = "pair", (128, 128)
    elif name in CLIPS or "3d" in name or name in ("mc3_18", "r2plus1d_18"):
        kind, size = "clip", CLIPS.get(name, (8, 64))
    for prefix, extra in DETECTORS.items():
        if name.startswith(prefix):
            kind, size = "list", (120, 160)
            options.update(extra)
    return get_model(name, **options).eval(), kind, size


def clip(kind: str, size: tuple[int, ...], frames: int) -> Iterator[tuple[Any, ...]]:
    """Calls of the model: a fixed textured background and a textured square that moves over it."""
    import torch

    generator = torch.Generator().manual_seed(0)
    height, width = (size[1], size[1]) if kind == "clip" else size
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    background = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    background = (background + 0.1 * torch.rand(1, 3, height, width, generator=generator)).clamp(0, 1)
    edge = max(8, height // 6)
    square = torch.rand(1, 3, edge, edge, generator=generator)

    def picture(step: float) -> torch.Tensor:
        frame = background.clone()
        y = int((0.2 + 0.02 * step) * (height - edge))
        x = int((0.1 + 0.03 * step) * (width - edge))
        frame[:, :, y : y + edge, x : x + edge] = square
        return (frame - 0.45) / 0.25 if kind != "list" else frame

    for index in range(frames):
        if kind == "pair":
            yield picture(index), picture(index + 1)
        elif kind == "clip":
            yield (torch.stack([picture(index + 0.25 * t) for t in range(size[0])], 2),)
        elif kind == "list":
            yield ([picture(index)[0]],)
        else:
            yield (picture(index),)


def settle(model: Any, kind: str, size: tuple[int, ...]) -> None:
    """Set batch-norm statistics by a few varied pictures, so that activations stay sane.

    Deep networks of random weights are chaotic with such statistics: a disturbance of 1e-6 can change the
    whole output, and then no two ways of rounding agree. Variances are widened until it does not.
    """
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    if not norms or kind == "list":
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    generator = torch.Generator().manual_seed(1)
    height, width = (size[1], size[1]) if kind == "clip" else size
    for _ in range(2):
        coarse = torch.rand(6, 3, 8, 8, generator=generator)
        image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
        image = (image + 0.1 * torch.rand(image.shape, generator=generator) - 0.45) / 0.25
        call = {"pair": (image, image.flip(0)), "clip": (image.unsqueeze(2).repeat(1, 1, size[0], 1, 1),)}
        with torch.no_grad():
            model(*call.get(kind, (image,)))
    model.eval()
    example = tuple(t[:1] for t in call.get(kind, (image,)))
    for _ in range(20):
        if amplification(model, example) < 10.0:
            return
        for norm in norms:
            assert norm.running_var is not None
            norm.running_var.mul_(1.5)


def amplification(model: Any, example: tuple[Any, ...]) -> float:
    """Relative change of the output over that of the input, for a disturbance of 1e-6."""
    import torch
    import torch.utils._pytree as pytree

    generator = torch.Generator().manual_seed(2)
    disturbed = tuple(t + 1e-6 * torch.randn(t.shape, generator=generator) for t in example)
    with torch.no_grad():
        before, after = (pytree.tree_leaves(model(*call)) for call in (example, disturbed))
    ratios = [float((a - b).abs().max() / a.abs().max()) / 1e-6 for a, b in zip(before, after, strict=True)]
    return max(ratios)


def stream_error(model: Any, stream: Any, calls: list[tuple[Any, ...]]) -> tuple[float, int]:
    """(largest error over the output's largest magnitude, numbers compared)."""
    import torch
    import torch.utils._pytree as pytree

    from videoeff.runtime.partitioned import PartitionedModel

    worst, numbers = 0.0, 0
    partitioned = stream.body if isinstance(stream.body, PartitionedModel) else None
    paths = [] if partitioned is None else list(partitioned.call_sites)
    dense_parts = watch(model, paths)
    stream_parts = watch(model if partitioned is None else partitioned.model, paths)
    for call in calls:
        with torch.no_grad():
            expected = pytree.tree_leaves(model(*pytree.tree_map(lambda t: t.clone(), call)))
        found = pytree.tree_leaves(stream(*call))
        if partitioned is not None:
            # What follows the parts sorts and thresholds: among the near ties of random weights, rounding
            # decides. So the parts' own outputs are compared.
            expected, found = take(dense_parts), take(stream_parts)
        for a, b in zip(expected, found, strict=True):
            if a.shape != b.shape:
                worst = float("inf")
            elif a.numel():
                scale = max(float(a.abs().max()), 1e-12)
                worst = max(worst, float((a - b).abs().max()) / scale)
                numbers += a.numel()
    return worst, numbers


def one(name: str, frames: int) -> dict[str, Any]:
    """Convert and stream one model."""
    import torch
    import torch.utils._pytree as pytree

    import videoeff
    from videoeff.analysis import is_convolution

    torch.manual_seed(0)
    model, kind, size = build(name)
    calls = list(clip(kind, size, frames))
    settle(model, kind, size)
    start = time.perf_counter()
    stream = videoeff.convert(model, calls[0])
    seconds = time.perf_counter() - start
    worst, numbers = stream_error(model, stream, calls)
    report = stream.report()
    macs = report.macs
    convolutions = sum(is_convolution(n) for p in stream.programs.values() for n in p.nodes)
    double = None
    if worst > 1e-4:  # an ill-conditioned network, or a mistake? double precision tells
        model = model.double()
        calls = [pytree.tree_map(lambda t: t.double(), call) for call in calls[:6]]
        double, _ = stream_error(model, videoeff.convert(model, calls[0]), calls)
    return {
        "model": name,
        "input": f"{kind} {'x'.join(str(s) for s in size)}",
        "parts": [n for n in stream.engines if n],
        "convolutions": convolutions,
        "streamed": report.convolutions_streamed,
        "error": worst,
        "error_float64": double,
        "numbers_compared": numbers,
        "macs_dense": macs["dense"],
        "macs_needed_share": macs["needed"] / macs["dense"] if macs["dense"] else 0.0,
        "state_bytes": report.state_bytes,
        "convert_seconds": round(seconds, 2),
    }


def watch(model: Any, paths: list[str]) -> list[Any]:
    """A list that collects what the submodules at some paths return, call by call."""
    import torch.utils._pytree as pytree

    collected: list[Any] = []
    for path in paths:
        module = model.get_submodule(path)
        module.register_forward_hook(lambda _m, _i, out: collected.extend(pytree.tree_leaves(out)))
    return collected


def take(collected: list[Any]) -> list[Any]:
    """Empty such a list."""
    values = list(collected)
    collected.clear()
    return values


def table(rows: list[dict[str, Any]], frames: int, versions: str) -> str:
    """The committed page."""
    exact = sum(r.get("error", 1.0) <= 1e-4 for r in rows)
    double = [r for r in rows if r.get("error", 0.0) > 1e-4 and (r.get("error_float64") or 1.0) <= 1e-9]
    whole = sum(r.get("streamed", 0.0) >= 0.9999 for r in rows)
    lines = [
        "# Coverage",
        "",
        f"Every torchvision model, converted and streamed over {frames} frames with a moving object at",
        f"threshold 0, by `make coverage` ({versions}). Of {len(rows)} models, {exact} stay within 1e-4 of",
        f"their outputs' largest magnitude, and in {whole} every convolution's pixels are followed.",
        *(
            [
                f"{len(double)} more are so ill-conditioned with random weights that float32 rounding alone",
                "shows; they stay within 1e-9 in float64, whose error stands in brackets.",
            ]
            if double
            else []
        ),
        "",
        "*streams*: share of the convolutions' multiply-accumulates whose pixels are followed. *error*: the",
        "largest difference over all frames and outputs, over the output's largest magnitude. *needed*: the",
        "share of multiply-accumulates that had to be recomputed, on this clip, in frames after the first;",
        "small inputs make it large, it says nothing about real video. *parts*: what was captured where the",
        "whole model cannot be exported; the error is then that of the parts' outputs, since what follows",
        "them sorts near ties of random weights.",
        "",
        "| model | input | convolutions | streams | error | needed | state, MB | convert, s | parts |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: str(r["model"])):
        if "failed" in row:
            lines.append(f"| {row['model']} | | | failed: {row['failed'][:160]} | | | | | |")
            continue
        bracket = f" ({row['error_float64']:.1e})" if row.get("error_float64") is not None else ""
        lines.append(
            f"| {row['model']} | {row['input']} | {row['convolutions']} | {100 * row['streamed']:.1f} % "
            f"| {row['error']:.1e}{bracket} | {100 * row['macs_needed_share']:.0f} % "
            f"| {row['state_bytes'] / 1e6:.1f} | {row['convert_seconds']:.1f} | {', '.join(row['parts'])} |"
        )
    return "\n".join(lines) + "\n"


def lawful(row: dict[str, Any]) -> bool:
    """Law 1: 1e-4 in float32, or 1e-9 in float64 where float32 rounding alone is larger."""
    double = row.get("error_float64")
    return bool(row["error"] <= 1e-4 or (double is not None and double <= 1e-9))


def run_all(arguments: argparse.Namespace, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """Each model in its own process; what is known already is not run again."""
    path: Path = arguments.json
    known: dict[str, dict[str, Any]] = {}
    if path.is_file() and not arguments.again:
        known = {r["model"]: r for r in json.loads(path.read_text())["models"]}
    wanted = arguments.models or names()
    for position, name in enumerate(wanted, start=1):
        if name in known and "failed" not in known[name]:
            continue
        command = [sys.executable, __file__, "--one", name, "--frames", str(arguments.frames)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=arguments.timeout, check=False
            )
            last = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
            row = json.loads(last[0]) if last else {"model": name, "failed": _reason(done.stderr)}
        except subprocess.TimeoutExpired:
            row = {"model": name, "failed": f"took more than {arguments.timeout} s"}
        known[name] = row
        note(f"{position}/{len(wanted)} {row}")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(
            path, json.dumps({"frames": arguments.frames, "models": list(known.values())}, indent=1) + "\n"
        )
    return [known[n] for n in wanted if n in known]


def _reason(text: str) -> str:
    lines = [x for x in text.strip().splitlines() if x and not x.startswith(" ")]
    return lines[-1].replace("|", "/") if lines else "it ended without a word"


def main() -> None:
    """Run all models or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", default="")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"))
    parser.add_argument("--json", type=Path, default=Path("benchmarks/results/coverage.json"))
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.frames)))
        return
    import torch
    import torchvision

    rows = run_all(arguments, lambda t: print(t, file=sys.stderr, flush=True))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    write_text(arguments.out, table(rows, arguments.frames, versions))
    bad = [r["model"] for r in rows if "failed" in r or not lawful(r)]
    print(f"{len(rows)} models, {len(bad)} outside the law: {', '.join(map(str, bad))}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
