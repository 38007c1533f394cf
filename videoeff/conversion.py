"""convert: a model and an example become a stream."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import fx, nn

from videoeff.analysis import is_convolution
from videoeff.capture.admission import (
    ordinary_tensors,
    require_example,
    require_model,
    unwrapped,
)
from videoeff.capture.agreement import check, require_agreement
from videoeff.capture.autocast import Autocast
from videoeff.capture.export import as_module, capture, require_eval
from videoeff.capture.keeping import Keeper, kept
from videoeff.capture.partition import begin_again, changed_tensors, has_convolution, partition
from videoeff.capture.quantised import check_precision, quantised
from videoeff.capture.randomness import require_none
from videoeff.capture.reachable import has_function_caches
from videoeff.capture.settling import Noticed, noticing, own_parameters, settle
from videoeff.errors import BackendError, CaptureError, VaryingSizeError, first_line
from videoeff.ir.edit import to_device
from videoeff.ir.program import Program
from videoeff.lowering.choose import choose_backends
from videoeff.passes import Pass, run_passes
from videoeff.passes.bound_reach import REFRESH
from videoeff.passes.options import as_tuples, bound_of, passes_of
from videoeff.runtime.bfloat16 import in_bfloat16, require_float32
from videoeff.runtime.body import StreamBody
from videoeff.runtime.engine import Engine
from videoeff.runtime.options import AuditOptions, Options
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.rehearsal import Trial
from videoeff.runtime.signature import Parameters, Signature, describe
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import GivenZones, check_zones

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
    noise: Sequence[Sequence[float]] = (),
    weak: float = 1.0,
    grow: int = 0,
    zones: GivenZones | None = None,
    reach: float | None = None,
    refresh: int = REFRESH,
    alias_outputs: bool = False,
    nan_policy: str = "error",
    on_resize: str = "error",
    every: int = 1,
    audit: float = 0.0,
    precision: str | None = None,
    calibration: Iterable[Any] | None = None,
    device: torch.device | str | None = None,
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
        input_threshold: the input's threshold relative to its standard deviation; ``threshold`` if None. With
            ``noise`` it is in standard deviations of the noise, 4 if None.
        block: edge in pixels of the blocks the input's test averages over; 8 suits noisy video.
        dilation: blocks computed around each changed block.
        noise: the camera's noise, (gain, floor, black) of each channel of the input, as
            ``videoeff.calibration.noise`` measures it: the variance of a value x is
            floor + gain · max(x − black, 0). The input's test is then relative to it.
        weak: share of the input's threshold that a block next to a changed one has to exceed to be computed.
        grow: how often changed blocks grow to such neighbours; 1 with ``weak=0.4`` instead of ``dilation=1``
            computes less at the same agreement.
        zones: which pixels of the frame count: polygons (:class:`videoeff.video.zones.Zones`) of a frame that
            fills the input, or the watched pixels of the input, bool (H, W) or (B, H, W). The others never
            count as changed and cost nothing; see ``stream.set_zones``, which also places polygons in a
            letterbox.
        reach: compute only what lies within so many pixels of the frame of what changed, and put off what
            changes reach beyond; None: compute all that they reach. 0 to 16 save most on busy clips.
        refresh: with a ``reach``, what was put off is computed within so many frames; 0: never.
        alias_outputs: return the buffers themselves, which the next frame overwrites.
        nan_policy: "error" or "recompute".
        on_resize: "error", or "replan" to convert anew for a frame of another size.
        every: look at every n-th frame, and hand out the last outputs between; see ``stream.every``.
        audit: share of the frames that are compared with the dense network; see ``stream.audit``.
        precision: "bf16" to compute a network in float32 in bfloat16, weights and kept values alike; frames
            and outputs stay float32. "int8" to quantise the network first. None: compute as it is. A network
            that is quantised already (QDQ form) streams in integers as it is.
        calibration: with "int8", 20 to 300 calls like the example, spread over a clip.
        device: where the stream is to live, such as "cuda:1"; where the example lies if None. The model stays
            where it is.
        name: what to call the model in reports.

    The stream shares the weights' memory with the model where no pass rewrote them: do not write into
    them (by training on) while the stream is in use.

    Returns:
        A :class:`~videoeff.runtime.streaming_module.StreamingModule` with the model's own signature.

    Raises:
        CaptureError: the model is in training mode, has no convolution, cannot be captured, or (strict)
            does not stream in full.
        PassError: unknown passes or options.
        BackendError: the backend, the device or the precision cannot serve, or a package is missing.
        StateError: an unknown ``nan_policy`` or ``on_resize``, ``every`` or ``audit`` out of range, or zones
            that fit no input.
        VideoError: the zones leave nothing to watch.
    """
    options = Options(alias_outputs, nan_policy, on_resize, every, AuditOptions(audit))
    choose_backends(backend)
    check_precision(precision, calibration)
    place = _device(device)
    check_zones("convert", zones)
    tested = {"block": block, "dilation": dilation, "noise": as_tuples(noise), "weak": weak, "grow": grow}
    chosen = passes_of(recipe, passes, threshold, predict, input_threshold, tested)
    chosen += bound_of(reach, refresh, chosen)
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise CaptureError(f"kwargs is a {type(kwargs).__name__}; give a dictionary of keyword arguments")
    args = example if isinstance(example, tuple) else (example,)
    model = unwrapped(model)
    planning = isinstance(model, nn.Module) and _is_planned(model, args, kwargs or {})
    require_model(model, planning)
    if Autocast.now():
        raise CaptureError(
            f"convert was called inside {Autocast.now()}; leave the block, and put autocast inside the "
            "model's forward if its layers are to run in that precision"
        )
    name = name or _name(model)
    if isinstance(model, nn.Module):
        require_eval(model)
    require_example(name, args, kwargs or {})
    if precision == "bf16":
        require_float32(model, (args, dict(kwargs or {})), name)
    if precision == "int8" and calibration is not None:
        if on_resize == "replan":
            raise CaptureError(f"{name}: a network is quantised for one size; drop on_resize='replan'")
        if kwargs:
            raise CaptureError(f"{name}: kwargs with a precision; give the arguments by position")
        model = quantised(model, args, calibration, name)
    forward = model.module().forward if isinstance(model, torch.export.ExportedProgram) else model.forward
    builder = _Builder(model, chosen, backend, place, name, planning, precision == "bf16")
    stream = StreamingModule(
        builder.build(args, dict(kwargs or {})),
        options,
        name=name,
        replan=builder.build_again if on_resize == "replan" else None,
        forward_parameters=Parameters.of(forward),
    )
    if zones is not None:
        stream.set_zones(zones)
    if strict:
        _require_all(stream)
    return stream


@dataclass(frozen=True)
class _Builder:
    """Builds what a stream runs, for the example call and again for calls of another size.

    Attributes:
        model: the model.
        passes: the passes to run.
        backend: "auto" or a backend's name.
        device: where the stream is to live; where the example lies if None.
        name: what to call the model.
        planned: whether model and example have no values: what comes of them is for a device elsewhere.
        bfloat16: whether a copy of the model computes in bfloat16.
    """

    model: Model
    passes: tuple[Pass, ...]
    backend: str
    device: torch.device | None
    name: str
    planned: bool = False
    bfloat16: bool = False

    def build(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamBody:
        """The body for an example call."""
        # What is made in inference mode could not be written outside it.
        with torch.inference_mode(False), torch.no_grad(), _no_collection():
            args, kwargs = pytree.tree_map(_no_inference_tensor, (args, kwargs))
            with ordinary_tensors(self.model):
                body = self._body(args, kwargs)
            if self.device is not None:
                body.to(self.device)  # of a partitioned model, what is around the partitions
            return body

    def build_again(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamBody:
        """The body for a frame of a stream that may have been moved or cast since."""
        return self.build(*_as_model(self.model, args, kwargs))

    def _body(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamBody:
        model = self.model
        try:
            if isinstance(model, torch.export.ExportedProgram):
                return self._exported(model, args, kwargs)
            return self._module(self._cast(model), args, kwargs)
        except CaptureError as error:
            if self.bfloat16 and "float" in str(error).lower():
                raise CaptureError(f"{error} ({_FIXED})") from error
            raise

    def _cast(self, model: nn.Module) -> nn.Module:
        """The model, or a copy in the precision asked for."""
        return in_bfloat16(model) if self.bfloat16 else model

    def _exported(
        self, model: torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StreamBody:
        """The body of an exported model; one that cannot be captured whole has its modules made anew."""
        try:
            given = self._cast(model.module(check_guards=False)) if self.bfloat16 else model
            program = capture(given, args, kwargs, name=self.name)
        except VaryingSizeError:
            return self._module(self._cast(as_module(model, self.name)), args, kwargs)
        return self._whole(program)

    def _module(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StreamBody:
        if self.planned:
            return self._whole(capture(model, args, kwargs, name=self.name))
        with kept(model) as keeper:
            return self._kept(model, args, kwargs, keeper)

    def _kept(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], keeper: Keeper
    ) -> StreamBody:
        """The body of a model that is put back as it was by the caller."""
        failure: Exception | None = None
        noticed, settled = Noticed(), keeper
        program: Program | None = None
        remembers = has_function_caches(model)  # a trace would leave its tensors in them
        if not remembers:
            try:
                with noticing(model) as noticed:
                    program = capture(model, args, kwargs, name=self.name)
            except Exception as error:  # noqa: BLE001  with empty caches a trace may fail anywhere
                failure = error
        if program is None or noticed.names:  # it may do when what it remembers of a frame's size is there
            keeper.restore()
            keeper.keep_parameters()
            changed = _require_run(model, args, kwargs, self.name)
            own_parameters(model, keeper.changed())
            settled = Keeper(model)
            if changed or remembers or noticed.names:
                try:
                    program = capture(model, args, kwargs, name=self.name)
                except CaptureError as error:
                    program, failure = None, error
                settled.restore()
        if program is None:
            parts = isinstance(failure, CaptureError) and not isinstance(model, fx.GraphModule)
            if failure is not None and not (parts and has_convolution(model)):
                raise failure
            try:
                return self._partitioned(model, args, kwargs, str(failure), (keeper, settled))
            except CaptureError as error:
                raise CaptureError(f"{failure}; in parts: {error}") from error
        body = self._whole(program)
        remembers = remembers or bool(noticed.names)
        require_agreement(model, keeper, program, args, kwargs, remembers=remembers)
        return body

    def _whole(self, program: Program) -> Engine:
        require_none(program)
        if not any(is_convolution(n) for n in program.nodes):
            raise CaptureError(
                f"{self.name}: it has no convolution, so there are no pixels to follow; run it as it is"
            )
        engine = Engine(self._rewritten(program), self.backend)
        if not engine.streamed_macs and all(len(s.shape) < 4 for s in engine.signature.frame_specs):
            raise CaptureError(
                f"{self.name}: nothing of it would stream for the example {_shapes(engine.signature)}: no "
                "argument is read as pictures; give frames as (B, C, H, W), or as one picture (C, H, W)"
            )
        return engine

    def _partitioned(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reason: str,
        keepers: tuple[Keeper, Keeper],
    ) -> PartitionedModel:
        keeper, settled = keepers
        settled.keep_parameters()
        found = partition(model, args, kwargs)
        outside = changed_tensors(model, settled, found)
        settled.restore()
        begin_again(model, found)
        engines: dict[str, list[Engine]] = {}
        for captured in found.partitions:
            program = self._rewritten(captured.program)
            calls = engines.setdefault(captured.path, [])
            if calls:
                _share_constants(calls[0].program, program)
            calls.append(Engine(program, self.backend))
        left = (("", reason), *found.left)
        signature = Signature.of(args, kwargs)

        def body() -> PartitionedModel:
            return PartitionedModel(model, engines, signature, left, found.convolution_macs, outside)

        trial = Trial(body(), found.partitions)
        check(model, keeper, trial.begin, (args, kwargs), self.name, trial.carried, history=True)
        settled.restore()
        for path in trial.uncalled():
            del engines[path]
            left += ((path, "the model's code reaches it by another way than through its parent"),)
        if not engines:
            raise CaptureError(
                f"{self.name}: none of the parts that were captured is called (such as {left[-1][0]!r}): its "
                "code reaches them through a global variable, or an object that cannot be copied; call them "
                "as attributes of the model"
            )
        return body()

    def _rewritten(self, program: Program) -> Program:
        """The program after the passes, where its stream is to live, before it is lowered."""
        program = run_passes(program, self.passes)
        return program if self.device is None else to_device(program, self.device)


#: Why a model that runs in float32 may fail in bfloat16.
_FIXED = (
    "precision='bf16' runs it in bfloat16: where its own code, or the graph of an export, makes float32 of "
    "what a layer reads, change that, or convert without a precision"
)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Put off the collection of cyclic garbage: an export makes enough objects for several."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _device(device: torch.device | str | None) -> torch.device | None:
    """The device, before anything is built for it."""
    if device is None:
        return None
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise BackendError(
            f"device={str(device)!r} cannot be used here: {first_line(error)}; "
            "torch.cuda.device_count() tells how many GPUs there are"
        ) from error
    return place


def _share_constants(first: Program, other: Program) -> None:
    """Let two calls of one module keep its rewritten weights once."""
    known = dict(first.module.named_buffers(remove_duplicate=False))
    for path, module in other.module.named_modules():
        for key, tensor in module._buffers.items():
            twin = known.get(f"{path}.{key}" if path else key)
            if twin is None or tensor is None or twin.dtype != tensor.dtype or twin.device != tensor.device:
                continue
            if torch.equal(twin, tensor):
                module._buffers[key] = twin


def _no_inference_tensor(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) and value.is_inference() else value


def _as_model(
    model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A frame of a stream that was moved or cast, where the model still is."""
    held = [] if isinstance(model, torch.export.ExportedProgram) else [*model.parameters(), *model.buffers()]
    device = held[0].device if held else None
    dtype = next((t.dtype for t in held if t.is_floating_point()), None)

    def fit(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device, dtype if value.is_floating_point() else None)

    return pytree.tree_map(fit, (args, kwargs))  # type: ignore[no-any-return]


def _require_run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> bool:
    """Run the example; tells one that does not fit the model from a model that cannot be exported."""
    try:
        return settle(model, args, kwargs)
    except Exception as error:
        hint = "a tuple holds the positional arguments, kwargs= the keyword arguments"
        odd = _mismatch(model, args, kwargs)
        if odd:
            hint = f"{odd}; bring both together with .to(...)"
        if len(args) == 1 and isinstance(args[0], list):
            hint = "a list is one argument; pass a tuple for several positional arguments"
        if len(args) == 1 and isinstance(args[0], Mapping):
            hint = "a dictionary is one argument; pass keyword arguments as kwargs="
        raise CaptureError(
            f"{name}: the model itself fails on the example {describe(args, kwargs)}: {first_line(error)}; "
            f"{hint}"
        ) from error


def _mismatch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """That the weights and the example differ in device or floating dtype: "" if they do not."""
    given = [v for v in pytree.tree_leaves((args, kwargs)) if isinstance(v, torch.Tensor)]
    held = list(model.parameters())
    if not given or not held:
        return ""
    for what in ("device", "dtype"):
        theirs = {str(getattr(v, what)) for v in given}
        own = {str(getattr(v, what)) for v in held}
        if not theirs & own:
            return f"the {what} of the example is {', '.join(theirs)}, that of the model {', '.join(own)}"
    return ""


def _is_planned(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether model and example have no values: what comes of them is planned, for a device elsewhere."""
    given = [v for v in pytree.tree_leaves((args, dict(kwargs))) if isinstance(v, torch.Tensor)]
    held = [*model.parameters(), *model.buffers()]
    return bool(given) and bool(held) and all(t.is_meta for t in (*given, *held))


def _shapes(signature: Signature) -> str:
    return ", ".join(str(list(spec.shape)) for spec in signature.frame_specs) or "without a tensor"


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
