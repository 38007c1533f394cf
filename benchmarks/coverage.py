"""Convert every listed model, stream 20 frames with a moving object at threshold 0, and write the table.

    python benchmarks/coverage.py                             # whatever is not known yet, and what failed
    python benchmarks/coverage.py --failed                    # only what failed, differed or showed nothing
    python benchmarks/coverage.py --libraries timm effdet     # only these

Each model runs in a process of its own; results are kept in the JSON file as they come, so a second call
goes on where the first one stopped (``--again`` also repeats what is known). The stream is compared with a
second model, built the same way, that was never converted; after the frames, the converted model itself
must still give that model's outputs. Weights are random; batch-norm statistics are set by a few frames so
that activations stay sane. Inputs are small, since coverage and exactness do not depend on size: 96x96
where a model takes it, the next larger one where it does not, detectors of torchvision with their internal
resize on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.coverage_models import Built, build, library, names
from benchmarks.coverage_page import lawful, page
from videoeff.serialize.files import write_text

ROOT = Path(__file__).resolve().parents[1]


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

    norms = [
        m
        for m in model.modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.running_var is not None
    ]
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

    generator = torch.Generator().manual_seed(2)
    disturbed = tuple(t + 1e-6 * torch.randn(t.shape, generator=generator) for t in example)
    with torch.no_grad():
        before, after = (tensors(model(*call)) for call in (example, disturbed))
    ratios = [
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) / 1e-6
        for a, b in zip(before, after, strict=True)
        if a.shape == b.shape and a.numel() and a.is_floating_point()
    ]
    return max(ratios, default=0.0)


def tensors(value: Any) -> list[Any]:
    """The tensors in what a model returns."""
    import torch
    import torch.utils._pytree as pytree

    return [t for t in pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


def difference(expected: list[Any], found: list[Any]) -> tuple[float, int]:
    """(largest error over its tensor's largest magnitude, numbers compared); inf where shapes differ."""
    if len(expected) != len(found):
        return float("inf"), 0
    worst, numbers = 0.0, 0
    for a, b in zip(expected, found, strict=True):
        if type(a) is not type(b) or a.shape != b.shape:
            worst = float("inf")
        elif a.numel():
            scale = max(float(a.abs().max()), 1e-12)
            error = float((a.double() - b.double()).abs().max()) / scale
            worst = max(worst, error if error == error else float("inf"))
            numbers += a.numel()
    return worst, numbers


def stream_error(
    reference: Any, stream: Any, calls: list[tuple[Any, ...]]
) -> tuple[float, int, float | None, float]:
    """How far a stream is from a model.

    Returns:
        (error, numbers compared, error of the outputs where the first one is that of the partitions, largest
        change of what is compared from the first frame to a later one, over its magnitude).
    """
    import torch
    import torch.utils._pytree as pytree

    from videoeff.runtime.partitioned import PartitionedModel

    worst, numbers, outputs, motion = 0.0, 0, 0.0, 0.0
    first: list[Any] = []
    partitioned = stream.body if isinstance(stream.body, PartitionedModel) else None
    paths = [] if partitioned is None else list(partitioned.call_sites)
    dense_parts = watch(reference, paths)
    stream_parts = watch(reference if partitioned is None else partitioned.model, paths)
    for call in calls:
        with torch.no_grad():
            expected = tensors(reference(*pytree.tree_map(lambda t: t.clone(), call)))
        found = tensors(stream(*call))
        if partitioned is not None:
            # What follows the partitions sorts and thresholds: among the near ties of random weights,
            # rounding decides. So the partitions' own outputs are what has to be equal.
            outputs = max(outputs, difference(expected, found)[0])
            expected, found = take(dense_parts), take(stream_parts)
        error, compared = difference(expected, found)
        worst, numbers = max(worst, error), numbers + compared
        first = first or expected
        motion = max(motion, difference(first, expected)[0])
    return worst, numbers, None if partitioned is None else outputs, motion


def fitting(built: Built) -> tuple[int, int]:
    """The smallest of its sizes that a model takes. It is called, so this is not the model to convert."""
    import torch

    if len(built.sizes) == 1:
        return built.sizes[0]
    for size in built.sizes[:-1]:
        with contextlib.suppress(Exception), torch.no_grad():  # any refusal: the next size is tried
            built.model(torch.rand(1, 3, *size))
            return size
    return built.sizes[-1]


def harm(model: Any, reference: Any, call: tuple[Any, ...]) -> str:
    """What convert did to the model it was given, "" for nothing."""
    import torch

    try:
        with torch.no_grad():
            after, before = tensors(model(*call)), tensors(reference(*call))
    except Exception as error:  # noqa: BLE001  whatever it raises now it did not raise before: that is the finding
        return f"the converted model itself raises {type(error).__name__}: {str(error)[:100]}"
    kinds = {type(t).__name__ for t in after} - {type(t).__name__ for t in before}
    if kinds:
        return f"the converted model itself returns {', '.join(sorted(kinds))}"
    changed, _ = difference(before, after)
    return f"the converted model's own outputs changed by {changed:.1e}" if changed > 1e-6 else ""


def enliven(model: Any) -> None:
    """Give weights that begin as one tiny number (scales of layers, last norms of blocks) values that matter.

    With them the picture would hardly reach the output, and any stream would equal it.
    """
    import torch

    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        first = parameter.detach().flatten()[:1]
        tiny = parameter.numel() > 1 and bool((parameter == first).all()) and float(first.abs()) < 0.2
        if tiny and not name.endswith("bias"):
            with torch.no_grad():
                parameter.copy_(0.3 + 0.4 * torch.rand(parameter.shape, generator=generator))


def twins(name: str) -> tuple[Any, Any, str, tuple[int, int]]:
    """(a model to convert that was never called, a second one of the same weights, kind, size)."""
    import torch

    torch.manual_seed(0)
    built = build(name)
    enliven(built.model)
    size = fitting(built)
    settle(built.model, built.kind, size)
    torch.manual_seed(0)  # some draw numbers that are no weights, such as text features
    fresh = build(name).model
    fresh.load_state_dict(built.model.state_dict())
    return fresh, built.model, built.kind, size


def one(name: str, frames: int) -> dict[str, Any]:
    """Convert and stream one model."""
    import torch.utils._pytree as pytree

    import videoeff
    from videoeff.analysis import is_convolution

    model, reference, kind, size = twins(name)
    calls = list(clip(kind, size, frames))
    start = time.perf_counter()
    stream = videoeff.convert(model, calls[0])
    seconds = time.perf_counter() - start
    worst, numbers, outputs, motion = stream_error(reference, stream, calls)
    harmed = harm(model, reference, calls[0])
    report = stream.report()
    macs = report.macs
    convolutions = sum(is_convolution(n) for p in stream.programs.values() for n in p.nodes)
    double = None
    if 1e-4 < worst < float("inf"):  # an ill-conditioned network, or a mistake? double precision tells
        model, reference, _, _ = twins(name)
        model, reference = model.double(), reference.double()
        calls = [pytree.tree_map(lambda t: t.double(), call) for call in calls[:6]]
        double = stream_error(reference, videoeff.convert(model, calls[0]), calls)[0]
    return {
        "model": name,
        "input": f"{kind} {'x'.join(str(s) for s in size)}",
        "partitions": [n for n in stream.engines if n],
        "convolutions": convolutions,
        "streamed": report.convolutions_streamed,
        "error": worst,
        "error_float64": double,
        "error_outputs": outputs,
        "numbers_compared": numbers,
        "motion": motion,
        "harmed": harmed,
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


def run_all(
    arguments: argparse.Namespace, wanted: list[str], known: dict[str, Any], note: Callable[[str], None]
) -> None:
    """Each model in its own process; every result is written at once."""
    path: Path = arguments.json
    for position, name in enumerate(wanted, start=1):
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
        content = {
            "frames": arguments.frames,
            "versions": versions(),
            "models": sorted(known.values(), key=lambda r: str(r["model"])),
        }
        write_text(path, json.dumps(content, indent=1) + "\n")


def versions() -> dict[str, str]:
    """What is installed of the libraries that models come from."""
    found = {}
    for package in ("torch", "torchvision", "timm", "ultralytics", "pixeltable-yolox", "effdet"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package).partition("+")[0]
    return found


def to_run(arguments: argparse.Namespace, known: dict[str, Any], note: Callable[[str], None]) -> list[str]:
    """The models to stream now."""
    wanted, notes = names()
    for text in notes:
        note(text)
    if arguments.libraries:
        wanted = [n for n in wanted if library(n) in arguments.libraries]
    if arguments.models:
        return list(arguments.models)
    if arguments.failed:
        return [n for n in wanted if n in known and not lawful(known[n])]
    if arguments.again:
        return wanted
    return [n for n in wanted if n not in known or "harmed" not in known[n]]


def _reason(text: str) -> str:
    """The last error of a process, on one line."""
    lines = [x for x in text.strip().splitlines() if x and not x.startswith(" ")]
    errors = [x for x in lines if x.partition(":")[0].endswith(("Error", "Exception"))]
    return (errors or lines or ["it ended without a word"])[-1]


def main() -> None:
    """Run the models asked for, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", default="")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--libraries", nargs="*", default=[])
    parser.add_argument("--failed", action="store_true", help="only what failed, differed or showed nothing")
    parser.add_argument("--page", action="store_true", help="run nothing, write the page from what is known")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--timeout", type=int, default=900)
    parser.add_argument("--again", action="store_true", help="also those of them that are known")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/coverage.md")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/coverage.json")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments.one, arguments.frames)))
        return
    known: dict[str, Any] = {}
    if arguments.json.is_file():
        known = {r["model"]: r for r in json.loads(arguments.json.read_text())["models"]}

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if not arguments.page:
        run_all(arguments, to_run(arguments, known, note), known, note)
    rows = list(known.values())
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    recorded = json.loads(arguments.json.read_text()).get("versions", {}) if arguments.json.is_file() else {}
    write_text(arguments.out, page(rows, arguments.frames, recorded))
    bad = [r["model"] for r in rows if not lawful(r)]
    print(f"{len(rows)} models, {len(bad)} outside the law: {', '.join(map(str, bad))}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
