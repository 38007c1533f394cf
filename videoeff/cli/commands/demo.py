"""``videoeff demo``: convert the shipped segmenter, stream a synthetic clip, show dense against streaming."""

from __future__ import annotations

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
    megabytes,
    percent,
    set_threads,
    show,
    stage,
    threads_option,
    track,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from videoeff.ir.program import Program
    from videoeff.runtime.streaming_module import StreamingModule

SIZE = (256, 448)
SEED = 3

#: Name of the files, title, options of the clip, and of the conversion.
Setting = tuple[str, str, dict[str, float], dict[str, Any]]

SETTINGS: tuple[Setting, ...] = (
    ("exact", "τ = 0, clean clip", {"noise": 0.0, "illumination": 1.0}, {}),
    (
        "lossy",
        "τ = 0.2, π = 1.5, noisy clip, passing cloud",
        {"noise": 1.5, "illumination": 0.75},
        {"threshold": 0.2, "predict": 1.5, "block": 8, "dilation": 1},
    ),
)


@click.command(cls=Command, short_help="Stream a synthetic clip through a shipped network.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("videoeff-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for the files.",
)
@click.option("--frames", type=click.IntRange(2), default=60, show_default=True, help="Length of the clip.")
@threads_option
@json_option
def demo(out: Path, frames: int, threads: int | None, as_json: bool) -> None:
    """Convert the shipped segmenter and stream a synthetic clip through it, beside the dense model.

    Writes artifacts, overlay videos, reports and HTML pages into a folder.
    """
    _make_folder(out)
    used = set_threads(threads)
    from videoeff.demo.model import load_demo_model

    with stage("reading the segmenter"):
        model = load_demo_model()
        before = _captured(model)
    results = [_one(setting, model, before, out, frames) for setting in SETTINGS]
    document = {"frames": frames, "size": list(SIZE), "threads": used, "settings": results}
    from videoeff.serialize.files import write_text

    write_text(out / "summary.json", json_text(document))
    if as_json:
        emit(document)
    else:
        _show(results, out, used)
    broken = next((r["stopped"] for r in results if r["stopped"]), None)
    if broken:
        click.echo(f"videoeff demo: {broken}", err=True)
    click.get_current_context().exit(FAILED if broken else DONE)


def _make_folder(out: Path) -> None:
    from videoeff.cli.shared.output import writable
    from videoeff.errors import ArtifactError

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"--out: {out}: cannot be made ({error.strerror}); choose another folder"
        ) from error
    writable(out / "summary.json", "--out")


def _example() -> Tensor:
    import torch

    return torch.zeros(1, 3, *SIZE)


def _captured(model: nn.Module) -> Program:
    """The graph before any pass, for the pages."""
    from videoeff.capture.export import capture

    return capture(model, (_example(),), name="segmenter")


def _one(setting: Setting, model: nn.Module, before: Program, out: Path, frames: int) -> dict[str, Any]:
    """One setting: convert, stream, compare, write."""
    from videoeff.cli.shared.feed import feed_of
    from videoeff.cli.shared.streaming import Streamer, measured
    from videoeff.demo.synth import FPS, synthetic_clip
    from videoeff.inspect.stream import write_stream_html
    from videoeff.serialize.files import write_text
    from videoeff.video.writer import ClipWriter

    key, title, look, options = setting
    with stage(f"converting the segmenter ({title})"):
        stream = _converted(model, options)
        stream.save(out / f"{key}.veff")
        clip = list(
            synthetic_clip(frames, SIZE, seed=SEED, noise=look["noise"], illumination=look["illumination"])
        )
    scores = _Scores([labels for _, labels in clip])
    with ClipWriter(out / f"{key}.mp4", FPS, SIZE) as writer:
        feed = feed_of(stream, "the demonstration")
        streamer = Streamer(stream, feed, compare=True, write=writer.write, seen=scores.seen)
        pictures = [picture for picture, _ in clip]
        result = streamer.run(track(pictures, f"streaming ({title})", frames))
    figures = measured(stream, result, True)
    figures |= {"setting": key, "title": title, **scores.figures()}
    with stage("writing the report"):
        write_text(out / f"{key}.json", json_text(figures))
        write_stream_html(out / f"{key}.html", stream, captured=before)
    figures["files"] = [str(out / f"{key}{suffix}") for suffix in (".veff", ".mp4", ".html", ".json")]
    return figures


def _converted(model: nn.Module, options: dict[str, Any]) -> StreamingModule:
    from dataclasses import replace

    from videoeff.conversion import convert
    from videoeff.demo.model import demo_preprocess

    stream = convert(model, _example(), name="segmenter", **options)
    stream.extra.update(
        preprocess=replace(demo_preprocess(), size=SIZE).to_json(),
        model=None,
        source="segmenter.safetensors",
        input_size=list(SIZE),
    )
    return stream


class _Scores:
    """How well dense and streaming label the clip, whose labels are known."""

    def __init__(self, truth: list[Any]) -> None:
        import numpy as np

        self.truth = truth
        self.counts = {"stream": np.zeros((4, 4), np.int64), "dense": np.zeros((4, 4), np.int64)}
        self.agreeing = self.pixels = 0

    def seen(self, index: int, outputs: Any, dense: Any) -> None:
        """Count one frame."""
        from videoeff.demo.model import confusion, label_map

        truth = self.truth[index]
        labels = {"stream": label_map(outputs, SIZE), "dense": label_map(dense, SIZE)}
        for which, found in labels.items():
            self.counts[which] += confusion(found, truth)
        self.agreeing += int((labels["stream"] == labels["dense"]).sum())
        self.pixels += truth.size

    def figures(self) -> dict[str, Any]:
        """Mean intersection over union of both, and the share of pixels labelled alike."""
        from videoeff.demo.model import mean_iou

        if not self.pixels:
            return {"miou": None, "same_label": None}
        return {
            "miou": {which: mean_iou(found) for which, found in self.counts.items()},
            "same_label": self.agreeing / self.pixels,
        }


def _show(results: list[dict[str, Any]], out: Path, threads: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title = f"segmenter at {SIZE[0]}x{SIZE[1]}, {results[0]['frames']} frames, {threads} thread(s)"
    table = Table(box=box.SIMPLE_HEAD, title=Text(title))
    table.add_column("")
    for found in results:
        table.add_column(Text(found["title"]), justify="right")
    for name, read in _ROWS:
        table.add_row(Text(name), *(Text(read(found)) for found in results))
    show(table)
    show(
        "At threshold 0 each change of a channel gate (squeeze-excite) makes its whole map change, which is "
        "most of the work here; a threshold holds the gates."
    )
    show(f"files in {out}: summary.json, and for each setting")
    for found in results:
        show("  " + "  ".join(Path(name).name for name in found["files"]))
    show(
        "The .mp4 shows where layers computed, the .html both graphs; videoeff run and inspect take the "
        ".veff."
    )


def _macs(found: dict[str, Any], which: str) -> str:
    macs = found["macs"]
    if macs[which] is None:
        return "–"
    share = f" ({percent(macs[which] / macs['dense'])})" if which != "dense" else ""
    return f"{count(macs[which])}{share}"


def _ms(found: dict[str, Any], which: str) -> str:
    return "–" if found["ms"][which] is None else f"{found['ms'][which]:.1f} ms"


def _miou(found: dict[str, Any], which: str) -> str:
    return "–" if found["miou"] is None else f"{found['miou'][which]:.4f}"


def _error(found: dict[str, Any]) -> str:
    return "–" if found["error"] is None else f"{found['error']['max_abs']:.2g}"


_ROWS: tuple[tuple[str, Any], ...] = (
    ("largest error of the logits", _error),
    ("same label as dense", lambda found: percent(found["same_label"])),
    ("mIoU, dense", lambda found: _miou(found, "dense")),
    ("mIoU, streaming", lambda found: _miou(found, "stream")),
    ("MACs a frame, dense", lambda found: _macs(found, "dense")),
    ("MACs needed", lambda found: _macs(found, "needed")),
    ("MACs scheduled", lambda found: _macs(found, "scheduled")),
    ("time, dense", lambda found: _ms(found, "dense_median")),
    ("time, streaming", lambda found: _ms(found, "stream_median")),
    ("state", lambda found: megabytes(found["state_bytes"])),
)
