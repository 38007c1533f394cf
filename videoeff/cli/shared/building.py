"""A stream of a model's file: what ``convert`` and ``calibrate`` begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.cli.shared.output import stage
from videoeff.cli.shared.preprocessing import Look, notes_on

if TYPE_CHECKING:
    from videoeff.runtime.streaming_module import StreamingModule


def build_stream(
    path: Path,
    reference: str | None,
    key: str | None,
    input_size: tuple[int, int] | None,
    streams: int,
    look: Look,
    options: dict[str, Any],
) -> tuple[StreamingModule, tuple[int, int], tuple[str, ...]]:
    """Read a model and convert it.

    Args:
        path: the model's file.
        reference: what builds the model, for a checkpoint.
        key: which weights of a checkpoint to take.
        input_size: (H, W) frames are resized to, None for the model's own.
        streams: clips in one batch.
        look: the preprocessing options.
        options: of ``videoeff.convert``, and ``thresholds_file``.

    Returns:
        The stream, its input size, and what a user has to know.
    """
    import torch
    from torch.nn import Module

    from videoeff.cli.shared.source import check_fixed, check_frames, example_call, read_source
    from videoeff.conversion import convert as to_stream
    from videoeff.errors import CaptureError

    with stage(f"reading {path}"):
        source = read_source(path, reference, key)
    size = check_fixed(source, path, input_size, streams)
    pre = look.preprocess(source.channels, source.uint8, size, _decoder(), exported=source.exported)
    options = dict(options)
    thresholds_file, name = options.pop("thresholds_file", None), options.pop("name", "")
    every, audit = options.pop("every", 1), options.pop("audit", 0.0)
    clip, lag = options.pop("noise_of", None), options.pop("noise_lag", 0)
    told: tuple[str, ...] = ()
    if clip is not None:
        from videoeff.cli.shared.noise import noise_of

        with stage(f"measuring the noise of {clip}"):
            options["noise"], told = noise_of(clip, lag, pre)
    calibration = options.pop("calibration", None)
    if calibration is not None:
        from videoeff.cli.shared.calls import calls_of

        options["calibration"], more = calls_of(calibration, source, pre, streams)
        told += more
    if options.get("precision") == "bf16":
        told += ("computes in bfloat16; frames and outputs are float32",)
    doing = "converting" if calibration is None else "quantising and converting"
    with stage(f"{doing} for {streams} stream(s) of {size[0]}x{size[1]}"):
        try:
            stream = to_stream(
                source.model, example_call(source, pre, streams), name=name or source.name, **options
            )
        except CaptureError as error:
            if "fails on the example" in str(error) and any(side % 32 for side in size):
                raise CaptureError(f"{error}; {_in_steps(size)}") from error
            raise
    if thresholds_file is not None:
        stream.load_thresholds(thresholds_file)
    notes = source.notes + told
    if source.check is not None:
        exact = stream.exact
        frames = check_frames(source, pre, streams, 3 if exact else 1)
        with stage("comparing with ONNX Runtime"):
            if options.get("precision") is None:
                notes += (source.check(stream, frames),)
            elif isinstance(source.model, Module):  # which no precision is to be blamed for
                with torch.no_grad():
                    notes += (f"before its precision was lowered, {source.check(source.model, frames)}",)
        stream.reset()
        stream.clear_report()
    stream.every(every).audit(audit)
    stream.extra.update(preprocess=pre.to_json(), model=reference, source=path.name, input_size=list(size))
    return stream, size, (*notes, *notes_on(pre, stream))


def _in_steps(size: tuple[int, int]) -> str:
    """What to try where a model cannot take a size that does not halve five times."""
    height, width = (max(1, round(side / 32)) * 32 for side in size)
    return (
        f"{size[0]}x{size[1]} is no multiple of 32, and models that join maps of several sizes need one: try "
        f"--input-size {height} {width}"
    )


def _decoder() -> str:
    from importlib.metadata import version

    return f"pyav {version('av')}"
