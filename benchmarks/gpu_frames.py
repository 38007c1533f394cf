"""Whole frames on a GPU: a stream beside dense peers of the same weights and precision."""

from __future__ import annotations

import contextlib
import copy
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu_render import COMPILE, COMPILE_GRAPH, COMPILED, CUDNN_GRAPH
from videoeff.bench.clips import BlobClip
from videoeff.bench.figures import summary
from videoeff.bench.spec import Model
from videoeff.testing import TOLERANCES

DEVICE = "cuda"

#: Statistics of batch norms are settled on pictures of this size.
SETTLED = (96, 128)

#: Frames of a clip; it is shown forth and back, which changes as much in every step.
CLIP = 7

#: A stream as users get it, and with the kernels of a frame one after the other.
STREAM, ONE_LANE = "videoeff", "one lane"

Function = Callable[[Tensor], tuple[Tensor, ...]]


class TooSlow(Exception):
    """Raised when something takes longer than it may."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise :class:`TooSlow` in the block after so many seconds; in the main thread only."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlow(f"not ready within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def reason_of(error: BaseException) -> str:
    """An error in a line."""
    if "TooSlow: " in str(error):  # told by what was interrupted
        return str(error).partition("TooSlow: ")[2].partition("\n")[0]
    if isinstance(error, TooSlow):
        return str(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300] or 'no message'}"


# ---------------------------------------------------------------- clips


class Clips:
    """Synthetic clips on the device, made once for each size and share."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self.dtype, self.seed = dtype, seed
        self._known: dict[tuple[tuple[int, int], float], Tensor] = {}

    def make(self, size: tuple[int, int], shares: Sequence[float]) -> None:
        """Make what is missing, all shares at once."""
        missing = [s for s in shares if (size, s) not in self._known]
        with ThreadPoolExecutor(max(1, len(missing))) as pool:
            found = pool.map(lambda share: _pictures(size, share, self.seed), missing)
            for share, pictures in zip(missing, found, strict=True):
                self._known[size, share] = pictures.to(DEVICE, self.dtype)

    def batch(self, size: tuple[int, int], share: float, streams: int, number: int) -> Tensor:
        """Frame ``number`` of all streams (streams, 3, H, W), channels last, each moved elsewhere."""
        self.make(size, [share])
        pictures = self._known[size, share]
        turn = number % max(1, 2 * (len(pictures) - 1))
        picture = pictures[turn if turn < len(pictures) else 2 * (len(pictures) - 1) - turn]
        height, width = size
        rows = [picture.roll((97 * s % height, 331 * s % width), (1, 2)) for s in range(streams)]
        return torch.stack(rows).contiguous(memory_format=torch.channels_last)

    def changed(self, size: tuple[int, int], share: float) -> float:
        """The share of the pixels that really changes, by what the device is shown."""
        pictures = self._known[size, share]
        moved = [float((a != b).any(0).float().mean()) for a, b in pairwise(pictures)]
        return statistics.mean(moved) if moved else 0.0


def _pictures(size: tuple[int, int], share: float, seed: int) -> Tensor:
    clip = BlobClip(size, share, seed=seed)
    return torch.stack([torch.from_numpy(clip.next()) for _ in range(CLIP if share else 1)])


# ---------------------------------------------------------------- peers


def dense_model(model: Model, dtype: torch.dtype, seed: int) -> nn.Module:
    """The network every side runs: random weights with settled statistics, batch norms folded, on the GPU."""
    from videoeff.bench.network import folded, network, settle

    torch.manual_seed(seed)
    made = network(model.reference)
    settle(made, model.fit(SETTLED), seed)
    example = torch.rand(1, 3, *model.fit(SETTLED), generator=torch.Generator().manual_seed(1))
    twin, _ = folded(made.requires_grad_(False), example)
    return twin.to(DEVICE, dtype).to(memory_format=torch.channels_last)


def without_gradients(kind: str) -> Any:
    """The mode a peer runs in; compiled code does without inference tensors."""
    return torch.no_grad() if kind in COMPILED else torch.inference_mode()


def as_graph(function: Function, example: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """The function as a CUDA graph over one input that lies still."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(example)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(example)

    def replay() -> tuple[Tensor, ...]:
        graph.replay()
        return outputs

    return replay


class Dense:
    """A dense peer. Its frame lies where it wants it before the clock starts.

    Args:
        kind: one of ``PEERS``.
        model: the network.
        example: a batch.
        others: peers that are ready; what they compiled is used again.
    """

    def __init__(self, kind: str, model: nn.Module, example: Tensor, others: Mapping[str, Dense]) -> None:
        self.kind = kind
        self.frame = example.clone(memory_format=torch.preserve_format)
        self.function: Function = model
        if kind in COMPILED:
            self.function = others[COMPILE].function if COMPILE in others else compiled(model)
        graphed = kind in (CUDNN_GRAPH, COMPILE_GRAPH)
        with without_gradients(kind):
            for _ in range(3):
                self.function(self.frame)
            self._replay = as_graph(self.function, self.frame) if graphed else None

    def show(self, frame: Tensor) -> None:
        """Take a frame; not timed."""
        self.frame.copy_(frame)

    def run(self) -> tuple[Tensor, ...]:
        """One frame; timed."""
        if self._replay is not None:
            return self._replay()
        with without_gradients(self.kind):
            return self.function(self.frame)


def compiled(model: nn.Module) -> Function:
    """``torch.compile`` at its most thorough; the graph around it is made here, for both ways alike."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    found: Function = torch.compile(copy.deepcopy(model), mode="max-autotune-no-cudagraphs", dynamic=False)
    return found


def error_of(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest error of any output over that output's largest magnitude."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if not bool(torch.isfinite(a).all()):
            return float("inf")
        scale = b.float().abs().max().clamp_min(1e-12)
        worst = max(worst, float((a.float() - b.float()).abs().max() / scale))
    return worst


# ---------------------------------------------------------------- one network at one size


@dataclass
class Series:
    """Times of one side in one setting, over all its turns."""

    ms: list[float] = field(default_factory=list)
    host_us: list[float] = field(default_factory=list)
    needed: float = 0.0
    scheduled: float = 0.0
    dense_macs: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What of a network is measured.

    Attributes:
        model: the network.
        size: (height, width), as it fits the network.
        streams: in a batch.
        dtype: of the numbers.
        seed: of weights and clips.
    """

    model: Model
    size: tuple[int, int]
    streams: int
    dtype: torch.dtype
    seed: int = 0

    @property
    def key(self) -> str:
        """Of the row."""
        height, width = self.size
        return f"{self.model.name}/{height}x{width}/{self.streams}/{str(self.dtype).removeprefix('torch.')}"


class Subject:
    """A network at one size: peers and a stream that run the same weights.

    Args:
        setting: what is measured.
        clips: the frames.
        threshold: of the stream.

    Raises:
        VideoEffError: it cannot be converted.
    """

    def __init__(self, setting: Setting, clips: Clips, threshold: float = 0.0) -> None:
        import videoeff

        self.setting, self.clips, self.threshold = setting, clips, threshold
        self.model = dense_model(setting.model, setting.dtype, setting.seed)
        self.example = clips.batch(setting.size, 0.05, setting.streams, 0)
        self.stream = videoeff.convert(self.model, self.example, threshold=threshold)
        self.peers: dict[str, Dense] = {}
        self.failed: dict[str, str] = {}
        self.series: dict[tuple[str, float, float], Series] = {}
        self.error: float | None = None
        self.kernels: int | None = None
        self._shown = 0
        self._lanes = True

    def ready(self, kind: str, seconds: float) -> bool:
        """Get a peer ready; whether it is."""
        if kind in self.peers:
            return True
        if kind == COMPILE_GRAPH and COMPILE in self.failed:
            self.failed[kind] = self.failed[COMPILE]
            return False
        try:
            with limited(seconds):
                self.peers[kind] = Dense(kind, self.model, self.example, self.peers)
        except Exception as error:  # noqa: BLE001 - whatever a peer stumbles over, the others are measured
            self.failed[kind] = reason_of(error)
        else:
            self.failed.pop(kind, None)
        return kind in self.peers

    def parity(self) -> float:
        """How far the stream's outputs are from the dense ones, over some frames; at threshold 0."""
        setting, worst = self.setting, 0.0
        for number in range(3):
            frame = self.clips.batch(setting.size, 0.05, setting.streams, number)
            with torch.inference_mode():
                worst = max(worst, error_of(tuple(self.stream(frame)), tuple(self.model(frame))))
        return worst

    def limit(self) -> float:
        """The most that :meth:`parity` may be."""
        return TOLERANCES[self.setting.dtype].relative

    # -- timing ------------------------------------------------------------------------------------------

    def turn_of_peer(self, kind: str, frames: int) -> None:
        """Time a dense peer over some frames."""
        peer, setting = self.peers[kind], self.setting
        self._timed(
            self.series.setdefault((kind, 0.0, 0.0), Series()),
            [self.clips.batch(setting.size, 0.05, setting.streams, n) for n in range(min(frames, CLIP))],
            frames,
            peer.show,
            lambda frame: peer.run(),
        )

    def turn_of_stream(self, share: float, frames: int, kind: str = STREAM) -> None:
        """Time the stream over some frames of which a share changes, three frames untimed before them."""
        setting = self.setting
        if self._lanes != (kind == STREAM):
            self._lanes = kind == STREAM
            for plan in self.plans():
                plan.record_anew(self._lanes)
        first = self._shown
        batches = [
            self.clips.batch(setting.size, share, setting.streams, first + n) for n in range(frames + 3)
        ]
        self._shown += frames + 2
        for frame in batches[:3]:
            self.stream(frame)
        series = self.series.setdefault((kind, share, self.threshold), Series())
        self.stream.clear_report()
        self._timed(series, batches[3:], frames, lambda frame: None, self.stream)
        macs = self.stream.report().macs
        series.needed, series.scheduled = macs["needed"], macs["scheduled"]
        series.dense_macs = macs["dense"]

    def _timed(
        self,
        series: Series,
        batches: Sequence[Tensor],
        frames: int,
        show: Callable[[Tensor], None],
        run: Callable[[Tensor], Any],
    ) -> None:
        events = [
            [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            for _ in range(frames)
        ]
        torch.cuda.synchronize()
        host = []
        for number, (begin, end) in enumerate(events):
            frame = batches[number % len(batches)]
            show(frame)
            begin.record()
            before = time.perf_counter_ns()
            run(frame)
            host.append(1e-3 * (time.perf_counter_ns() - before))
            end.record()
        torch.cuda.synchronize()
        series.ms += [begin.elapsed_time(end) for begin, end in events]
        series.host_us += host

    def plans(self) -> list[Any]:
        """The stream's sequences of kernels."""
        return [plan for engine in self.stream.engines.values() for plan in engine.plan.groups]

    def count_kernels(self, share: float) -> None:
        """Ask the profiler how many kernels one frame runs on the device."""
        from torch._C._autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        frame = self.clips.batch(self.setting.size, share, self.setting.streams, self._shown + 1)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            self.stream(frame)
            torch.cuda.synchronize()
        names = [e.name for e in seen.events() if e.device_type == DeviceType.CUDA]
        self.kernels = sum(not n.startswith(("Memcpy", "Memset")) for n in names) or None

    # -- the row -----------------------------------------------------------------------------------------

    def row(self) -> dict[str, Any]:
        """All that was measured so far."""
        height, width = self.setting.size
        dense: dict[str, Any] = {
            kind: summary(s.ms) for (kind, _, _), s in self.series.items() if kind in self.peers
        }
        dense |= {kind: {"failed": reason} for kind, reason in self.failed.items()}
        return {
            "model": self.setting.model.name,
            "size": [height, width],
            "streams": self.setting.streams,
            "dtype": str(self.setting.dtype).removeprefix("torch."),
            "state_bytes": self.stream.report().state_bytes,
            "kernels": self.kernels,
            "chain": sum(plan.longest() for plan in self.plans()),
            "error": self.error,
            "dense": dense,
            "stream": [self._entry(key, s) for key, s in self.series.items() if key[0] == STREAM],
            "one_lane": [self._entry(key, s) for key, s in self.series.items() if key[0] == ONE_LANE],
        }

    def _entry(self, key: tuple[str, float, float], series: Series) -> dict[str, Any]:
        _, share, threshold = key
        total = series.dense_macs or 1.0
        return {
            "share": share,
            "threshold": threshold,
            "changed": self.clips.changed(self.setting.size, share),
            "spread": summary(series.ms),
            "host_us": statistics.median(series.host_us),
            "dense_macs": series.dense_macs,
            "needed_share": series.needed / total,
            "scheduled_share": series.scheduled / total,
        }
