"""convert: a model and an example become a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from videoeff.analysis import is_convolution
from videoeff.capture import capture, require_eval
from videoeff.engine import Engine
from videoeff.errors import CaptureError, PassError
from videoeff.passes import Pass, parse_passes, recipe, run_passes
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime import StreamingModule
from videoeff.shell import Shell
from videoeff.splice import has_convolution, split

Model = nn.Module | torch.export.ExportedProgram


def convert(
    model: Model,
    example: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    threshold: float = 0.0,
    recipe: str = "delta",
    passes: str | Sequence[Pass] | None = None,
    backend: str = "auto",
    strict: bool = False,
    predict: float = 0.0,
    input_threshold: float | None = None,
    block: int = 1,
    dilation: int = 0,
    alias_outputs: bool = False,
    nan_policy: str = "error",
    on_resize: str = "error",
    name: str = "",
) -> StreamingModule:
    """Turn a trained CNN into a stateful module that recomputes only what changed between frames.

    Args:
        model: a module in evaluation mode, an ``ExportedProgram`` or a ``GraphModule``.
        example: one call's argument, or a tuple of its positional arguments; the size, dtype, device and
            batch (= streams) of the frames to come.
        kwargs: keyword arguments of the call.
        threshold: τ. 0 is exact; 0.05 to 0.2 drop changes of less than that share of each layer's own
            standard deviation.
        recipe: "delta", or "exact", which touches no number (batch norm stays unfolded).
        passes: a list of passes instead of a recipe, also as text: ``"drop-noops,insert-delta-caches"``.
        backend: "auto" or a backend's name.
        strict: raise if the pixels of some convolution cannot be followed.
        predict: π of the predicted changes, 0 for none; 1 to 1.5 save a further third to half.
        input_threshold: the input's threshold relative to its standard deviation; ``threshold`` if None.
        block: edge in pixels of the blocks the input's test averages over; 8 suits noisy video.
        dilation: blocks computed around each changed block.
        alias_outputs: return the buffers themselves, which the next frame overwrites.
        nan_policy: "error" or "recompute".
        on_resize: "error", or "replan" to convert anew for a frame of another size.
        name: what to call the model in reports.

    Returns:
        A :class:`~videoeff.runtime.StreamingModule` with the model's own signature.

    Raises:
        CaptureError: the model is in training mode, has no convolution, cannot be captured, or (strict)
            does not stream in full.
        PassError: unknown passes or options.
        BackendError: the backend cannot serve.
    """
    chosen = _passes(recipe, passes, threshold, predict, input_threshold, block, dilation)
    args = example if isinstance(example, tuple) else (example,)
    keywords = dict(kwargs or {})
    if isinstance(model, nn.Module):
        require_eval(model)
    name = name or _name(model)
    options: dict[str, Any] = {
        "alias_outputs": alias_outputs,
        "nan_policy": nan_policy,
        "on_resize": on_resize,
    }

    def build(args: tuple[Any, ...], keywords: dict[str, Any]) -> StreamingModule:
        return _build(model, args, keywords, chosen, backend, name, options)

    stream = build(args, keywords)
    if on_resize == "replan":
        stream._replan = build
    if strict:
        _require_all(stream)
    return stream


def _build(
    model: Model,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    passes: Sequence[Pass],
    backend: str,
    name: str,
    options: dict[str, Any],
) -> StreamingModule:
    try:
        program = capture(model, args, kwargs, name=name)
    except CaptureError as error:
        if isinstance(model, (torch.export.ExportedProgram, fx.GraphModule)) or not has_convolution(model):
            raise
        return _in_parts(model, args, kwargs, passes, backend, name, options, error)
    if not any(is_convolution(n) for n in program.nodes):
        raise CaptureError(
            f"{name}: it has no convolution, so there are no pixels to follow; run it as it is"
        )
    engine = Engine(run_passes(program, passes), backend)
    return StreamingModule(engine, name=name, **options)


def _in_parts(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    passes: Sequence[Pass],
    backend: str,
    name: str,
    options: dict[str, Any],
    reason: CaptureError,
) -> StreamingModule:
    found = split(model, args, kwargs)
    engines: dict[str, list[Engine]] = {}
    for part in found.parts:
        engines.setdefault(part.path, []).append(Engine(run_passes(part.program, passes), backend))
    left = (("", str(reason)), *found.left)
    shell = Shell(model, engines, (args, kwargs), left, found.convolution_macs)
    return StreamingModule(shell=shell, name=name, **options)


def _passes(
    recipe_name: str,
    passes: str | Sequence[Pass] | None,
    threshold: float,
    predict: float,
    input_threshold: float | None,
    block: int,
    dilation: int,
) -> tuple[Pass, ...]:
    thresholds = InsertThresholds(
        threshold, predict=predict, input_threshold=input_threshold, block=block, dilation=dilation
    )
    asked = thresholds != InsertThresholds()
    if passes is not None:
        chosen = parse_passes(passes) if isinstance(passes, str) else tuple(passes)
        if asked and any(isinstance(p, InsertThresholds) for p in chosen):
            raise PassError(
                "thresholds are given twice: once as an option and once in the list of passes; drop one"
            )
        return (*chosen, thresholds) if asked else chosen
    chosen = recipe(recipe_name)
    if not any(isinstance(p, InsertThresholds) for p in chosen):
        if asked:
            raise PassError(f"recipe {recipe_name!r} is exact and takes no threshold; use recipe='delta'")
        return chosen
    return tuple(replace(thresholds) if isinstance(p, InsertThresholds) else p for p in chosen)


def _name(model: Model) -> str:
    if isinstance(model, torch.export.ExportedProgram):
        return "exported"
    return type(model).__name__


def _require_all(stream: StreamingModule) -> None:
    report = stream.report()
    if report.convolutions_streamed >= 1.0:
        return
    missing = [
        f"{i.call.name} ({i.call.dense})"
        for e in stream.engines.values()
        for i in e.plan.instructions
        if i.convolution_macs and not i.streams
    ]
    missing += [f"{path or 'the outermost module'} ({why})" for path, why in report.eager[1:]]
    raise CaptureError(
        f"{stream.name}: {100 * (1 - report.convolutions_streamed):.1f} % of its convolution work does not "
        f"stream: {'; '.join(missing[:8])}; convert with strict=False to run that densely"
    )
