"""``videoeff verify``: the dense model and the stream side by side, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from videoeff.cli.shared.output import (
    DONE,
    FAILED,
    Command,
    emit,
    json_option,
    loading_options,
    set_threads,
    show,
    stage,
    threads_option,
    track,
)
from videoeff.cli.shared.zones import place_zones

if TYPE_CHECKING:
    from torch import nn

    from videoeff.cli.shared.feed import Feed
    from videoeff.runtime.streaming_module import StreamingModule

#: Largest difference over the output's largest magnitude that threshold 0 may show. float32 and float64 are
#: the design's law. The half types keep 11 and 8 bits: a kernel may add in another order than the dense one,
#: and each layer rounds again, so a few dozen roundings are allowed.
LAW = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}

DEFAULT_FRAMES = 20
CLIP_FRAMES = 30


@click.command(cls=Command, short_help="Check an artifact against its dense model.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("clip", required=False)
@click.option(
    "--frames",
    type=click.IntRange(1),
    help=f"Frames to look at.  [default: {CLIP_FRAMES} of a clip, {DEFAULT_FRAMES} synthetic ones]",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0),
    help="Largest difference over the output's largest magnitude; the law's if left out.",
)
@click.option("--worst", type=click.IntRange(0), default=10, show_default=True, help="Layers to list.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --model: the state dict the model was converted with.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@loading_options
@threads_option
@json_option
def verify(
    artifact: Path,
    clip: str | None,
    frames: int | None,
    tolerance: float | None,
    worst: int,
    weights: Path | None,
    device: str,
    reference: str | None,
    backend: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Check that ARTIFACT computes what its dense model computes.

    Without CLIP a synthetic one is used. At threshold 0 the law is 1e-9 in float64, 1e-4 in float32, 2e-2 in
    float16 and 1e-1 in bfloat16, of the output's largest magnitude. With thresholds above 0 no law bounds the
    outputs: they are reported, and frame 1, which must equal the dense model, is checked. The exit status
    is 1 if a law or the --tolerance is broken, or the clip broke off.

    Where float32 exceeds the law, frames are computed once more in float64: the law holds if the stream is
    not much further from that than eager PyTorch is, and both distances are reported.

    The dense model is the artifact's own graph, computed whole. With --model the outputs are compared with
    the model itself too, as its own code computes them: with --weights, else with the weights it is built
    with or, for an artifact in parts, those in the artifact.

    A quantised network is compared with its own dense network, computed whole by the same kernels: PyTorch
    computes it in floating point, which rounds to other numbers here and there. Of frame 1 no layer may be
    off by more than one step from PyTorch's evaluation of what it reads.

    A model captured in parts is judged by the layers of its parts: the code between them, which selects and
    sorts detections, can turn the last bit of a float into another box.
    """
    set_threads(threads)
    if weights is not None and reference is None:
        raise click.UsageError("--weights are those of a model: name what builds it with --model")
    with contextlib.ExitStack() as stack:
        from videoeff.video.source import open_clip

        source = None if clip is None else stack.enter_context(open_clip(clip, frames=frames or CLIP_FRAMES))
        from videoeff.cli.shared.clips import losses, note_on_shape, notes_on_losses, reopened
        from videoeff.cli.shared.dense import own_model
        from videoeff.cli.shared.feed import feed_of, load_stream

        with stage(f"loading {artifact}"):
            stream = load_stream(artifact, reference, backend, device)
        stream.audit(0.0)  # all of it is compared here
        feed = feed_of(stream, str(artifact))
        if source is not None and clip is not None:
            source = stack.enter_context(reopened(source, clip, frames or CLIP_FRAMES, alpha=feed.alpha))
            place_zones(stream, feed, source.size)
        pictures: Iterable[Any] = source if source is not None else _synthetic(frames or DEFAULT_FRAMES)
        total = source.frame_count if source is not None else frames or DEFAULT_FRAMES
        stopped = None
        model = None if reference is None else own_model(stream, reference, weights)
        checks = Checks(stream, feed, model, tolerance)
        try:
            for picture in track(pictures, "comparing", total):
                checks.frame(picture)
        except KeyboardInterrupt:
            stopped = f"interrupted after {checks.frames + checks.held} frame(s)"
        if source is not None and source.truncated:
            stopped = f"the clip ends early: {source.truncated}"
        notes = () if source is None else notes_on_losses(source)
        notes += () if source is None else note_on_shape(feed.preprocess, source.size)
    found = checks.result()
    found |= {
        "every": stream.options.every,
        "ignored": stream.report().ignored,
        "artifact": str(artifact),
        "clip": clip or "synthetic",
        "stopped": stopped,
    }
    found |= {} if source is None else losses(source)
    if as_json:
        emit(found)
    else:
        _show(found, worst)
    for note in notes:
        click.echo(f"videoeff verify: note: {note}", err=True)
    if stopped:
        click.echo(f"videoeff verify: {stopped}", err=True)
    click.get_current_context().exit(DONE if found["holds"] and not stopped else FAILED)


def _synthetic(frames: int) -> Iterator[Any]:
    from videoeff.demo.synth import synthetic_clip

    return (picture for picture, _ in synthetic_clip(frames, seed=1))


class Checks:
    """Collects, frame by frame, how far outputs and layers lie from the dense model.

    Args:
        stream: the stream.
        feed: makes its calls out of pictures.
        model: the model it was made of, to be compared with too.
        tolerance: what takes the law's place.
    """

    def __init__(
        self,
        stream: StreamingModule,
        feed: Feed,
        model: nn.Module | None = None,
        tolerance: float | None = None,
    ) -> None:
        from videoeff.cli.shared.dense import Dense, Errors
        from videoeff.cli.shared.float64 import Float64

        self.stream, self.feed, self.dense, self.model = stream, feed, Dense(stream), model
        self.tolerance, self.float64 = tolerance, Float64(stream, model)
        self.against_model = Errors()
        self.frames = self.held = 0
        #: Of a quantised network: steps between its first frame and PyTorch's evaluation, layer by layer.
        self.steps: int | None = None
        self.outputs, self.first = Errors(), Errors()
        self.layers: dict[str, dict[str, float]] = {}
        self.first_layers = self.first_of_model = 0.0
        self.dtype = "float32"
        self.exact = stream.exact
        #: Whether layers are judged, not outputs.
        self.by_layers = bool(stream.body.left)

    def frame(self, picture: Any) -> None:
        """One frame through both; one that the stream does not look at is none to the dense model."""
        import torch

        from videoeff.cli.shared.dense import distance, largest_step

        args, kwargs = self.feed(picture)
        outputs = self.stream(*args, **kwargs)
        if not self.stream.looked:
            self.held += 1
            return
        args, kwargs = self.dense.seen(args, kwargs)
        kept = self.stream.values()
        if self.frames == 0:
            floating = [v.dtype for v in kept.values() if v.dtype.is_floating_point] or [torch.float32]
            self.dtype = str(max(floating, key=lambda d: LAW.get(str(d)[6:], 0.0))).removeprefix("torch.")
        apart: dict[str, torch.Tensor] = {}

        def watch(name: str, value: Any) -> None:
            if name not in kept:
                return
            one = distance(kept[name], value)
            if self.frames == 0:
                self.first_layers = max(self.first_layers, one.relative)
            if self.by_layers and self._asks_float64 and one.relative > self.law:
                apart[name] = value.clone()
            entry = self.layers.setdefault(name, {"relative": 0.0, "max_abs": 0.0, "frame": 0.0})
            if one.relative > entry["relative"]:
                entry.update(relative=one.relative, max_abs=one.max_abs, frame=float(self.frames + 1))

        expected = self.dense(args, kwargs, watch)
        self.outputs.add(outputs, expected)
        own = None
        if self.model is not None:
            with torch.no_grad():
                own = self.model(*args, **kwargs)
            self.against_model.add(outputs, own)
            if self.frames == 0:
                self.first_of_model = self.against_model.relative
        if self.frames == 0:
            self.first.add(outputs, expected)
            self.steps = largest_step(self.stream)
        if self._asks_float64:
            if self.by_layers:
                self.float64.layers(args, kwargs, kept, apart)
            else:
                self.float64.outputs(args, kwargs, outputs, expected)
                self.float64.against_model(args, kwargs, outputs, own)
        self.frames += 1

    @property
    def law(self) -> float:
        """The law of the stream's dtype."""
        return LAW.get(self.dtype, LAW["float32"])

    @property
    def _asks_float64(self) -> bool:
        """Whether the law bounds this frame, and float64 can tell more."""
        bounded = self.tolerance is None and self.dtype == "float32" and (self.exact or self.frames == 0)
        return bounded and self.steps is None

    def result(self) -> dict[str, Any]:
        """The figures and the judgement."""
        law, tolerance, graph = self.law, self.tolerance, self.float64.graph
        bound = tolerance if tolerance is not None else law
        bounded = self.exact or tolerance is not None
        worst = max((x["relative"] for x in self.layers.values()), default=0.0)
        first = self.first_layers if self.by_layers else self.first.relative
        holds = first <= max(law, tolerance or 0.0) or graph.holds
        if bounded:
            holds = holds and ((worst if self.by_layers else self.outputs.relative) <= bound or graph.holds)
            holds = holds and (self.by_layers or not self.outputs.other_shapes)
        holds = holds and (self.steps or 0) <= 1
        if self.model is not None and not self.by_layers and self.steps is None:
            own = self.against_model
            worst_own = own.relative if bounded else self.first_of_model
            holds = holds and (worst_own <= max(bound, law) or self.float64.model.holds)
            holds = holds and not own.other_shapes
        apart = next((n for n in self._order() if self.layers[n]["relative"] > bound), None)
        return {
            "frames": self.frames,
            "held": self.held,
            "dtype": self.dtype,
            "exact": self.exact,
            "tolerance": bound if bounded else None,
            "law": law,
            "judged_by": "layers" if self.by_layers else "outputs",
            "first_frame_relative": self.first.relative,
            "relative": self.outputs.relative,
            "max_abs": self.outputs.max_abs,
            "relative_l2": self.outputs.relative_l2,
            "frames_with_other_shapes": self.outputs.other_shapes,
            "float64": graph.to_json(),
            "model_relative": None if self.model is None else self.against_model.relative,
            "model_frames_with_other_shapes": self.against_model.other_shapes,
            "model_float64": self.float64.model.to_json(),
            "holds": bool(holds and self.frames > 0),
            "first_layer_apart": apart,
            "steps": self.steps,
            "layers": [{"name": n, **self.layers[n]} for n in self._order()],
        }

    def _order(self) -> list[str]:
        return [n for n in self.stream.values() if n in self.layers]


def _show(found: dict[str, Any], worst: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    ranked = sorted(found["layers"], key=lambda x: -x["relative"])[:worst]
    if ranked:
        table = Table(box=box.SIMPLE_HEAD, title=Text("layers furthest from the dense model"))
        table.add_column("layer", overflow="fold")
        for head in ("relative", "max", "in frame"):
            table.add_column(head, justify="right")
        for row in ranked:
            cells = (row["name"], f"{row['relative']:.2e}", f"{row['max_abs']:.2e}", f"{row['frame']:.0f}")
            table.add_row(*(Text(c) for c in cells))
        show(table)
    show(
        f"{found['frames']} frame(s), {found['dtype']}: outputs differ by {found['relative']:.2e} of their "
        f"largest magnitude (max {found['max_abs']:.2e}, relative L2 {found['relative_l2']:.2e}); frame 1 "
        f"by {found['first_frame_relative']:.2e}"
    )
    if found["ignored"]:
        from videoeff.runtime.report import COMPARED, zones_text

        show(f"zones: {zones_text(found['ignored'])}", COMPARED)
    if found["held"]:
        show(
            f"{found['held']} frame(s) between were not looked at (every={found['every']}): their outputs "
            "are those of an earlier frame, and were not judged"
        )
    if found["frames_with_other_shapes"]:
        show(
            f"{found['frames_with_other_shapes']} frame(s) had outputs of other shapes than the dense model's"
        )
    if found["model_relative"] is not None:
        odd = found["model_frames_with_other_shapes"]
        shapes = f", and have other shapes in {odd} frame(s)" if odd else ""
        show(f"the model itself: outputs differ by {found['model_relative']:.2e}{shapes}")
    for told in (found["float64"], found["model_float64"]):
        if told is not None:
            show(f"beyond the law: {told['sentence']}")
    if found["steps"] is not None:
        show(
            "quantised: compared with the same network, computed whole by the same kernels; in frame 1 a "
            f"layer is off from PyTorch's evaluation of what it reads by {found['steps']} step(s) at most"
        )
    if found["first_layer_apart"] is not None:
        bound = found["tolerance"] if found["tolerance"] is not None else found["law"]
        show(f"first layer apart by more than {bound:g}: {found['first_layer_apart']}")
    if found["judged_by"] == "layers":
        show("captured in parts, so judged by their layers")
    show(_judgement(found))


def _judgement(found: dict[str, Any]) -> str:
    if found["tolerance"] is None:
        if not found["holds"]:
            return f"BROKEN: frame 1 must equal the dense model to {found['law']:g}, whatever the thresholds"
        return (
            "Holds: frame 1 equals the dense model. Thresholds are above 0 or the reach is bounded, so no "
            "law bounds the later outputs; give --tolerance to set one."
        )
    what = (
        "the law of threshold 0" if found["exact"] and found["tolerance"] == found["law"] else "the tolerance"
    )
    word = "Holds" if found["holds"] else "BROKEN"
    whose = "layer" if found["judged_by"] == "layers" else "output"
    told = [t for t in (found["float64"], found["model_float64"]) if t is not None]
    beyond = ", or what float32's rounding explains" if found["holds"] and told else ""
    return f"{word}: {what}, {found['tolerance']:g} of each {whose}'s largest magnitude{beyond}"
