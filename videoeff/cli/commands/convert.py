"""``videoeff convert``: a trained model becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.building import build_stream
from videoeff.cli.shared.output import (
    Command,
    emit,
    json_option,
    megabytes,
    percent,
    set_threads,
    show,
    stage,
    threads_option,
    writable,
)
from videoeff.cli.shared.preprocessing import Look, preprocess_options
from videoeff.cli.shared.zones import take_zones, zone_options, zones_told

if TYPE_CHECKING:
    from videoeff.runtime.streaming_module import StreamingModule

POSITIVE = click.FloatRange(min=0.0)


@click.command(cls=Command, short_help="Convert a model and write an artifact.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The artifact to write, OUT.veff.")
@click.option(
    "--dry-run", is_flag=True, help="Only show what would stream, what not and why, and the verdict."
)
@click.option(
    "--model",
    "reference",
    metavar="REF",
    help="What builds the network a state dict belongs to: torchvision:NAME, timm:NAME, "
    "package.module:callable or file.py:callable. The last two run that code.",
)
@click.option(
    "--key",
    metavar="KEY",
    help="Which weights of a checkpoint with several to take, as its keys or the names inside begin: ema, "
    "state_dict, generator.",
)
@click.option(
    "--input-size",
    nargs=2,
    type=click.IntRange(1),
    metavar="H W",
    help="Frames are resized to this; a .pt2 of a fixed size has its own.",
)
@click.option("--streams", type=click.IntRange(1), default=1, show_default=True, help="Clips in one batch.")
@click.option(
    "--threshold",
    type=POSITIVE,
    default=0.0,
    show_default=True,
    help="0 is exact; 0.05 to 0.2 drop changes below that share of a layer's standard deviation.",
)
@click.option(
    "--thresholds",
    "thresholds_file",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Thresholds by layer name, all of them, as stream.save_thresholds writes them.",
)
@click.option("--input-threshold", type=POSITIVE, help="The frame's own threshold; --threshold if left out.")
@click.option(
    "--block",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Edge of the blocks the frame's test averages over; 8 suits noisy video.",
)
@click.option(
    "--dilation", type=click.IntRange(0), default=0, show_default=True, help="Blocks computed around each."
)
@click.option(
    "--reach",
    type=POSITIVE,
    help="Compute only within so many pixels of what changed in the frame; 0 to 16 save most on busy clips.",
)
@click.option(
    "--refresh",
    type=click.IntRange(0),
    metavar="FRAMES",
    help="With --reach: compute what was put off within so many frames; 0: never.  [default: 64]",
)
@click.option(
    "--noise-of",
    type=click.Path(path_type=Path),
    metavar="CLIP",
    help="Measure the camera's noise on this clip and test frames relative to it; --input-threshold is then "
    "in standard deviations of the noise, 4 if left out.",
)
@click.option(
    "--noise-lag",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="With --noise-of: compare frames this far apart, further than two key frames; 1 for a camera's own.",
)
@click.option(
    "--weak",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the frame's threshold that a block next to a changed one has to exceed.",
)
@click.option(
    "--grow",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="How often changed blocks grow to such neighbours.",
)
@zone_options
@click.option(
    "--camera-size",
    nargs=2,
    type=click.IntRange(1),
    metavar="H W",
    help="With zones and a letterbox (--fit): pixels of the camera's frames, which say where the padding is.",
)
@click.option(
    "--predict",
    type=POSITIVE,
    default=0.0,
    show_default=True,
    help="Factor of the predicted changes; 1 to 1.5 save more, 0 is off.",
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "int8"]),
    help="bf16: compute a float32 network in bfloat16. int8: quantise it first, to 8-bit weights and values; "
    "needs --calibration and videoeff[int8].",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="CLIP",
    help="With --precision int8: up to 100 frames of this clip, evenly spread, are what it is quantised for.",
)
@click.option(
    "--recipe", default="delta", show_default=True, help="delta, or exact, which touches no number."
)
@click.option("--passes", metavar="TEXT", help="A list of passes instead of a recipe, as inspect prints it.")
@click.option("--backend", default="auto", show_default=True, help="Kernels to use; see videoeff doctor.")
@click.option("--strict", is_flag=True, help="Refuse a model of which not all convolutions stream.")
@click.option(
    "--nan-policy",
    type=click.Choice(["error", "recompute"]),
    default="error",
    show_default=True,
    help="Frames with NaN: refuse them, or compute where it stands.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Look at every N-th frame, and hand out the last outputs between.",
)
@click.option(
    "--audit",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    show_default=True,
    metavar="SHARE",
    help="Compare this share of the frames with the dense model as the stream runs.",
)
@preprocess_options
@click.option("--name", help="What to call the model in reports.")
@threads_option
@json_option
def convert(
    source: Path,
    output: Path | None,
    dry_run: bool,
    reference: str | None,
    key: str | None,
    input_size: tuple[int, int] | None,
    streams: int,
    threads: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Convert SOURCE and write an artifact.

    SOURCE is a .pt2 (torch.export), an .onnx, or a checkpoint (.pth, .pt, .ckpt, .bin, .safetensors) with
    --model. Checkpoints are read as tensors only; a file that would run code is refused, a .pt2 too: it may
    hold tensors, sizes and the operators of PyTorch and torchvision, those of a quantised network (QDQ)
    among them. The code that --model names is run, because you name it.

    \b
    videoeff convert fast.pt2 -o fast.veff --input-size 352 480 --bgr
    videoeff convert r18.pth -o r18.veff --model torchvision:resnet18
        --input-size 224 224
    """
    if output is None and not dry_run:
        raise click.UsageError("name the artifact to write with -o OUT.veff, or ask for --dry-run")
    target = writable(output, "-o")
    look = Look.take(options)
    if options["refresh"] is None:
        del options["refresh"]
    elif options["reach"] is None:
        raise click.UsageError("--refresh is for what a bounded reach puts off: give --reach PIXELS too")
    if (options["precision"] == "int8") != (options["calibration"] is not None):
        raise click.UsageError(
            "--precision int8 and --calibration CLIP belong together: give both, or for bf16 no clip"
        )
    _check_early(options)
    zones, camera = take_zones(options), options.pop("camera_size") or None
    if zones is None and camera is not None:
        raise click.UsageError(
            "--camera-size places zones in a letterbox: give --zones, --watch or --ignore too"
        )
    if zones is not None and camera is None and look.fit != "stretch":
        raise click.UsageError(
            f"zones and --fit {look.fit}: where the frame lies in the padded input follows from its size; "
            "give --camera-size H W"
        )
    set_threads(threads)
    stream, size, notes = build_stream(source, reference, key, input_size or None, streams, look, options)
    if zones is not None:
        stream.set_zones(zones, frame_size=camera)
        notes += (f"zones: {zones_told(stream)}",)
    if target is not None and not dry_run:
        with stage(f"writing {target}"):
            stream.save(target)
    _report(stream, size, target if not dry_run else None, notes, dry_run, as_json)


def _check_early(options: dict[str, Any]) -> None:
    """Refuse wrong words before a model is read."""
    from videoeff.lowering.choose import choose_backends
    from videoeff.passes import parse_passes, recipe

    choose_backends(options["backend"])
    if options["passes"] is not None:
        parse_passes(options["passes"])
    else:
        recipe(options["recipe"])
    if options["thresholds_file"] is not None:
        from videoeff.serialize.files import read_json_object

        read_json_object(options["thresholds_file"])


def _report(
    stream: StreamingModule,
    size: tuple[int, int],
    written: Path | None,
    notes: tuple[str, ...],
    table: bool,
    as_json: bool,
) -> None:
    from videoeff.cli.shared.coverage import coverage, coverage_json, coverage_table

    rows, found = coverage(stream)
    report = stream.report()
    per_stream = report.state_bytes // max(1, report.streams)
    if as_json:
        emit(
            {
                "artifact": None if written is None else str(written),
                "name": stream.name,
                "input_size": list(size),
                "streams": report.streams,
                "state_bytes_per_stream": per_stream,
                "macs": report.macs["dense"],
                "convolutions_streamed": report.convolutions_streamed,
                "eager": [{"part": p, "reason": r} for p, r in report.eager],
                "notes": list(notes),
                **coverage_json(rows, found),
            }
        )
        return
    if table:
        show(coverage_table(rows))
    for note in notes:
        show(note)
    for part, reason in report.eager:
        show(f"runs as it is: {part or 'the outermost module'} ({reason})")
    show(
        f"{stream.name}: {percent(report.convolutions_streamed)} of the convolution work streams; state "
        f"{megabytes(per_stream)} per stream at {size[0]}x{size[1]}",
        found.sentence,
    )
    if written is not None:
        show(f"wrote {written} ({megabytes(written.stat().st_size)})")
