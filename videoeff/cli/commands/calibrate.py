"""``videoeff calibrate``: a clip and a budget become the cheapest stream that keeps it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.building import build_stream
from videoeff.cli.shared.output import (
    DONE,
    FAILED,
    Command,
    emit,
    json_option,
    set_threads,
    show,
    stage,
    threads_option,
    writable,
)
from videoeff.cli.shared.preprocessing import Look, preprocess_options

if TYPE_CHECKING:
    from videoeff.calibration.record import Calibration
    from videoeff.runtime.streaming_module import StreamingModule


@click.command(cls=Command, short_help="Find the cheapest stream that keeps a budget on a clip.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("clip")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write, OUT.veff.")
@click.option(
    "--budget",
    default="int8",
    show_default=True,
    metavar="BUDGET",
    help="int8, noise, error=0.03, f1=0.98, settled=0.99, miou=0.95, pixels=0.99, a number with --metric; or "
    "a cost, work=0.1 or ms=5, of which the most faithful is sought.",
)
@click.option(
    "--metric",
    metavar="file.py:function",
    help="Judge by this: called with the stream's outputs and the dense network's, returns a number. Runs "
    "that code.",
)
@click.option("--decoder", metavar="WORD", help="How outputs are read, as in videoeff run --decoder.")
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1.0),
    metavar="SECONDS",
    help="For all of it, about.  [default: 30, and 10 for each ms of a frame, at most 540]",
)
@click.option(
    "--by",
    type=click.Choice(["time", "work"]),
    default="time",
    show_default=True,
    help="What is saved: measured time per layer, or multiply-accumulates.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="OUT.png",
    help="Draw the trade-off curve with the chosen point and the controls (.png or .svg).",
)
@click.option("--report", type=click.Path(path_type=Path), metavar="OUT.json", help="Write the record.")
@click.option("--model", "reference", metavar="REF", help="What builds the model; see convert --help.")
@click.option("--key", metavar="KEY", help="Which weights of a checkpoint to take; see convert --help.")
@click.option(
    "--input-size", nargs=2, type=click.IntRange(1), metavar="H W", help="Frames are resized to this."
)
@click.option("--backend", help="Kernels to use; see videoeff doctor.")
@preprocess_options
@click.option("--name", help="What to call the model in reports.")
@threads_option
@json_option
def calibrate(
    source: Path,
    clip: str,
    output: Path | None,
    budget: str,
    metric: str | None,
    decoder: str | None,
    time_limit: float | None,
    by: str,
    picture: Path | None,
    report: Path | None,
    reference: str | None,
    key: str | None,
    input_size: tuple[int, int] | None,
    backend: str | None,
    name: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Find the cheapest stream of SOURCE that keeps a budget on CLIP, and write it.

    SOURCE is what convert takes, with the same options, or an artifact. CLIP is a video file or a folder of
    images; no labels are needed. Two thirds of it are searched on; the last third is held back, and the
    result is judged there. The artifact records the budget, the clip's hash, the method and the figures.

    Exit status 1: the budget cannot be kept; the artifact is the exact stream.

    \b
    videoeff calibrate net.pt2 clip.mp4 --budget int8 -o net.veff
    videoeff calibrate net.veff clip.mp4 --budget work=0.1 -o fast.veff
    """
    target = writable(output, "-o")
    writable(picture, "--picture", (".png", ".svg"))
    writable(report, "--report")
    look = Look.take(options)
    from videoeff.calibration.budget import own_metric, parse_budget

    own = own_metric(metric)
    parse_budget(budget, own is not None)
    set_threads(threads)
    stream, notes = _stream(source, reference, key, input_size or None, look, backend, name)
    from videoeff.calibration.calibrate import calibrate as search

    with _bar() as progress:
        found = search(stream, clip, budget, own, time_limit, decoder=decoder, by=by, progress=progress)
    if target is not None:
        with stage(f"writing {target}"):
            found.stream.save(target)
    if picture is not None:
        found.picture().save(picture)
    if report is not None:
        from videoeff.cli.shared.output import json_text
        from videoeff.serialize.files import write_text

        write_text(report, json_text(found.record))
    _report(found, notes, [p for p in (target, picture, report) if p is not None], as_json)
    click.get_current_context().exit(DONE if found.kept else FAILED)


def _stream(
    path: Path,
    reference: str | None,
    key: str | None,
    size: tuple[int, int] | None,
    look: Look,
    backend: str | None,
    name: str | None,
) -> tuple[StreamingModule, tuple[str, ...]]:
    """The stream of an artifact, or of a model."""
    from videoeff.cli.shared.checkpoint import is_artifact

    if path.is_file() and is_artifact(path):
        from videoeff.cli.shared.feed import load_stream

        if look != Look() or size is not None or key is not None:
            raise click.UsageError(
                f"{path} is an artifact, which has its size and preprocessing; leave them out"
            )
        with stage(f"loading {path}"):
            return load_stream(path, reference, backend), ()
    options = {"name": name, "backend": backend or "auto"}
    stream, _, notes = build_stream(path, reference, key, size, 1, look, options)
    return stream, notes


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on stderr, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    target = Console(stderr=True)
    if not target.is_terminal:
        yield lambda _, __: None
        return
    columns = (BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=target, transient=True) as progress:
        task = progress.add_task("", total=1.0)
        yield lambda text, share: progress.update(task, completed=share, description=text)


def _report(found: Calibration, notes: tuple[str, ...], written: list[Path], as_json: bool) -> None:
    if as_json:
        emit({"written": [str(p) for p in written], "notes": list(notes), **found.record})
        return
    for note in notes:
        show(note)
    show(str(found))
    for path in written:
        show(f"wrote {path}")
