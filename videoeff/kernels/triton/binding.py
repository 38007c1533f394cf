"""What a kernel's launch is made of: a region bound to buffers, constants and lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from videoeff.errors import LoweringError
from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.codes import CHANGE_TESTS, ChangeTest
from videoeff.kernels.region_spec.producers import Window
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.region_spec.values import Constant, View
from videoeff.kernels.triton.configs import Config, by_channel, groups_of
from videoeff.kernels.triton.records import (
    MADE,
    ChangeTestArgs,
    EdgeArgs,
    GateArgs,
    InstructionStatic,
    ListArgs,
    OffsetArgs,
    RowEdgeArgs,
    SiteArgs,
    ViewArgs,
    WindowArgs,
    WorklistArgs,
)
from videoeff.kernels.triton.worklist import Edge, Worklist, edges_of

#: Most registers of a thread, and of a multiprocessor.
REGISTERS, FILE = 255, 65536

#: Elements from which on places take more than 32 bits.
VAST = 1 << 31

#: Counters lie as far apart as Triton looks at addresses: a kernel serves any of them.
APART = 4


@dataclass(frozen=True)
class Launch:
    """One kernel of a frame.

    Attributes:
        layer: whose work it does.
        kernel: the jitted function.
        grid: number of programs.
        arguments: by name; all but ``full`` and ``counting``, which change from frame to frame.
        options: ``num_warps`` and ``num_stages``.
        told: those of ``full`` and ``counting`` that it takes.
        step: of the frame, which it belongs to.
    """

    layer: str
    kernel: Any
    grid: int
    arguments: Mapping[str, Any]
    options: Mapping[str, int]
    told: tuple[str, ...] = ("full", "counting")
    step: int = 0

    def bounded(self) -> Launch:
        """With as many registers as a thread may have.

        Without a bound, the assembler spills a few to fit one more program. Which kernels it does that to
        changes with Triton's version (3.6 to 3.9 tried); with the bound none spills in any of them.
        """
        most = min(REGISTERS, FILE // (32 * self.options["num_warps"]))
        return replace(self, options={**self.options, "maxnreg": most})

    def run(self, full: bool, counting: bool) -> None:
        """Launch it on the current stream."""
        given = {"full": int(full), "counting": int(counting)}
        self.kernel[(self.grid,)](**self.arguments, **{n: given[n] for n in self.told}, **self.options)

    def warm(self) -> Any:
        """Compile it as a launch would; the compiled kernel, or what stands for it while it is compiled."""
        told = dict.fromkeys(self.told, 0)
        return self.kernel.warmup(grid=(self.grid,), **self.arguments, **told, **self.options)


@dataclass
class Memory:
    """The tensors of a plan.

    Attributes:
        device: where they lie.
        state, constants: the stream's.
        lists: int32 (lists * APART,), the lengths.
        pixels: int64 (lists * APART,), pixels computed since the counters were read.
        frame: int32 (1,), the frame's number.
        fresh: uint8 by the streams of a value's rows: which of them have no past.
        stale: int32 (lists * APART,): whether what is kept of a list's tiles beside the state is out of date.
        shared: scratch by purpose, as large as its largest user needs; for launches that follow one another.
        lane: of the step whose launches are being made; steps of other lanes have scratch of their own.
        vicinities: by name, what lies near what changed: words (R H words) of a bit for each pixel.
        kept: what addresses point to.
        processors: multiprocessors of the device.
        tf32: whether float32 products may be rounded to tf32, as PyTorch's setting for convolutions says.
    """

    device: torch.device
    state: Mapping[str, Tensor]
    constants: Mapping[str, Tensor]
    lists: Tensor
    pixels: Tensor
    frame: Tensor
    fresh: dict[tuple[int, ...], Tensor]
    stale: Tensor
    processors: int
    tf32: bool = False
    shared: dict[str, Tensor] = field(default_factory=dict)
    lane: int = 0
    vicinities: dict[str, Tensor] = field(default_factory=dict)
    kept: list[Tensor] = field(default_factory=list)

    def scratch(self, purpose: str, count: int, dtype: torch.dtype) -> Tensor:
        """At least ``count`` elements that other launches of the lane use too; zeros when they are made."""
        key = f"{purpose} {dtype} {self.lane}"
        held = self.shared.get(key)
        if held is None or held.numel() < count:
            held = self.shared[key] = torch.zeros(count, dtype=dtype, device=self.device)
            self.kept.append(held)  # a smaller one before it may be in use
        return held

    def place(self, worklist: Worklist) -> int:
        """Where the counters of a list lie."""
        return worklist.number * APART

    def count(self, worklist: Worklist) -> Tensor:
        """The length of a list, and what lies behind it."""
        return self.lists[self.place(worklist) :]

    def list_of(self, worklist: Worklist) -> ListArgs:
        """A list as kernels append to it."""
        tensors = worklist.tensors
        return ListArgs(tensors["listed"], tensors["stamps"], self.count(worklist))

    def keep(self, tensor: Tensor) -> Tensor:
        """On the device, for as long as the plan."""
        there = tensor.to(self.device).contiguous()
        self.kept.append(there)
        return there

    def constant(self, constant: Constant, dtype: torch.dtype | None = None) -> Tensor:
        """A constant, in ``dtype`` if given."""
        with torch.no_grad(), torch.inference_mode(False):
            made = constant.make(*(self.constants[n].detach() for n in constant.names))
            return self.keep(made if dtype is None else made.to(dtype))

    def tensor_of(self, view: View, call: RegionCall, dtype: torch.dtype | None = None) -> Tensor:
        """The memory of a view from its first element on.

        Raises:
            LoweringError: the buffer does not lie as planned.
        """
        if isinstance(view.source, Constant):
            whole = self.constant(view.source, dtype)
            return whole.flatten()[view.offset :]
        assert isinstance(view.source, str)  # grids are declined
        tensor, planned = self.state[view.source], call.buffers[view.source]
        if tensor.stride() != planned.stride() or tensor.shape != planned.shape:
            raise LoweringError(
                f"{call.name}: buffer {view.source} lies as {tensor.stride()}, planned was "
                f"{planned.stride()}; allocate the state anew"
            )
        offset = view.offset - int(planned.storage_offset()) + int(tensor.storage_offset())
        count = tensor.untyped_storage().nbytes() // tensor.element_size() - offset
        return torch.as_strided(tensor, (count,), (1,), offset)


@dataclass
class Binding:
    """A region on its way to a launch.

    Attributes:
        call, spec: the region.
        config: sizes of its blocks.
        worklist: its list.
        memory: the plan's tensors.
        before: the list of what is computed ahead of it: the tiles of a mean, or what changes reach where the
            region's list is of what they are predicted to change.
        masks: the lists by name of those whose masks it may follow.
        unbounded: the list of what changes reach, where the region's list is of what lies within its bound.
    """

    call: RegionCall
    spec: RegionSpec
    config: Config
    worklist: Worklist
    memory: Memory
    before: Worklist | None = None
    masks: Mapping[str, Worklist] = field(default_factory=dict)
    unbounded: Worklist | None = None

    @property
    def channels(self) -> int:
        """Channels of the value."""
        return self.spec.out.extent[3]

    @property
    def groups(self) -> int:
        """Groups of channels that no block reaches across."""
        return 1 if by_channel(self.spec) else groups_of(self.spec)

    def columns(self, per_group: int) -> int | None:
        """The channels of a group; None where there is one, and all channels of all blocks exist."""
        widths = {self.config.BN, self.config.long_BN or self.config.BN}
        exact = self.groups == 1 and all(per_group % w == 0 for w in widths)
        return None if exact else per_group

    def view(self, view: View, even: int = 0, exact: bool = False) -> ViewArgs:
        """A view as kernels take it.

        Args:
            view: of a buffer or a constant.
            even: if it is known already.
            exact: whether kernels ask for no channels but those that exist.
        """
        row, line, column, channel = view.strides
        memory = self.memory.tensor_of(view, self.call)
        even = even or self.even(view, self.channels // self.groups)
        room = self.room(view)
        apart = exact or self.groups > 1  # the channels behind a block's last one are another group's
        return ViewArgs(
            pointer=memory,
            row=row,
            line=line,
            column=column,
            channel=channel,
            even=tl.constexpr(even),
            row_by_even=row // even,
            line_by_even=line // even,
            column_by_even=column // even,
            room_by_even=room // even if channel == 1 and room % even == 0 and not apart else None,
            vast=tl.constexpr(memory.numel() >= VAST),
        )

    def gate(self, argument: int | None) -> GateArgs | None:
        """The factors of the input's channels: the argument of that number, if there is one."""
        if argument is None:
            return None
        view = self.spec.arguments[argument]
        return GateArgs(self.memory.tensor_of(view, self.call), view.strides[0], view.strides[3])

    def even(self, view: View, per_group: int) -> int:
        """What number, 8 at most, the places of all pixels and the first channels of all groups divide by."""
        if view.strides[3] != 1:
            return 1
        grouped = [per_group] if self.groups > 1 else []
        return math.gcd(8, *view.strides[:3], view.offset, *grouped)

    def room(self, view: View) -> int:
        """Channels of a pixel, with the gap behind them that is zero and stays so."""
        channels = view.extent[3]
        spec = self.call.specs.get(view.source) if isinstance(view.source, str) else None
        gap = 0 if spec is None else spec.pixel_stride
        if spec is None or not gap or channels != spec.shape[1] or view.offset % gap:
            return channels
        return gap if self.groups == 1 else channels

    def launch(
        self,
        kernel: Any,
        blocks: int,
        per_group: int,
        special: Mapping[str, Any],
        rows: int = 0,
        chunks: int = 0,
    ) -> Launch:
        """A launch with the parameters that all kernels of values have.

        Args:
            kernel: the jitted function.
            blocks: blocks of channels.
            per_group: channels of a group, blocks of which do not reach into the next.
            special: the kernel's own parameters.
            rows: programs at most, 0 for as many as fit the device.
            chunks: of BM pixels that all tiles make; 0 where a chunk is BM / U² tiles.
        """
        config, worklist, memory = self.config, self.worklist, self.memory
        together = blocks > 1 and (self.call.test.threshold > 0 or self.call.wants_magnitude)
        chunks = chunks or -(-worklist.tiles // (config.BM // config.U**2))
        programs = rows or memory.processors * config.programs
        edges = edges_of(worklist)
        test = CHANGE_TESTS[self.call.test.kind] if self.call.test.threshold > 0 else ChangeTest.ANY
        arguments = {
            "site": site_of(worklist),
            "worklist": self.worklist_of(worklist),
            "out": self.view(self.spec.out, exact=self.columns(per_group) is None),
            "test": self.test(blocks, per_group, chunks, together),
            "args": tuple(self.view(v, exact=self.columns(per_group) is None) for v in self.spec.arguments)
            or None,
            "edges": tuple(edge_arguments(e, memory) for e in edges) or None,
            **special,
            "U": config.U,
            "BM": config.BM,
            "BN": config.BN,
            "NB": blocks,
            "CODE": self.code(),
            "TEST": int(test),
            "TOGETHER": together,
            "EDGES": tuple(e.static for e in edges),
        }
        options = {"num_warps": config.warps, "num_stages": config.stages}
        return Launch(self.call.name, kernel, max(1, min(programs, chunks * blocks)), arguments, options)

    def worklist_of(self, worklist: Worklist) -> WorklistArgs:
        """A list as kernels take it."""
        memory = self.memory
        switch = max(1, int(self.config.whole_from * worklist.tiles) + 1)
        return WorklistArgs(
            length=memory.count(worklist),
            listed=worklist.tensors["listed"],
            frame=memory.frame,
            pixels=memory.pixels[memory.place(worklist) :],
            switch=coded(switch),
            ordered=int(self.call.prediction is None or worklist is not self.worklist),
            due=worklist.tensors.get("due"),
        )

    def test(self, blocks: int, per_group: int, chunks: int, together: bool) -> ChangeTestArgs:
        """The change test as kernels take it."""
        call, config, memory = self.call, self.config, self.memory
        exchange: dict[str, Any] = {}
        if together:
            pixels, wide = chunks * config.BM, blocks * config.BN
            if config.long_BM:  # as many chunks at most, but their last ones may be longer
                pixels += config.long_BM
                wide = max(wide, -(-per_group // config.long_BN) * config.long_BN)
            exchange = {
                "candidates": memory.scratch("candidates", pixels * wide, call.value.dtype),
                "partials": memory.scratch("partials", 2 * pixels * blocks, torch.float32),
                "arrived": memory.scratch("arrived", chunks, torch.int32),
                "per_group": self.columns(per_group),
                "blocks_per_group": -(-per_group // config.BN) if self.groups > 1 else None,
            }
        return ChangeTestArgs(
            limit=float(call.test.threshold),
            scale=memory.state[call.scale] if call.scale else None,
            mask=self.worklist.tensors["mask"],
            magnitude=self.worklist.tensors.get("magnitude"),
            fresh=memory.fresh[self.streams],
            channels=self.channels,
            **exchange,
        )

    @property
    def streams(self) -> tuple[int, ...]:
        """The stream of each row."""
        return self.call.layout.streams or ()

    def code(self) -> tuple[InstructionStatic, ...]:
        """``CODE`` of the kernels."""
        return tuple(
            MADE if i is None else InstructionStatic(int(i.op), i.a, i.b, float(i.p), float(i.q))
            for i in self.spec.epilogue
        )


def edge_arguments(edge: Edge, memory: Memory) -> EdgeArgs | RowEdgeArgs:
    """What kernels read of an edge."""
    target = edge.target
    stamps, listed, length = target.tensors["stamps"], target.tensors["listed"], memory.count(target)
    high, wide = target.grid
    if edge.axes is None:
        return RowEdgeArgs(
            row_stamps=target.tensors["rows"],
            stamps=stamps,
            listed=listed,
            length=length,
            tiles=coded(high * wide),
            rows=coded(target.extent[0]),
        )
    (low_y, high_y), (low_x, high_x) = edge.axes
    return EdgeArgs(
        low_y=memory.keep(low_y.to(torch.int32)),
        high_y=memory.keep(high_y.to(torch.int32)),
        low_x=memory.keep(low_x.to(torch.int32)),
        high_x=memory.keep(high_x.to(torch.int32)),
        height=coded(low_y.shape[1]),
        width=coded(low_x.shape[1]),
        stamps=stamps,
        listed=listed,
        length=length,
        tiles_high=coded(high),
        tiles_wide=coded(wide),
    )


def site_of(worklist: Worklist) -> SiteArgs:
    """Where a list's value lies in space, as kernels take it."""
    high, wide = worklist.grid
    return SiteArgs(
        height=coded(worklist.extent[1]),
        width=coded(worklist.extent[2]),
        tiles_high=coded(high),
        tiles_wide=coded(wide),
        tiles=coded(worklist.tiles),
        by_high=coded(divisor(high)),
        by_wide=coded(divisor(wide)),
    )


def window_of(window: Window) -> WindowArgs:
    """How a region's window moves, as kernels take it."""
    return WindowArgs(*window.stride, *window.padding, *window.dilation)


def offsets_of(window: Window) -> OffsetArgs:
    """Where the taps of a region's window lie, as kernels take it."""
    return OffsetArgs(*window.padding, *window.dilation)


def divisor(number: int) -> int:
    """How ``divided`` of ``device.py`` divides by a number: a factor and a shift.

    With s = ceil(log2 d) and m = ceil(2^(31 + s) / d), floor(n m / 2^(31 + s)) = floor(n / d) for n < 2^31
    (Granlund and Montgomery, "Division by invariant integers using multiplication", 1994).
    """
    shift = (number - 1).bit_length()
    return (-(-(1 << (31 + shift)) // number) << 5) | shift


def coded(number: int) -> int:
    """A number as ``plain`` of ``device.py`` takes it."""
    return 2 * number + 1
