"""A frame as launches of Triton kernels: lists, edges, memory, and the CUDA graph that replays them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from videoeff.kernels.backend import Accepted, Counted, Group
from videoeff.kernels.bounded import unpacked, words
from videoeff.kernels.call import Context, RegionCall, Vicinity
from videoeff.kernels.change_test import scale_of
from videoeff.kernels.region_spec.codes import ReachKind
from videoeff.kernels.region_spec.frames import index_of, readers_of
from videoeff.kernels.region_spec.producers import (
    Convolution,
    Input,
    MaxPool,
    Mean,
    Producer,
    Resampling,
    TransposedConvolution,
)
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton import (
    convolution,
    depthwise,
    input,
    mean,
    pointwise,
    pooling,
    prediction,
    resampling,
    rows,
    transposed,
    vicinity,
)
from videoeff.kernels.triton.binding import APART, Binding, Launch, Memory, edge_arguments, site_of
from videoeff.kernels.triton.compiling import compile_all
from videoeff.kernels.triton.configs import Config, by_channel, by_rows, choose, present
from videoeff.kernels.triton.order import LANES, OPENING, Slot, Step, chain, side_by_side, slots, step_of
from videoeff.kernels.triton.vicinity import Source
from videoeff.kernels.triton.worklist import Edge, Worklist, edge, edges_of

#: How masks made elsewhere are read.
IMPORT = Config(U=4, BM=256)


class TritonPlan(Group):
    """Consecutive regions as a sequence of kernels, on CUDA one graph.

    A frame in which all streams begin is computed whole, kernel by kernel; every other one replays the graph.

    Args:
        accepted: the regions with their specs.
        exported: layers whose masks calls elsewhere need.
        sizes: by layer, instead of those of the tables.

    Attributes:
        lanes: most steps that the graph runs side by side.
    """

    watches = True
    lanes = LANES

    def __init__(
        self,
        accepted: Sequence[Accepted[RegionSpec]],
        exported: frozenset[str],
        sizes: Mapping[str, Config] | None = None,
    ) -> None:
        self.calls = tuple(a.call for a in accepted)
        self.exported = exported
        self.specs = {a.call.name: a.description for a in accepted}
        device = present(self.calls[0].device)
        self.configs = {c.name: choose(c, self.specs[c.name], device) for c in self.calls}
        self.configs |= sizes or {}
        self.readers = readers_of(self.calls, self.calls[0].device)
        self.worklists: dict[str, Worklist] = {}
        self.before: dict[str, Worklist] = {}
        self.unbounded: dict[str, Worklist] = {}
        self.imports: dict[str, Worklist] = {}
        #: What follows the opening of a frame.
        self.parts: list[Worklist | Source | Vicinity | RegionCall] = []
        self._lay_out()
        self.steps = [OPENING, *(self._step(part) for part in self.parts)]
        self._storages: set[int] = set()
        self._counted = 0
        self.memory: Memory | None = None
        self.launches: tuple[Launch, ...] = ()
        self.slots: list[Slot] = []
        self._beside: list[torch.cuda.Stream] = []
        self.graph: Any = None
        self._bound: tuple[Any, Any] = (None, None)

    # -- lists -------------------------------------------------------------------------------------------

    def _list(self, name: str, extent: tuple[int, int, int], tile: int) -> Worklist:
        worklist = Worklist(name, extent, tile, len(self.worklists) + len(self.imports))
        self.worklists[name] = worklist
        return worklist

    def _lay_out(self) -> None:
        """A list for each region, and the edges between them."""
        own = {c.name for c in self.calls}
        for call, sources, near in vicinity.ahead(self.calls):
            spec, config = self.specs[call.name], self.configs[call.name]
            places = {n.layer: n.extent for n in near.near} if near is not None else {}
            for mask, extent in (places | dict(spec.extents)).items():
                if mask not in own and mask not in self.imports:
                    number = len(self.worklists) + len(self.imports)
                    self.imports[mask] = Worklist(mask, extent, IMPORT.U, number)
            self.parts += [self._source(name, spec) for name in sources]
            self.parts += [call] if near is None else [near, call]
            first = self._list(call.name, call.extent, config.U)
            if call.bound is not None:
                first = self._list(vicinity.reached(call.name), call.extent, config.U)
                self.unbounded[call.name] = first
            if call.prediction is not None:
                tile = prediction.sizes(call).U
                first = self._before(call, prediction.reached(call.name), call.extent, tile)
            for mask, kind in spec.reach:
                self._follow(mask, kind, first, spec)
            if isinstance(spec.producer, Mean):
                extent = (call.extent[0], *spec.producer.input.extent[1:3])
                tiles = self._before(call, mean.tiled(call.name), extent, mean.TILE)
                for mask in spec.extents:
                    same = spec.extents[mask] == extent
                    self._follow(mask, ReachKind.SAME if same else ReachKind.WHOLE, tiles, spec)
        self.parts[:0] = self.imports.values()

    def _source(self, name: str, spec: RegionSpec) -> Source:
        """What a vicinity is found by, with a list of the squares in which it changed."""
        source = self.imports.get(name) or self.worklists[name]
        squares = self._list(vicinity.changed(name), source.extent, vicinity.SQUARE)
        self._follow(name, ReachKind.SAME, squares, spec)
        return Source(source, squares)

    def _before(self, call: RegionCall, name: str, extent: tuple[int, int, int], tile: int) -> Worklist:
        """A list that is worked on ahead of a region's own."""
        self.before[call.name] = self._list(name, extent, tile)
        return self.before[call.name]

    def _follow(self, mask: str, kind: ReachKind, target: Worklist, spec: RegionSpec) -> None:
        """Let a list follow a mask."""
        source = self.imports.get(mask) or self.worklists[mask]
        config = self.configs.get(mask, IMPORT)
        found = edge(source.extent, source.tile, target, kind, spec, config.most // config.U**2)
        if found.axes is None and config.long_BM:  # so many tiles reach more than one append takes
            smaller = edge(source.extent, source.tile, target, kind, spec, config.BM // config.U**2)
            if smaller.axes is not None:
                found, self.configs[mask] = smaller, replace(config, long_BM=0, long_BN=0)
        source.feeds.append(found)

    def _step(self, part: Worklist | Source | Vicinity | RegionCall) -> Step:
        if isinstance(part, Source):
            return part.step
        if isinstance(part, Vicinity):
            return vicinity.step_of_vicinity(part)
        if isinstance(part, Worklist):
            return step_of(part.name, (part,))
        lists = (self.worklists, self.before, self.unbounded)
        own = [found[part.name] for found in lists if part.name in found]
        return step_of(part.name, own, part, self.specs[part.name])

    # -- binding -----------------------------------------------------------------------------------------

    def _bind(self, context: Context) -> None:
        """Make the launches for one set of buffers and constants."""
        self.release()
        device = context.fresh.device
        every = [*self.worklists.values(), *self.imports.values()]
        processors = 2
        if device.type == "cuda":
            processors = torch.cuda.get_device_properties(device).multi_processor_count
        streams = {c.layout.streams or () for c in self.calls}
        with torch.inference_mode(False), torch.no_grad():
            memory = Memory(
                device=device,
                state=context.state,
                constants=context.constants,
                lists=torch.zeros(len(every) * APART, dtype=torch.int32, device=device),
                pixels=torch.zeros(len(every) * APART, dtype=torch.int64, device=device),
                frame=torch.zeros(1, dtype=torch.int32, device=device),
                fresh={s: torch.zeros(max(1, len(s)), dtype=torch.uint8, device=device) for s in streams},
                stale=torch.ones(len(every) * APART, dtype=torch.int32, device=device),
                processors=processors,
                tf32=torch.backends.cudnn.allow_tf32,
            )
            pinned = device.type == "cuda"
            self._bad = torch.zeros(1, dtype=torch.int32, device=device)
            own = device.type != "cpu"  # "meta" when kernels are compiled ahead
            self._bad_here = torch.zeros(1, dtype=torch.int32, pin_memory=pinned) if own else self._bad
            self._bad_seen = self._bad_here.numpy()  # read without a word to the device
            self._frames = torch.zeros(max(1, len(self.readers)), 5, dtype=torch.int64, device=device)
            wanted = {c.name for c in self.calls if c.wants_magnitude}
            for call in self.calls:
                if call.prediction is not None:
                    wanted |= set(call.prediction.layers)
            for worklist in every:
                self._allocate(worklist, worklist.name in wanted, device)
            for name in self.unbounded:
                rows, height, width = self.worklists[name].extent
                due = torch.zeros(rows * height * words(width), dtype=torch.int64, device=device)
                self.worklists[name].tensors["due"] = due
            self.memory = memory
            self.slots = slots(self.steps, self.lanes)
            self.launches = tuple(self._launches(memory))
        if device.type == "cuda":
            with self._device(memory):
                compile_all(self.launches)
                beside = max(slot.lane for slot in self.slots)
                self._beside = [torch.cuda.Stream(device) for _ in range(beside)]  # type: ignore[no-untyped-call]
        self._told: list[tuple[int, ...]] = [()] * len(self.readers)
        self._ran = 0
        self._storages = {t.untyped_storage().data_ptr() for t in context.state.values()}
        self._bound = (context.state, context.constants)

    def _allocate(self, worklist: Worklist, magnitude: bool, device: torch.device) -> None:
        def stamps(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int32, device=device)

        rows, height, width = worklist.extent
        worklist.tensors = {"mask": stamps(rows * height * width)}
        if worklist.name not in self.imports:
            worklist.tensors |= {
                "listed": stamps(worklist.tiles),
                "stamps": stamps(worklist.tiles),
                "rows": stamps(rows),
            }
        if magnitude:
            worklist.tensors["magnitude"] = torch.zeros(rows * height * width, device=device)

    def _launches(self, memory: Memory) -> Iterable[Launch]:
        number = memory.lists.numel()
        opening = {"frame": memory.frame, "counts": memory.lists, "number": number, "BLOCK": 1024}
        yield Launch("", pointwise.begin, 1, opening, {"num_warps": 4}, ())
        masks = self.worklists | self.imports
        for step, (part, slot) in enumerate(zip(self.parts, self.slots[1:], strict=True), 1):
            memory.lane = slot.lane  # its scratch
            made: Iterable[Launch]
            if isinstance(part, Worklist):
                made = [self._import(part, memory)]
            elif isinstance(part, Source):
                made = [vicinity.pack_launch(part, memory)]
            elif isinstance(part, Vicinity):
                made = [vicinity.gather_launch(part, self.worklists, memory)]
            else:
                made = self._region(part, memory, masks)
            yield from (replace(launch, step=step) for launch in made)

    def _region(self, call: RegionCall, memory: Memory, masks: Mapping[str, Worklist]) -> Iterable[Launch]:
        spec, worklist, before = self.specs[call.name], self.worklists[call.name], self.before.get(call.name)
        unbounded = self.unbounded.get(call.name)
        b = Binding(call, spec, self.configs[call.name], worklist, memory, before, masks, unbounded)
        if call.prediction is not None and isinstance(spec.producer, Convolution):
            yield prediction.launch(b, spec.producer, call.prediction)
        if call.bound is not None:
            yield vicinity.launch(b, call.bound)
        if isinstance(spec.producer, Input):
            number = index_of(call, tuple(r.call for r in self.readers))
            yield from input.launches(b, self._frames, number, self._bad)
        else:
            yield from launches_of(b, spec.producer)

    def _import(self, worklist: Worklist, memory: Memory) -> Launch:
        rows, height, width = worklist.extent
        worklist.tensors["told"] = torch.zeros(rows, height, width, dtype=torch.uint8, device=memory.device)
        edges: Sequence[Edge] = edges_of(worklist)
        config, chunks = IMPORT, -(-worklist.tiles // (IMPORT.BM // IMPORT.U**2))
        arguments = {
            "site": site_of(worklist),
            "frame": memory.frame,
            "mask": worklist.tensors["mask"],
            "told": worklist.tensors["told"],
            "edges": tuple(edge_arguments(e, memory) for e in edges) or None,
            "U": config.U,
            "BM": config.BM,
            "EDGES": tuple(e.static for e in edges),
        }
        options = {"num_warps": config.warps}
        programs = max(1, min(chunks, memory.processors * config.programs))
        return Launch(worklist.name, pointwise.imported, programs, arguments, options, ("full",))

    def release(self) -> None:
        """Give up the launches and their memory; the next frame makes them anew."""
        self.graph, self.launches, self.memory, self._beside = None, (), None, []
        self._bound = (None, None)

    # -- running -----------------------------------------------------------------------------------------

    def run(self, context: Context) -> None:
        """One frame.

        Raises:
            StateError: a frame does not fit.
        """
        if self._bound[0] is not context.state or self._bound[1] is not context.constants:
            self._bind(context)
        memory = self.memory
        assert memory is not None  # bound above
        with self._device(memory):
            kept = self._tell_frames(context)
            for name, worklist in self.imports.items():
                worklist.tensors["told"].copy_(context.masks[name])
                if "magnitude" in worklist.tensors:
                    worklist.tensors["magnitude"].view(worklist.extent).copy_(context.magnitudes[name])
            self._ran += 1
            if context.any_fresh:
                self._begin(context, memory)
            else:
                self._next(memory)
                self._counted += 1
            del kept  # the frames live until their kernels are queued
            self._export(context, memory)

    def _device(self, memory: Memory) -> AbstractContextManager[Any]:
        return torch.cuda.device(memory.device) if memory.device.type == "cuda" else nullcontext()

    def _tell_frames(self, context: Context) -> list[Tensor]:
        """Write where the frames lie; only what is not as it was in the frame before."""
        kept = []
        for number, reader in enumerate(self.readers):
            frame, strides = reader.read(context, self._storages)
            told = (frame.data_ptr(), *strides)
            kept.append(frame)
            before = self._told[number]
            if told == before:
                continue
            for place, new in enumerate(told):
                if not before or new != before[place]:
                    self._frames[number, place].fill_(new)
            self._told[number] = told
        return kept

    def _begin(self, context: Context, memory: Memory) -> None:
        """A frame in which streams begin: their rows take every value and a scale of their own.

        Where all do, everything is computed in order. Where some do, their pictures count as changed
        everywhere, which reaches all of their rows and nothing of others.
        """
        for streams, flags in memory.fresh.items():
            flags.copy_(context.fresh_rows(streams).flatten())
        if context.all_fresh:
            self._launch_all(full=True)
        else:
            counted = memory.pixels.clone()
            self._next(memory)
            memory.pixels.copy_(counted)  # no such frame counts
        for call in self.calls:
            value = context.state[call.value.name]
            if call.scale:
                scale, fresh = context.state[call.scale], memory.fresh[call.layout.streams or ()] != 0
                scale.copy_(torch.where(fresh, scale_of(value, call.layout), scale))
        for flags in memory.fresh.values():
            flags.zero_()

    def _next(self, memory: Memory) -> None:
        """Compute what the frame's changes reach."""
        if memory.device.type != "cuda":
            self._launch_all(full=False)
        elif torch.cuda.is_current_stream_capturing():
            self._record(memory)
        else:
            if self.graph is None:
                self.graph = torch.cuda.CUDAGraph()
                # other threads, of decoders say, may allocate meanwhile
                with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                    self._record(memory)
            self.graph.replay()

    def record_anew(self, lanes: bool = True) -> None:
        """Make another graph for the next frame, with steps side by side or one after the other."""
        self.graph = None
        self.slots = slots(self.steps, self.lanes if lanes else 1)

    def longest(self) -> int:
        """Launches of a frame that have to run one after the other."""
        counts = Counter(launch.step for launch in self.launches)
        return chain(self.steps, [counts[n] for n in range(len(self.steps))])

    def _launch_all(self, full: bool) -> None:
        for launch in self.launches:
            launch.run(full=full, counting=not full)
        self._tell_bad()

    def _record(self, memory: Memory) -> None:
        """Into a graph, in lanes."""
        streams = [torch.cuda.current_stream(memory.device), *self._beside]
        side_by_side(self.launches, self.slots, streams, torch.cuda.stream)
        self._tell_bad()

    def _tell_bad(self) -> None:
        if self._bad_here is not self._bad:
            self._bad_here.copy_(self._bad, non_blocking=True)

    def _export(self, context: Context, memory: Memory) -> None:
        for call in self.calls:
            if call.name in self.exported or context.keep_active:
                worklist = self.worklists[call.name]
                changed = (worklist.tensors["mask"] == memory.frame).view(call.extent)
                context.masks[call.name] = changed
                if call.wants_magnitude:
                    squares = worklist.tensors["magnitude"].view(call.extent)
                    context.magnitudes[call.name] = torch.where(changed, squares, 0.0)
                if context.keep_active:
                    context.active_masks[call.name] = self._active(call, worklist, context, memory)

    def _active(self, call: RegionCall, worklist: Worklist, context: Context, memory: Memory) -> Tensor:
        """The pixels that were computed."""
        if context.all_fresh or call.kind in ("input", "state"):
            return torch.ones(1, 1, 1, dtype=torch.bool, device=memory.device).expand(call.extent)
        rows, height, width = call.extent
        if (due := worklist.tensors.get("due")) is not None:
            return unpacked(due.view(rows, height, -1), width)
        tiles = (worklist.tensors["stamps"] == memory.frame).view(rows, *worklist.grid)
        spread = tiles.repeat_interleave(worklist.tile, 1).repeat_interleave(worklist.tile, 2)
        return spread[:, :height, :width]

    def frames_since_bad(self) -> int | None:
        """How many frames ago the first one with NaN or infinity came, as far as the device has told."""
        if self.memory is None or not self._bad_seen[0]:
            return None
        since = self._ran - int(self._bad_seen[0])
        if self._bad_here is not self._bad:
            torch.cuda.synchronize(self.memory.device)  # a copy under way would bring it back
            self._bad_here.zero_()
        self._bad.zero_()
        return since

    # -- counting ----------------------------------------------------------------------------------------

    def take_counts(self) -> Iterable[Counted]:
        """Pixels of the tiles computed since this was asked last; waits for the device."""
        frames, self._counted = self._counted, 0
        if self.memory is None:
            return []
        pixels = self.memory.pixels.tolist()
        self.memory.pixels.zero_()
        result = []
        for call in self.calls:
            done = pixels[self.memory.place(self.worklists[call.name])]
            if call.kind in ("input", "state"):
                rows, height, width = call.extent
                done = frames * rows * height * width
            result.append(Counted(call.name, frames, done, done))
        return result

    def invalidate(self) -> None:
        """The sums of tiles are made anew in the next frame; nothing else is kept beside the state."""
        if self.memory is not None:
            self.memory.stale.fill_(1)


def launches_of(b: Binding, producer: Producer) -> Iterable[Launch]:
    """The launches of a region that is no input."""
    match producer:
        case Mean():
            return mean.launches(b, producer)
        case MaxPool():
            return (pooling.launch(b, producer),)
        case Resampling():
            return (resampling.launch(b, producer),)
        case Convolution() | TransposedConvolution() if by_channel(b.spec):
            return (depthwise.launch(b, producer),)
        case Convolution():
            return (convolution.launch(b, producer),)
        case TransposedConvolution():
            return (transposed.launch(b, producer),)
    return rows.launches(b) if by_rows(b.spec) else (pointwise.launch(b),)
