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
from videoeff.cli.shared.preprocessing import Look, preprocess_options

if TYPE_CHECKING:
    from videoeff.bench.spec import Model, Settings

DEFAULT_SIZE = (360, 480)
PEERS = ("eager", "compile", "onnxruntime", "openvino", "openvino-bf16", "openvino-int8")


@click.command(cls=Command, short_help="Time a model's stream beside dense runtimes.")
@click.argument("model")
@click.argument("clip", required=False)
@click.option(
    "--input-size",
    nargs=2,
    type=click.IntRange(1),
    metavar="HEIGHT WIDTH",
    help="Size the frames are resized to.  [default: 360 480, or what the model takes]",
)
@preprocess_options
@click.option(
    "--input-threshold",
    type=click.FloatRange(min=0.0),
    help="With CLIP: the frame's own threshold.  [default: 0.0625, about 4 grey levels]",
)
@click.option(
    "--block",
    type=click.IntRange(1),
    help="With CLIP: edge of the blocks the frame's test averages over.  [default: 8]",
)
@click.option(
    "--dilation", type=click.IntRange(0), help="With CLIP: blocks computed around each.  [default: 1]"
)
@click.option(
    "--predict",
    type=click.FloatRange(min=0.0),
    help="With CLIP: factor of the predicted changes.  [default: 0, off]",
)
@click.option("--threads", type=click.IntRange(1), help="Threads of each contender; all cores if left out.")
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
@click.option(
    "--every",
    "every",
    type=click.IntRange(1),
    multiple=True,
    metavar="N",
    help="With CLIP: look at every N-th frame, at each threshold. May be repeated.  [default: 1]",
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
    input_size: tuple[int, int] | None,
    input_threshold: float | None,
    block: int | None,
    dilation: int | None,
    predict: float | None,
    threads: int | None,
    rounds: int,
    frames: int | None,
    first: int,
    budget: float,
    peers: tuple[str, ...],
    shares: tuple[float, ...],
    thresholds: tuple[float, ...],
    every: tuple[int, ...],
    seed: int,
    cache: Path | None,
    json_path: Path | None,
    **options: Any,
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
    from videoeff.bench.spec import CLIP_INPUT, SHARES, Settings

    look = Look.take(options)
    test = {"input_threshold": input_threshold, "block": block, "dilation": dilation, "predict": predict}
    given = {k: v for k, v in test.items() if v is not None}
    if given and clip is None:
        raise click.UsageError("--input-threshold, --block, --dilation and --predict are for a CLIP")
    if every and clip is None:
        raise click.UsageError("--every is for a CLIP")
    settings = Settings(
        threads=threads or len(os.sched_getaffinity(0)),
        rounds=rounds,
        frames=(frames or 8) if clip is None else 8,
        budget=budget,
        shares=shares or SHARES,
        thresholds=thresholds or (0.05, 0.1, 0.2),
        every=every or (1,),
        input_test={**CLIP_INPUT, **given} if given else None,
        peers=tuple(p for p in PEERS if p == "eager" or not peers or p in peers),
        seed=seed,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(_here_importable())
        chosen, size = _model(model, look, input_size or None)
        for doubt in chosen.prepare(size).doubts():
            _say(f"check the preprocessing: {doubt}")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="videoeff-bench-")))
        kept = cache or folder / "cache"
        if clip is None:
            row = _synthetic(chosen, size, settings, kept)
        else:
            row = _clip(chosen, clip, size, settings, kept, folder, (first, frames or 40))
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


def _model(reference: str, look: Look, size: tuple[int, int] | None) -> tuple[Model, tuple[int, int]]:
    """The model and its input size, after it was seen that it can be built.

    A file is screened before anything reads it.
    """
    import torch

    from videoeff.bench.spec import Model
    from videoeff.cli.shared.source import build_model, channels_of, check_fixed, read_source
    from videoeff.errors import CaptureError

    if not reference.endswith(".pt2"):
        channels = channels_of(build_model(reference))
        return Model(reference, look=look.preprocess(channels, False, None)), size or DEFAULT_SIZE
    path = Path(reference)
    source = read_source(path, None)
    if size is None and source.size is None:
        high, wide = source.multiple
        size = (DEFAULT_SIZE[0] // high * high, DEFAULT_SIZE[1] // wide * wide)
    found = check_fixed(source, path, size, 1)
    if source.dtype not in (torch.float32, torch.uint8):
        raise CaptureError(
            f"{path}: takes {str(source.dtype)[6:]}; dense runtimes are compared in float32, so export it "
            "for float32 or uint8"
        )
    prepared = look.preprocess(source.channels, source.uint8, None, exported=True)
    return Model(reference, look=prepared), found


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
    prepare = model.prepare(size)
    count = write_frames(clip, folder / "frames.npy", prepare, first, count, _say)
    calibration = None
    if OPENVINO_INT8 in settings.peers:
        calibration = folder / "calibration.npy"
        if not write_calibration(clip, calibration, prepare, first, count):
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
