"""``videoeff bench``: a model's stream against dense runtimes on this machine."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.output import Command, json_text, show, writable

if TYPE_CHECKING:
    from videoeff.bench.spec import Model, Settings

PEERS = ("eager", "compile", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8")


@click.command(cls=Command, short_help="Time a model's stream beside dense runtimes.")
@click.argument("model")
@click.argument("clip", required=False)
@click.option(
    "--input-size",
    nargs=2,
    type=click.IntRange(1),
    metavar="HEIGHT WIDTH",
    default=(360, 480),
    show_default=True,
    help="Size the frames are resized to.",
)
@click.option("--bgr", is_flag=True, help="The model expects blue first.")
@click.option("--scale", type=float, default=1 / 255, help="Factor on the 8-bit values.  [default: 1/255]")
@click.option("--threads", type=click.IntRange(1), help="Threads of each competitor; all cores if left out.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds.")
@click.option(
    "--frames", type=click.IntRange(2), help="Frames: of a turn (8), or of the clip, from --first on (40)."
)
@click.option(
    "--first", type=click.IntRange(0), default=0, show_default=True, help="First frame of the clip."
)
@click.option(
    "--budget", type=click.FloatRange(1.0), default=120.0, show_default=True, help="Seconds for the rounds."
)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(PEERS),
    multiple=True,
    help="A dense runtime to run beside eager PyTorch; all if left out. May be repeated.",
)
@click.option(
    "--share",
    "shares",
    type=click.FloatRange(0.0, 1.0),
    multiple=True,
    help="Without CLIP: share of the pixels that changes. May be repeated.  [default: 0 to 1 in seven steps]",
)
@click.option(
    "--threshold",
    "thresholds",
    type=click.FloatRange(min=0.0),
    multiple=True,
    help="With CLIP: threshold of all layers. May be repeated.  [default: 0.05, 0.1, 0.2]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of weights and clips.")
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder that keeps exports and compiled code for the next time.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write the figures.",
)
def bench(
    model: str,
    clip: str | None,
    input_size: tuple[int, int],
    bgr: bool,
    scale: float,
    threads: int | None,
    rounds: int,
    frames: int | None,
    first: int,
    budget: float,
    peers: tuple[str, ...],
    shares: tuple[float, ...],
    thresholds: tuple[float, ...],
    seed: int,
    cache: Path | None,
    json_path: Path | None,
) -> None:
    """Time MODEL's stream beside the dense runtimes that are installed here.

    MODEL is torchvision:NAME, timm:NAME, package.module:callable, file.py:callable (random weights) or an
    exported program (.pt2). Without CLIP, made-up clips are used in which an exact share of the pixels
    changes, at threshold 0; with CLIP, that clip at each threshold.

    The dense runtimes (eager PyTorch, torch.compile, ONNX Runtime, OpenVINO; float32) and the stream each
    have a process of their own with the same threads, and take turns. First their outputs are compared:
    where they differ nothing is timed and the exit status is 2. A runtime that is missing or fails is
    listed with its reason. OpenVINO also runs in bfloat16 and in int8, calibrated on other frames of the
    clip; with CLIP their errors, those of frame skipping and those of the stream stand beside the times.
    pip install 'videoeff[bench]' installs them all.
    """
    writable(json_path, "--json", (".json",))
    from videoeff.bench.spec import SHARES, Settings

    settings = Settings(
        threads=threads or len(os.sched_getaffinity(0)),
        rounds=rounds,
        frames=(frames or 8) if clip is None else 8,
        budget=budget,
        shares=shares or SHARES,
        thresholds=thresholds or (0.05, 0.1, 0.2),
        peers=tuple(p for p in PEERS if p == "eager" or not peers or p in peers),
        seed=seed,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_here_importable())
        chosen = _model(model, bgr, scale)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videoeff-bench-")))
        kept = cache or folder / "cache"
        if clip is None:
            row = _synthetic(chosen, input_size, settings, kept)
        else:
            row = _clip(chosen, clip, input_size, settings, kept, folder, (first, frames or 40))
    from videoeff.bench.machine import describe

    row |= {"reference": model, "clip": clip, "settings": settings.to_json()}
    row["machine"] = describe(settings.threads)
    if json_path is not None:
        from videoeff.serialize.files import write_text

        write_text(json_path, json_text(row))
    _show(row)
    if json_path is not None:
        show(f"wrote {json_path}")


@contextlib.contextmanager
def _here_importable() -> Iterator[None]:
    """Make the working folder importable, as in ``python -m``."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _model(reference: str, bgr: bool, scale: float) -> Model:
    """The model, after it was seen that it can be built; a file is screened before anything reads it."""
    from videoeff.bench.spec import Model

    if reference.endswith(".pt2"):
        from videoeff.cli.shared.source import read_source

        read_source(Path(reference), None)
    else:
        from videoeff.cli.shared.source import build_model

        build_model(reference)
    return Model(reference, bgr=bgr, scale=scale)


def _say(text: str) -> None:
    click.echo(f"videoeff bench: {text}", err=True)


def _synthetic(model: Model, size: tuple[int, int], settings: Settings, cache: Path) -> dict[str, Any]:
    from videoeff.bench.measure import synthetic

    return synthetic(model, size, settings, cache, _say)


def _clip(
    model: Model,
    clip: str,
    size: tuple[int, int],
    settings: Settings,
    cache: Path,
    folder: Path,
    which: tuple[int, int],
) -> dict[str, Any]:
    from videoeff.bench.clip_frames import write_calibration, write_frames
    from videoeff.bench.measure import real
    from videoeff.bench.spec import OPENVINO_INT8

    first, count = which
    look, fitted = (model.bgr, model.scale), model.fit(size)
    count = write_frames(clip, folder / "frames.npy", fitted, first, count, *look)
    calibration = None
    if OPENVINO_INT8 in settings.peers:
        calibration = folder / "calibration.npy"
        if not write_calibration(clip, calibration, fitted, first, count, *look):
            _say(f"{OPENVINO_INT8} is left out: the clip has no frames but those measured to calibrate it on")
            settings = replace(settings, peers=tuple(p for p in settings.peers if p != OPENVINO_INT8))
    row = real(model, folder / "frames.npy", count, settings, cache, size, _say, calibration)
    return row | {"frames": [first, first + count - 1]}


def _show(row: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from videoeff.bench.tables import ERROR_HEAD, STREAM_HEAD, dense_rows, error_rows, stream_rows, title_of

    def table(title: str, head: list[str], rows: list[list[str]]) -> Table:
        made = Table(box=box.SIMPLE_HEAD, title=Text(title))
        for index, name in enumerate(head):
            made.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for cells in rows:
            made.add_row(*(Text(c) for c in cells))
        return made

    show(table(title_of(row), ["dense runtime", "ms (quartiles)", "differs by"], dense_rows(row)))
    title = "videoeff at threshold 0" if row["clip"] is None else f"videoeff on {row['clip']}"
    show(table(title, STREAM_HEAD, stream_rows(row, real=row["clip"] is not None)))
    if "errors" in row:
        show(table("time beside error", ERROR_HEAD, error_rows(row)))
    state = row.get("state_ratio")
    if state is not None:
        show(f"state {row['state_bytes'] / 1e6:.1f} MB, {state:.2f} of all convolution outputs")
    if row["partial"]:
        show(
            "the budget was spent before the first round was complete, so figures are missing; "
            "give more --budget"
        )
