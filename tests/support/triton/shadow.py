"""One interpreted launch: which program touched which place, and what orders them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[Any]

#: What a place's shadow remembers: of the last write, read and atomic operation, by which program, and when.
SHADOW = ("writer", "written", "epoch", "reader", "read", "atomic", "when")

#: A place that several programs have read, in no order.
SEVERAL = -1


@dataclass
class Footprint:
    """The places one launch touched: byte addresses, each once; volatile loads count as atomic."""

    launch: Any
    reads: Ints
    writes: Ints
    atomics: Ints


@dataclass
class Block:
    """Memory that a launch may touch, and the shadow of its bytes."""

    start: int
    end: int
    name: str
    shadow: dict[str, Ints] = field(default_factory=dict)

    def of(self, what: str) -> Ints:
        """One of ``SHADOW``, by byte."""
        if what not in self.shadow:
            self.shadow[what] = np.zeros(self.end - self.start, np.int32)
        return self.shadow[what]


class Run:
    """One launch: its memory, its programs' clocks, and what was found."""

    def __init__(self, name: str, programs: int, blocks: list[Block]) -> None:
        self.name, self.blocks = name, sorted(blocks, key=lambda b: b.start)
        self.starts = np.array([b.start for b in self.blocks], np.uint64)
        self.clocks = np.zeros((programs, programs), np.int32)
        self.clocks[np.arange(programs), np.arange(programs)] = 1
        self.released: dict[int, Ints] = {}
        self.epochs = [1] * programs
        self.wrote, self.acquired = [False] * programs, [False] * programs
        self.touched: dict[str, list[Ints]] = {"read": [], "write": [], "atomic": []}
        self.faults: list[str] = []

    # -- where -------------------------------------------------------------------------------------------

    def places(
        self, addresses: Ints, size: int, program: int, what: str
    ) -> Iterator[tuple[Block, Ints, Ints]]:
        """The accessed offsets by block of memory, and which addresses those are; others are a fault."""
        at = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        for number in np.unique(at):
            mine = at == number
            if number < 0:
                first = int(addresses[mine][0])
                self.fault(program, f"{what} at {first:#x}, in front of all memory it was given")
                continue
            block = self.blocks[number]
            inside = mine & (addresses <= block.end - size)
            if (mine & ~inside).any():
                past = int(addresses[mine].max()) + size - block.end
                self.fault(program, f"{what} {past} bytes past the end of {block.name}")
            yield block, (addresses[inside] - np.uint64(block.start)).astype(np.int64), inside

    def fault(self, program: int, text: str) -> None:
        if len(self.faults) < 5:
            self.faults.append(f"{self.name}: program {program}: {text}")

    def _unordered(self, block: Block, who: str, when: str, places: Ints, program: int) -> Ints:
        """At which of the places another program's access is not known to have come before."""
        other = block.of(who)[places]
        foreign = (other > 0) & (other != program + 1)
        known = self.clocks[program][np.where(foreign, other - 1, program)]
        unordered: Ints = (other == SEVERAL) | (foreign & (block.of(when)[places] > known))
        return unordered

    # -- accesses ----------------------------------------------------------------------------------------

    def read(self, program: int, addresses: Ints, size: int, volatile: bool) -> None:
        self.touched["atomic" if volatile else "read"].append(addresses)
        for block, places, _ in self.places(addresses, size, program, "a load"):
            if self._unordered(block, "writer", "written", places, program).any():
                self.fault(program, f"loads from {block.name} what another program stores")
            if volatile:
                continue
            if self._unordered(block, "atomic", "when", places, program).any():
                self.fault(program, f"loads from {block.name} what another program exchanges")
            own = block.of("writer")[places] == program + 1
            if (own & (block.of("epoch")[places] == self.epochs[program])).any():
                self.fault(program, f"loads from {block.name} what it stored, without a barrier between")
            if self.acquired[program] and (block.of("writer")[places] > 0).any():
                self.fault(program, f"loads from {block.name} without a barrier behind what it acquired")
            apart = self._unordered(block, "reader", "read", places, program)
            block.of("reader")[places] = np.where(apart, SEVERAL, program + 1)
            block.of("read")[places] = self.clocks[program, program]

    def write(self, program: int, addresses: Ints, values: Ints, held: Ints) -> None:
        self.touched["write"].append(addresses)
        self.wrote[program] = True
        bits = values.view(f"u{values.itemsize}")
        differs = bits != held.view(bits.dtype)
        _, first, back = np.unique(addresses, return_index=True, return_inverse=True)
        if (bits != bits[first][back]).any():
            self.fault(program, "stores different values to one place at once")
        for block, places, inside in self.places(addresses, values.itemsize, program, "a store"):
            moved = differs[inside]
            for who, when, does in (
                ("writer", "written", "stores"),
                ("reader", "read", "loads"),
                ("atomic", "when", "exchanges"),
            ):
                if (moved & self._unordered(block, who, when, places, program)).any():
                    self.fault(program, f"stores to {block.name} what another program {does}")
            block.of("writer")[places] = program + 1
            block.of("written")[places] = self.clocks[program, program]
            block.of("epoch")[places] = self.epochs[program]

    def exchange(self, program: int, addresses: Ints, size: int, sem: str) -> None:
        self.touched["atomic"].append(addresses)
        acquires, releases = "ACQUIRE" in sem, "RELEASE" in sem
        if releases and self.wrote[program]:
            self.fault(program, "releases without a barrier behind what it stored")
        for block, places, _ in self.places(addresses, size, program, "an atomic operation"):
            for who, when, does in (("writer", "written", "stores"), ("reader", "read", "loads")):
                if self._unordered(block, who, when, places, program).any():
                    self.fault(program, f"exchanges in {block.name} what another program {does}")
            block.of("atomic")[places] = program + 1
            block.of("when")[places] = self.clocks[program, program]
        for address in addresses.tolist() if acquires or releases else ():
            told = self.released.get(address, np.zeros_like(self.clocks[program]))
            if acquires:
                np.maximum(self.clocks[program], told, out=self.clocks[program])
                self.acquired[program] = True
            if releases:
                self.released[address] = np.maximum(told, self.clocks[program])
        self.clocks[program, program] += 1

    def barrier(self, program: int) -> None:
        self.epochs[program] += 1
        self.wrote[program] = self.acquired[program] = False

    def footprint(self, launch: Any) -> Footprint:
        whole = {
            what: np.unique(np.concatenate([np.zeros(0, np.uint64), *parts]))
            for what, parts in self.touched.items()
        }
        return Footprint(launch, whole["read"], whole["write"], whole["atomic"])


def conflicts(one: Footprint, other: Footprint) -> bool:
    """Whether two launches must not run side by side."""
    pairs = ((one, other), (other, one))
    apart = [np.concatenate([f.reads, f.writes, f.atomics]) for f in (other, one)]
    stored = any(np.isin(a.writes, rest).any() for (a, _), rest in zip(pairs, apart, strict=True))
    return bool(stored or any(np.isin(a.atomics, b.reads).any() for a, b in pairs))
