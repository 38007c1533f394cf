"""Single CUDA kernels of a converted network, timed by events around CUDA graphs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videoeff.bench.clips import BlobClip
from videoeff.bench.cuda_sizes import FIXED, Layer
from videoeff.kernels.backend import Accepted
from videoeff.kernels.call import Context, RegionCall
from videoeff.kernels.triton.configs import Config, facts_of, kind_of
from videoeff.kernels.triton.plan import TritonPlan
from videoeff.kernels.triton.worklist import Worklist
from videoeff.runtime.engine import Engine

#: Runs of a kernel in one graph, and replays of the graph.
RUNS, REPLAYS = 10, 7


def graph_ms(call: Callable[[], None], runs: int = RUNS, replays: int = REPLAYS) -> float:
    """Milliseconds of a call on the device: the median over replays of a graph with some runs of it."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles and loads
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(runs):
            call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    times: list[float] = []
    for _ in range(replays + 1):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / runs)
    return statistics.median(times[1:])


@dataclass(frozen=True, eq=False)
class Place:
    """Where a layer is in a stream.

    Attributes:
        engine: of the stream.
        call: the layer's.
        layer: as rules see it.
        now: the sizes it has.
    """

    engine: Engine
    call: RegionCall
    layer: Layer
    now: Config


def places(engines: Mapping[str, Engine]) -> Iterator[Place]:
    """The layers of a stream whose kernels have sizes to choose."""
    for engine in engines.values():
        for group in engine.plan.groups:
            if not isinstance(group, TritonPlan):
                continue
            for call in group.calls:
                spec = group.specs[call.name]
                kind = kind_of(spec)
                if kind not in (*FIXED, "input"):
                    layer = Layer.of(kind, facts_of(call, spec, kind))
                    yield Place(engine, call, layer, group.configs[call.name])


class Kernel:
    """A layer's kernel with sizes of its own, on the stream's buffers.

    Every pixel that is computed counts as changed, so that it is stored and the lists that follow are told.

    Args:
        place: the layer.
        config: the sizes.
    """

    def __init__(self, place: Place, config: Config) -> None:
        engine, call = place.engine, place.call
        plans = [g for g in engine.plan.groups if isinstance(g, TritonPlan)]
        accepted = [Accepted(c, g.specs[c.name]) for g in plans for c in g.calls]
        own = [a for a in accepted if a.call is call]
        followers = [a for a in accepted if any(name == call.name for name, _ in a.call.mask_reads)]
        self.plan = TritonPlan([*own, *followers], frozenset(), {call.name: config})
        self.plan._bind(
            Context(
                frames=(),
                state=engine.state,
                constants=engine._constants,
                fresh=engine._settled,
                any_fresh=False,
                all_fresh=False,
            )
        )
        if call.scale:
            engine.state[call.scale].fill_(-1.0)  # a limit below every difference
        assert self.plan.memory is not None  # just bound
        self.memory, self.worklist = self.plan.memory, self.plan.worklists[call.name]
        self.opening = self.plan.launches[0]
        self.launches = [x for x in self.plan.launches if x.layer == call.name]
        self._count = torch.zeros(1, dtype=torch.int32, device=self.memory.device)

    def ms(
        self, tiles: Tensor | None = None, time: Callable[[Callable[[], None]], float] = graph_ms
    ) -> float:
        """Milliseconds of one run.

        Args:
            tiles: what is listed, int32 (N,); everything if None.
            time: measures a call.
        """
        tiles = torch.arange(self.worklist.tiles, dtype=torch.int32) if tiles is None else tiles
        self.worklist.tensors["listed"][: tiles.numel()].copy_(tiles)
        self._count.fill_(tiles.numel())

        def open_frame() -> None:
            self.opening.run(full=False, counting=False)
            self.memory.count(self.worklist)[:1].copy_(self._count)

        def frame() -> None:
            open_frame()
            for launch in self.launches:
                launch.run(full=False, counting=False)

        return max(time(frame) - time(open_frame), 1e-6)

    def blob(self, share: float, seed: int = 0) -> Tensor:
        """The tiles of a share of each stream's pixels, in blobs; int32 (N,)."""
        return tiles_of(self.worklist, share, seed)


def tiles_of(worklist: Worklist, share: float, seed: int = 0) -> Tensor:
    """The tiles of a list that blobs over a share of each row's pixels touch; int32 (N,)."""
    rows, height, width = worklist.extent
    high, wide = worklist.grid
    found = []
    for row in range(rows):
        clip = BlobClip((height, width), share, channels=1, seed=seed + row)
        clip.next(), clip.next()
        touched = torch.zeros(high * worklist.tile, wide * worklist.tile, dtype=torch.bool)
        touched[:height, :width] = torch.from_numpy(clip.changed)
        tiles = touched.view(high, worklist.tile, wide, worklist.tile).any(3).any(1)
        found.append(tiles.flatten().nonzero().flatten() + row * high * wide)
    return torch.cat(found).to(torch.int32)


def description(device: Any = None) -> tuple[str, str]:
    """The device's name and compute capability (``sm_90``)."""
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"sm_{major}{minor}"
