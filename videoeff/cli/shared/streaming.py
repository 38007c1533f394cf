"""Streaming a clip and measuring it: times, distances to the dense model, outputs, the overlay."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from videoeff.cli.shared.dense import Dense, Errors, tensors_of
from videoeff.cli.shared.feed import Feed
from videoeff.runtime.dense import channels_last
from videoeff.runtime.zoning import masks_of
from videoeff.video.overlay import legend, overlay_heat, overlay_ignored

if TYPE_CHECKING:
    from videoeff.calibration.comparison import Comparison
    from videoeff.cli.shared.drawing import Draw
    from videoeff.runtime.observation import Observation
    from videoeff.runtime.streaming_module import StreamingModule

Frame = NDArray[np.uint8]

#: What the heat of :meth:`~videoeff.runtime.Observation.heat` means, for the legend.
HEAT = "of the layers computed here"

#: What is hatched, for the legend.
IGNORED = "ignored"


@dataclass
class Measurement:
    """What running a clip gave.

    Attributes:
        frames: frames that went through.
        stream_ms: time of each streaming call.
        looked: whether the stream looked at the frame.
        dense_ms: time of each dense call, empty without a comparison.
        errors: distances to the dense outputs.
        outputs: for each output tensor its value in every frame, if they were asked for.
        stopped: why it ended before the clip did, None if it did not.
        seconds: of the whole loop, decoding and drawing included.
    """

    frames: int = 0
    stream_ms: list[float] = field(default_factory=list)
    looked: list[bool] = field(default_factory=list)
    dense_ms: list[float] = field(default_factory=list)
    errors: Errors = field(default_factory=Errors)
    outputs: list[list[NDArray[Any]]] = field(default_factory=list)
    stopped: str | None = None
    seconds: float = 0.0

    def median(self, which: list[float]) -> float | None:
        """Median of the frames after the first, in ms; None before there are any."""
        return statistics.median(which[1:]) if len(which) > 1 else None

    @property
    def looked_ms(self) -> list[float]:
        """Time of each streaming call in which the stream looked at the frame."""
        return [ms for ms, looked in zip(self.stream_ms, self.looked, strict=True) if looked]


@dataclass
class Streamer:
    """Runs frames through a stream, and through its dense model where asked.

    Attributes:
        stream: the stream.
        feed: makes a call of a frame.
        compare: also run the dense model, interleaved frame by frame, the order taking turns.
        keep: keep all outputs.
        write: called with each overlay frame (H, W, 3), uint8 RGB.
        draw: the user's drawing, over the heat map.
        heat: draw the change masks.
        seen: called with the frame's number, its outputs and the dense outputs or None.
        comparison: judges the stream and controls against the dense model, where that runs too.
    """

    stream: StreamingModule
    feed: Feed
    compare: bool = False
    keep: bool = False
    write: Callable[[Frame], None] | None = None
    draw: Draw | None = None
    heat: bool = True
    seen: Callable[[int, Any, Any], None] | None = None
    comparison: Comparison | None = None

    def run(self, frames: Iterable[Frame]) -> Measurement:
        """Run until the frames end or Ctrl-C; what was done so far is kept."""
        result, dense = Measurement(), Dense(self.stream)
        began = time.perf_counter()
        try:
            for frame in frames:
                self._one(frame, result, dense)
        except KeyboardInterrupt:
            result.stopped = f"interrupted after {result.frames} frame(s)"
        result.seconds = time.perf_counter() - began
        return result

    def _one(self, frame: Frame, result: Measurement, dense: Dense) -> None:
        args, kwargs = self.feed(frame)
        reference, dense_ms = None, 0.0
        dense_args, dense_kwargs = channels_last(dense.seen(args, kwargs)) if self.compare else (args, kwargs)
        first_dense = self.compare and result.frames % 2 == 1
        if first_dense:
            reference, dense_ms = self._timed(lambda: dense(dense_args, dense_kwargs))
        picture = None
        if self.write is not None and self.heat:
            with self.stream.observe() as seen:
                outputs, stream_ms = self._timed(lambda: self.stream(*args, **kwargs))
                picture = self._heat(seen, frame.shape[:2])
        else:
            outputs, stream_ms = self._timed(lambda: self.stream(*args, **kwargs))
        if self.compare and not first_dense:
            reference, dense_ms = self._timed(lambda: dense(dense_args, dense_kwargs))
        if self.compare:
            result.errors.add(outputs, reference)
            if self.comparison is not None:
                self.comparison.add(frame, outputs, reference)
        if self.seen is not None:
            self.seen(result.frames, outputs, reference)
        if self.keep:
            self._keep(result, outputs)
        if self.write is not None:
            drawn = self._drawn(frame[..., :3], picture)
            self.write(drawn if self.draw is None else self.draw(drawn.copy(), outputs, self.feed.preprocess))
        result.stream_ms.append(stream_ms)
        result.looked.append(self.stream.looked)
        self.stream.audit_now()  # a clip has idle time
        if self.compare:
            result.dense_ms.append(dense_ms)
        result.frames += 1

    def _heat(self, seen: Observation, size: tuple[int, int]) -> NDArray[Any]:
        """The heat over a frame of (H, W) pixels, without a letterbox's padding."""
        preprocess = self.feed.preprocess
        if preprocess.size is None or preprocess.fit == "stretch":
            return seen.heat(*size)[0].numpy()
        return self._unpadded(seen.heat(*preprocess.size)[0].numpy(), size)

    def _unpadded(self, value: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """The part (h, w) of what belongs to the input's pixels that shows a frame of (H, W) pixels."""
        there = self.feed.preprocess.place(size)
        return value[there.top : there.top + there.height, there.left : there.left + there.width]

    def _drawn(self, frame: Frame, heat: NDArray[Any] | None) -> Frame:
        """A frame (H, W, 3) with its ignored regions, the heat, and what both mean."""
        masks = masks_of(self.stream.body)
        watched = next(iter(masks.values()))[0].numpy() if masks else None
        if watched is not None:
            stretched = self.feed.preprocess.size is None or self.feed.preprocess.fit == "stretch"
            frame = overlay_ignored(frame, watched if stretched else self._unpadded(watched, frame.shape[:2]))
        if heat is not None:
            frame = overlay_heat(frame, heat)
        told = IGNORED if watched is not None else ""
        return (
            legend(frame, "" if heat is None else HEAT, ignored=told) if told or heat is not None else frame
        )

    def _timed(self, call: Callable[[], Any]) -> tuple[Any, float]:
        self._wait()
        begin = time.perf_counter()
        with torch.no_grad():
            value = call()
        self._wait()
        return value, (time.perf_counter() - begin) * 1e3

    def _wait(self) -> None:
        if self.stream.device.type == "cuda":
            torch.cuda.synchronize(self.stream.device)

    def _keep(self, result: Measurement, outputs: Any) -> None:
        for index, tensor in enumerate(tensors_of(outputs)):
            if index == len(result.outputs):
                result.outputs.append([])
            result.outputs[index].append(_to_numpy(tensor))


def _to_numpy(tensor: Tensor) -> NDArray[Any]:
    kept = tensor.detach().cpu()
    array: NDArray[Any] = (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy().copy()
    return array


def save_outputs(path: Path, outputs: list[list[NDArray[Any]]]) -> None:
    """Write all outputs as one .npz, whole or not at all.

    ``output_0`` is (frames, ...) where the output has one shape; ``output_0_frame_00012`` and so on where it
    varies.

    Raises:
        ArtifactError: it cannot be written.
    """
    from videoeff.serialize.files import write_atomic

    arrays: dict[str, NDArray[Any]] = {}
    for index, values in enumerate(outputs):
        if len({v.shape for v in values}) == 1:
            arrays[f"output_{index}"] = np.stack(values)
        else:
            arrays |= {f"output_{index}_frame_{number:05d}": v for number, v in enumerate(values)}

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomic(path, write)


def measured(stream: StreamingModule, result: Measurement, compare: bool) -> dict[str, Any]:
    """The figures of a run as plain values, for ``--report`` and ``--json``."""
    report = stream.report()
    known = report.frames > 0
    figures: dict[str, Any] = {
        "model": stream.name,
        "frames": result.frames,
        "streams": report.streams,
        "every": report.every,
        "held": report.held,
        "active_share": report.active_share,
        "macs": {k: v if known or k == "dense" else None for k, v in report.macs.items()},
        "macs_handed_out": report.macs_handed_out if known else None,
        "ms": {
            "stream_first": result.stream_ms[0] if result.stream_ms else None,
            "stream_median": result.median(result.looked_ms),
            "stream_mean": statistics.fmean(result.stream_ms[1:]) if len(result.stream_ms) > 1 else None,
            "dense_median": result.median(result.dense_ms),
        },
        "error": None,
        "state_bytes": report.state_bytes,
        "convolutions_streamed": report.convolutions_streamed,
        "ignored": report.ignored,
        "stopped": result.stopped,
        "audit": None if report.audit is None else report.audit.to_json(),
        "audit_summary": [] if report.audit is None else report.audit.summary(),
    }
    if compare and result.frames:
        figures["error"] = {
            "max_abs": result.errors.max_abs,
            "relative_l2": result.errors.relative_l2,
            "frames_with_other_shapes": result.errors.other_shapes,
        }
    plain = report.to_json()
    figures["events"] = [e | {"text": str(x)} for e, x in zip(plain["events"], report.events, strict=True)]
    figures["layers"] = plain["layers"]
    return figures
