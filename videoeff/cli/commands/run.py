"""``videoeff run``: stream a clip through an artifact."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.output import (
    DONE,
    FAILED,
    Command,
    count,
    emit,
    json_option,
    json_text,
    loading_options,
    megabytes,
    percent,
    set_threads,
    show,
    stage,
    threads_option,
    track,
    writable,
)

if TYPE_CHECKING:
    from videoeff.calibration.metrics import Metric
    from videoeff.cli.shared.feed import Feed
    from videoeff.video.source import Clip


@click.command(cls=Command, short_help="Run a clip through an artifact.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("clip")
@click.option("--frames", type=click.IntRange(1), help="Stop after this many frames.")
@click.option("--compare", is_flag=True, help="Also run the dense model, and show error and time beside it.")
@click.option(
    "--controls",
    is_flag=True,
    help="With --compare: also every 2nd, 3rd, 4th and 8th frame, noise of 1 and 2 grey levels, and int8.",
)
@click.option(
    "--decoder",
    metavar="WORD",
    help="With --compare: how outputs are read, if they are not recognised: fastestdet, yolox, ultralytics, "
    "torchvision, segmentation, none.",
)
@click.option(
    "--metric",
    metavar="file.py:function",
    help="With --compare: judge by a function of your own, called with (outputs, dense outputs) of each "
    "frame; returns a number. Runs that code.",
)
@click.option(
    "-o",
    "--overlay",
    type=click.Path(path_type=Path),
    metavar="OVERLAY.mp4",
    help="Write the clip with the share of layers computing at each place as a heat map.",
)
@click.option("--heat/--no-heat", default=True, show_default=True, help="Draw the heat map in the overlay.")
@click.option(
    "--draw",
    metavar="file.py:function",
    help="Draw on the overlay: called with (frame, outputs), returns the frame; also with preprocess=, if "
    "it has such a parameter, whose boxes_on_frame undoes the resize. Runs that code.",
)
@click.option(
    "--outputs", type=click.Path(path_type=Path), metavar="FILE.npz", help="Write every frame's outputs."
)
@click.option("--report", type=click.Path(path_type=Path), metavar="OUT.json", help="Write the figures.")
@click.option("--threshold", type=click.FloatRange(min=0.0), help="Set the threshold of all layers.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@loading_options
@threads_option
@json_option
def run(
    artifact: Path,
    clip: str,
    frames: int | None,
    compare: bool,
    controls: bool,
    decoder: str | None,
    metric: str | None,
    overlay: Path | None,
    heat: bool,
    draw: str | None,
    outputs: Path | None,
    report: Path | None,
    threshold: float | None,
    device: str,
    reference: str | None,
    backend: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run CLIP through ARTIFACT.

    CLIP is a video file, a folder of images, or the number of a camera. An artifact of several streams
    sees the
    clip in each of them. Ctrl-C and a clip that breaks off end the run: the frames so far are kept and
    reported, and the exit status is 1. Damaged frames in the middle of a clip are passed over and counted.
    The overlay keeps the clip's times, and frames come turned as the clip says.
    """
    if draw is not None and overlay is None:
        raise click.UsageError("--draw draws on the overlay; name one with -o OVERLAY.mp4")
    judging = controls or decoder is not None or metric is not None
    if judging and not compare:
        raise click.UsageError(
            "--controls, --decoder and --metric judge against the dense model; add --compare"
        )
    from videoeff.video.writer import CONTAINERS

    writable(overlay, "-o", tuple(sorted(CONTAINERS)))
    writable(outputs, "--outputs")
    writable(report, "--report")
    from videoeff.video.source import open_clip

    with contextlib.ExitStack() as opened:
        source = opened.enter_context(open_clip(clip, frames=frames))
        used = set_threads(threads)
        from videoeff.cli.shared.clips import losses, note_on_shape, notes_on_losses, reopened
        from videoeff.cli.shared.drawing import load_draw
        from videoeff.cli.shared.feed import feed_of, load_stream
        from videoeff.cli.shared.streaming import Streamer, measured, save_outputs

        drawing = None if draw is None else load_draw(draw)
        mine = None if metric is None else _load_metric(metric)
        with stage(f"loading {artifact}"):
            stream = load_stream(artifact, reference, backend, device)
        if threshold is not None:
            stream.set_threshold(threshold)
        feed = feed_of(stream, str(artifact))
        source = opened.enter_context(reopened(source, clip, frames, alpha=feed.alpha))
        streamer = Streamer(stream, feed, compare, outputs is not None, draw=drawing, heat=heat)
        comparing = None
        if judging:
            from videoeff.cli.shared.comparing import Comparing

            comparing = Comparing(stream, feed, clip, frames, controls, decoder, mine)
            streamer.comparison = comparing.comparison
        with contextlib.ExitStack() as stack:
            if overlay is not None:
                streamer.write = stack.enter_context(_OverlayFile(overlay, source)).write
            result = streamer.run(track(source, clip, source.frame_count))
        if result.stopped is None and source.truncated:
            result.stopped = f"the clip ends early: {source.truncated}"
        decoder, fps, missing, notes = source.decoder, source.fps, losses(source), notes_on_losses(source)
        notes += note_on_shape(feed.preprocess, source.size)
    figures = measured(stream, result, compare)
    figures |= {
        "artifact": str(artifact),
        "clip": clip,
        "fps": fps,
        "decoder": decoder,
        **missing,
        "preprocess": feed.preprocess.to_json(),
        "device": str(stream.device),
        "threads": used,
        "overlay_timed": overlay is not None and heat,
        "seconds": result.seconds,
    }
    if comparing is not None and result.frames:
        figures["comparison"] = comparing.to_json(result.stream_ms, result.dense_ms)
    if outputs is not None and result.frames:
        save_outputs(outputs, result.outputs)
    if report is not None:
        from videoeff.serialize.files import write_text

        write_text(report, json_text(figures))
    if as_json:
        emit(figures)
    else:
        _show(figures, feed, [p for p in (overlay, outputs, report) if p is not None and p.exists()])
    for note in notes:
        click.echo(f"videoeff run: note: {note}", err=True)
    if result.stopped:
        click.echo(f"videoeff run: {result.stopped}; {result.frames} frame(s) were kept", err=True)
    click.get_current_context().exit(FAILED if result.stopped else DONE)


def _load_metric(reference: str) -> Metric:
    from videoeff.calibration.user_metric import load_metric

    return load_metric(reference)


class _OverlayFile:
    """A clip to write that is not left behind when no frame came."""

    def __init__(self, path: Path, source: Clip) -> None:
        from videoeff.video.writer import ClipWriter

        self._source, self._writer = source, ClipWriter(path, source.fps, source.size)
        self._stack = contextlib.ExitStack()
        self._count = 0

    def __enter__(self) -> _OverlayFile:
        self._stack.enter_context(self._writer)
        return self

    def write(self, frame: Any) -> None:
        """Append the frame that came last, with its time in the clip."""
        self._writer.write(frame, self._source.time)
        self._count += 1

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and not self._count:
            with contextlib.suppress(_NothingWritten):
                self._stack.__exit__(_NothingWritten, _NothingWritten(), None)
            return
        self._stack.__exit__(kind, error, trace)


class _NothingWritten(Exception):
    """Tells the writer to throw its file away."""


def _show(figures: dict[str, Any], feed: Feed, files: list[Path]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False, title=Text(f"{figures['model']} on {figures['clip']}"))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in summary(figures):
        table.add_row(Text(name), Text(value))
    show(table)
    if "comparison" in figures:
        from videoeff.cli.shared.comparing import table_of

        show(table_of(figures["comparison"]), *(f"note: {text}" for text in figures["comparison"]["notes"]))
    recorded, used = feed.preprocess.decoder, figures["decoder"]
    if recorded and not used.startswith("pillow") and not used.startswith(recorded.partition(" / ")[0]):
        show(f"note: the artifact was made with the decoder {recorded}, this clip was read by {used}")
    for path in files:
        show(f"wrote {path}")


def summary(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures of a run in a few lines."""
    macs, ms = figures["macs"], figures["ms"]
    lines = [("frames", f"{figures['frames']}, {figures['streams']} stream(s)")]
    if macs["needed"] is not None:
        lines.append(
            ("work", f"{percent(figures['active_share'])} of the dense work, after each stream's first frame")
        )
        dense = macs["dense"] or 1.0
        lines.append(
            (
                "MACs a frame",
                f"dense {count(macs['dense'])}, needed {count(macs['needed'])} "
                f"({percent(macs['needed'] / dense)}), "
                f"scheduled {count(macs['scheduled'])} ({percent(macs['scheduled'] / dense)})",
            )
        )
    if ms["stream_median"] is not None:
        text = f"streaming {ms['stream_median']:.1f} ms"
        if ms["dense_median"] is not None:
            text += f", dense {ms['dense_median']:.1f} ms ({ms['dense_median'] / ms['stream_median']:.2f}x)"
        if figures.get("overlay_timed"):
            text += "; streaming also kept its masks for the overlay"
        lines.append(("median time", text))
    if figures["error"] is not None:
        error = figures["error"]
        lines.append(("error", f"max {error['max_abs']:.3g}, relative L2 {error['relative_l2']:.3g}"))
        if error["frames_with_other_shapes"]:
            lines.append(("", f"{error['frames_with_other_shapes']} frame(s) had outputs of other shapes"))
    lines += [("seen in the frames", event["text"]) for event in figures["events"]]
    lines.append(("state", megabytes(figures["state_bytes"])))
    return lines
