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
    network_options,
    percent,
    set_threads,
    show,
    stage,
    threads_option,
    track,
    writable,
)
from videoeff.cli.shared.zones import place_zones, take_zones, zone_options

if TYPE_CHECKING:
    from videoeff.calibration.metrics import Metric
    from videoeff.cli.shared.feed import Feed
    from videoeff.runtime.fidelity import Drift
    from videoeff.runtime.streaming_module import StreamingModule
    from videoeff.video.source import Clip


@click.command(cls=Command, short_help="Run a clip through an artifact.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("clip")
@click.option("--frames", type=click.IntRange(1), help="Stop after this many frames.")
@network_options
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
@click.option("--every", type=click.IntRange(1), metavar="N", help="Look at every N-th frame only.")
@click.option(
    "--audit",
    type=click.FloatRange(0.0, 1.0),
    metavar="SHARE",
    help="Compare this share of the frames with the dense model; the report shows the error over time.",
)
@click.option(
    "--audit-budget",
    type=click.FloatRange(min=0.0),
    metavar="X",
    help="Say where the mean relative error of the last audits is above this.",
)
@zone_options
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@loading_options
@threads_option
@json_option
def run(
    artifact: Path,
    clip: str,
    frames: int | None,
    seconds: float | None,
    transport: str | None,
    policy: str | None,
    stall: float | None,
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
    every: int | None,
    audit: float | None,
    audit_budget: float | None,
    device: str,
    reference: str | None,
    backend: str | None,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run CLIP through ARTIFACT.

    CLIP is a video file, a folder of images, the number of a camera, or an address on a network: rtsp://,
    rtmp://, http:// (also HLS), srt://, and rtsps://, rtmps://, https://. An address is read until it ends,
    --frames or --seconds are over, or Ctrl-C; when its connection is lost, it is connected to again. An
    artifact of several streams sees the clip in each of them. Ctrl-C and a clip that breaks off end the run:
    the frames so far are kept and reported, and the exit status is 1. Damaged frames in the middle of a clip
    are passed over and counted. The overlay keeps the clip's times, and frames come turned as the clip says.
    Zones given here take the place of the artifact's own.
    """
    if draw is not None and overlay is None:
        raise click.UsageError("--draw draws on the overlay; name one with -o OVERLAY.mp4")
    judging = controls or decoder is not None or metric is not None
    if judging and not compare:
        raise click.UsageError(
            "--controls, --decoder and --metric judge against the dense model; add --compare"
        )
    zones = take_zones(options)
    from videoeff.video.writer import CONTAINERS

    writable(overlay, "-o", tuple(sorted(CONTAINERS)))
    writable(outputs, "--outputs")
    writable(report, "--report")
    from videoeff.cli.shared.live import LiveClip, open_live
    from videoeff.video.address import is_address
    from videoeff.video.source import open_clip

    network = is_address(clip)
    if not network and any(option is not None for option in (seconds, transport, policy, stall)):
        raise click.UsageError("--seconds, --transport, --policy and --stall are for addresses on a network")
    with contextlib.ExitStack() as opened:
        source: Clip
        if network:
            source = open_live(
                clip, frames, seconds, command="run", protocol=transport, policy=policy, stall=stall
            )
        else:
            source = open_clip(clip, frames=frames)
        opened.enter_context(source)
        name = source.source if network else clip  # without a password
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
        drifts = pace(stream, every, audit, audit_budget)
        feed = feed_of(stream, str(artifact))
        source = opened.enter_context(reopened(source, clip, frames, alpha=feed.alpha))
        place_zones(stream, feed, source.size, zones)
        streamer = Streamer(stream, feed, compare, outputs is not None, draw=drawing, heat=heat)
        comparing = None
        if judging:
            from videoeff.cli.shared.comparing import Comparing

            comparing = Comparing(stream, feed, clip, frames, controls, decoder, mine)
            streamer.comparison = comparing.comparison
        with contextlib.ExitStack() as stack:
            if overlay is not None:
                streamer.write = stack.enter_context(_OverlayFile(overlay, source)).write
            if isinstance(source, LiveClip):
                source.resizes = feed.preprocess.size is not None and overlay is None
            result = streamer.run(track(source, name, source.frame_count))
        if result.stopped is None and source.truncated:
            result.stopped = f"the clip ends early: {source.truncated}"
        decoder, fps, missing, notes = source.decoder, source.fps, losses(source), notes_on_losses(source)
        notes += note_on_shape(feed.preprocess, source.size)
        notes += tuple(f"drift: {drift}" for drift in drifts)
        told = source.to_json() if isinstance(source, LiveClip) else None
        notes += source.notes() if isinstance(source, LiveClip) else ()
    figures = measured(stream, result, compare)
    figures |= {
        "artifact": str(artifact),
        "clip": name,
        "source": told,
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


def pace(
    stream: StreamingModule, every: int | None, audit: float | None, budget: float | None
) -> list[Drift]:
    """Set which frames are looked at and audited, where that was asked for; the drifts, as they come."""
    if every is not None:
        stream.every(every)
    share = stream.options.audit.share if audit is None else audit
    if budget is not None and not share:
        raise click.UsageError("--audit-budget is for audits; say how many with --audit SHARE")
    if budget is not None:
        stream.audit(share, at_most=budget)
    elif audit is not None:
        stream.audit(share)
    drifts: list[Drift] = []
    stream.on_drift(drifts.append)
    return drifts


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
    from videoeff.runtime.report import COMPARED, zones_text

    macs, ms, skips = figures["macs"], figures["ms"], figures["held"] > 0
    lines = [("frames", f"{figures['frames']}, {figures['streams']} stream(s)")]
    if skips:
        looked = figures["frames"] - figures["held"]
        lines.append(("", f"{looked} looked at, {figures['held']} between (every={figures['every']})"))
    if macs["needed"] is not None:
        text = f"{percent(figures['active_share'])} of the dense work, after each stream's first frame"
        lines.append(("work", text + ", of frames looked at" if skips else text))
        lines.append(("MACs a frame looked at" if skips else "MACs a frame", _work(macs)))
        if skips:
            lines.append(("MACs a frame handed out", _work(figures["macs_handed_out"])))
    if ms["stream_median"] is not None:
        text, each = f"streaming {ms['stream_median']:.1f} ms", ms["stream_median"]
        if skips:
            text += f" a frame looked at, mean of all frames {ms['stream_mean']:.2f} ms"
            each = ms["stream_mean"]
        if ms["dense_median"] is not None:
            text += f", dense {ms['dense_median']:.1f} ms ({ms['dense_median'] / each:.2f}x)"
        if figures.get("overlay_timed"):
            text += "; streaming also kept its masks for the overlay"
        lines.append(("median time", text))
    if figures["ignored"]:
        lines.append(("zones", zones_text(figures["ignored"])))
        compares = figures["error"] is not None or figures["audit"] is not None
        lines += [("", COMPARED)] if compares else []
    if figures["error"] is not None:
        error = figures["error"]
        between = ", frames between included" if skips else ""
        text = f"max {error['max_abs']:.3g}, relative L2 {error['relative_l2']:.3g}{between}"
        lines.append(("error", text))
        if error["frames_with_other_shapes"]:
            lines.append(("", f"{error['frames_with_other_shapes']} frame(s) had outputs of other shapes"))
    lines += [("audits" if i == 0 else "", line) for i, line in enumerate(figures["audit_summary"])]
    lines += [("seen in the frames", event["text"]) for event in figures["events"]]
    lines.append(("state", megabytes(figures["state_bytes"])))
    return lines


def _work(macs: dict[str, float]) -> str:
    dense = macs["dense"] or 1.0
    return (
        f"dense {count(macs['dense'])}, needed {count(macs['needed'])} ({percent(macs['needed'] / dense)}), "
        f"scheduled {count(macs['scheduled'])} ({percent(macs['scheduled'] / dense)})"
    )
