"""Accesses of interpreted kernels, checked while their programs take turns at random.

Triton's interpreter runs one program after the other and reads any address. Here the programs of a launch
are threads of which one runs at a time; before each access to memory another may get its turn. Reported are

- accesses outside the memory that the launch was given;
- two programs that touch the same place, at least one of them writing another value, where nothing orders
  them: vector clocks, joined by atomic operations that acquire and release;
- a program that reads back what it wrote without a barrier between, or that releases or acquires without one:
  inside a program threads are ordered by barriers only;
- one store of different values to the same place.

Atomic operations and volatile loads may meet each other. What each launch touched is kept, so that launches
that run side by side can be compared.
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from tests.support.triton.shadow import Block, Footprint, Ints, Run

#: Share of the accesses before which another program gets its turn.
TURNS = 0.25


class Turns:
    """Programs as threads, of which one runs at a time."""

    def __init__(self, count: int, dice: random.Random) -> None:
        self.dice, self.waiting = dice, [threading.Semaphore(0) for _ in range(count)]
        self.alive, self.done = list(range(count)), threading.Semaphore(0)
        self.here = threading.local()
        self.error: BaseException | None = None

    def run(self, work: Any) -> None:
        """``work(program)`` for each of them."""
        threads = [threading.Thread(target=self._one, args=(work, p)) for p in self.alive]
        for thread in threads:
            thread.start()
        self.waiting[self.dice.choice(self.alive)].release()
        self.done.acquire()
        for thread in threads:
            thread.join()
        if self.error is not None:
            raise self.error

    def _one(self, work: Any, program: int) -> None:
        self.waiting[program].acquire()
        self.here.program = program
        try:
            if self.error is None:
                work(program)
        except BaseException as error:  # noqa: BLE001 (raised again by run)
            self.error = self.error or error
        self.alive.remove(program)
        (self.waiting[self.dice.choice(self.alive)] if self.alive else self.done).release()

    def may_switch(self) -> None:
        """Another program's turn, perhaps."""
        if len(self.alive) > 1 and self.dice.random() < TURNS:
            other = self.dice.choice(self.alive)
            if other != self.here.program:
                self.waiting[other].release()
                self.waiting[self.here.program].acquire()


class Watch:
    """The launches of a block of code; see the head of this file."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.frames: list[Footprint] = []
        self.faults: list[str] = []
        self.launch: Any = None
        self.lent: list[Tensor] = []  # what kernels find by an address in memory
        self.run: Run | None = None
        self.turns: Turns | None = None

    @property
    def program(self) -> int:
        assert self.turns is not None  # a launch is under way
        return int(self.turns.here.program)

    def access(self) -> Run:
        """The launch under way, before an access to memory: another program's turn, perhaps."""
        assert self.run is not None  # kernels run inside launches
        assert self.turns is not None
        self.turns.may_switch()
        return self.run

    def execute(self, executor: Any, *arguments: Any, **named: Any) -> None:
        """In place of ``GridExecutor.__call__``: all programs, in turns."""
        from triton.runtime import interpreter

        spec = inspect.getfullargspec(executor.fn)
        named = {k: v for k, v in named.items() if k in spec.args or k in spec.kwonlyargs}
        blocks: dict[int, Block] = {}
        for name, value in inspect.getcallargs(executor.fn, *arguments, **named).items():
            _collect(name, value, blocks)
        for number, tensor in enumerate(self.lent):
            _collect(f"frame {number}", tensor, blocks)
        interpreter._patch_lang(executor.fn)
        given = inspect.getcallargs(executor.fn, *arguments, **named)
        given = {n: v if n in executor.constexprs else interpreter._implicit_cvt(v) for n, v in given.items()}
        grid = executor.grid(given) if callable(executor.grid) else executor.grid
        assert set(grid[1:]) <= {1}  # ours have one dimension
        interpreter.interpreter_builder.set_grid_dim(grid[0], 1, 1)
        name = f"{getattr(self.launch, 'layer', '')} {executor.fn.__name__}".strip()
        self.run, self.turns = Run(name, grid[0], list(blocks.values())), Turns(grid[0], self.dice)
        try:
            self.turns.run(lambda program: executor.fn(**given))
        finally:
            self.frames.append(self.run.footprint(self.launch))
            self.faults += self.run.faults
            self.run = self.turns = None


def _collect(name: str, value: Any, blocks: dict[int, Block]) -> None:
    if isinstance(value, tuple):
        for number, part in enumerate(value):
            _collect(f"{name}[{number}]", part, blocks)
    elif isinstance(value, Tensor):
        storage = value.untyped_storage()
        if storage.nbytes():
            start = storage.data_ptr()
            blocks.setdefault(start, Block(start, start + storage.nbytes(), name))


@contextmanager
def watched(seed: int = 0) -> Iterator[Watch]:
    """Watch all launches inside.

    Raises:
        AssertionError: on leaving, for what was found.
    """
    from triton.runtime import interpreter

    from videoeff.kernels.region_spec.frames import FrameReader
    from videoeff.kernels.triton.binding import Launch

    watch, builder = Watch(seed), interpreter.interpreter_builder
    plain = interpreter.InterpreterBuilder  # a watch inside another takes its place
    launched, read = Launch.run, FrameReader.read

    def addresses(pointers: Any, mask: Any) -> Ints:
        which, chosen = np.broadcast_arrays(pointers.data, np.asarray(mask.data, bool))
        found: Ints = which[chosen].astype(np.uint64).ravel()
        return found

    # Up to Triton 3.8 two arguments say how to use the caches, from 3.9 on one.
    def load(pointers: Any, mask: Any, other: Any, *policy_and_volatile: Any) -> Any:
        at = watch.access()
        size = pointers.get_element_ty().primitive_bitwidth // 8
        at.read(watch.program, addresses(pointers, mask), size, bool(policy_and_volatile[-1]))
        return plain.create_masked_load(builder, pointers, mask, other, *policy_and_volatile)

    def store(pointers: Any, value: Any, mask: Any, *policy: Any) -> Any:
        at = watch.access()
        found = addresses(pointers, mask)
        chosen = np.broadcast_to(np.asarray(mask.data, bool), pointers.data.shape)
        values = np.ascontiguousarray(np.broadcast_to(value.data, pointers.data.shape)[chosen]).ravel()
        held = plain.create_masked_load(builder, pointers, mask, None, *[None] * len(policy), False).data
        held = np.ascontiguousarray(held[chosen]).ravel()
        at.write(watch.program, found, values, held)
        return plain.create_masked_store(builder, pointers, value, mask, *policy)

    def atomic(operation: Any, pointers: Any, value: Any, mask: Any, sem: Any, scope: Any) -> Any:
        at = watch.access()
        at.exchange(watch.program, addresses(pointers, mask), value.data.itemsize, str(sem))
        return plain.create_atomic_rmw(builder, operation, pointers, value, mask, sem, scope)

    def compare(pointers: Any, expected: Any, value: Any, sem: Any, scope: Any) -> Any:
        at = watch.access()
        found = pointers.data.astype(np.uint64).ravel()
        at.exchange(watch.program, found, value.data.itemsize, str(sem))
        return plain.create_atomic_cas(builder, pointers, expected, value, sem, scope)

    def dot(a: Any, b: Any, d: Any, *precision: Any) -> Any:
        """In double precision: in single, numpy's sums depend on where the operands lie in memory."""
        if not a.data.dtype == b.data.dtype == d.data.dtype == np.float32:
            return plain.create_dot(builder, a, b, d, *precision)
        product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + d.data
        return interpreter.TensorHandle(product.astype(np.float32), d.dtype.scalar)

    def program_id(axis: int) -> Any:
        number = watch.program if axis == 0 else 0
        return interpreter.TensorHandle(np.array([number], dtype=np.int32), interpreter.tl.int32)

    def barrier() -> None:
        assert watch.run is not None
        watch.run.barrier(watch.program)

    def run(launch: Launch, full: bool, counting: bool) -> None:
        watch.launch = launch
        launched(launch, full, counting)
        watch.launch = None

    def lend(reader: FrameReader, *arguments: Any) -> Any:
        frame, strides = read(reader, *arguments)
        watch.lent = [*watch.lent[-8:], frame]
        return frame, strides

    with pytest.MonkeyPatch.context() as patch:
        for name, ours in {
            "create_masked_load": load, "create_masked_store": store, "create_atomic_rmw": atomic,
            "create_atomic_cas": compare, "create_get_program_id": program_id, "create_barrier": barrier,
            "create_dot": dot,
        }.items():  # fmt: skip
            patch.setattr(builder, name, ours)
        if not hasattr(plain, "get_bf16"):  # up to Triton 3.8
            patch.setattr(
                builder,
                "get_bf16",
                lambda value: plain.create_fp_trunc(
                    builder, plain.get_fp32(builder, value), interpreter.tl.bfloat16
                ),
                raising=False,
            )
        patch.setattr(interpreter.GridExecutor, "__call__", lambda e, *a, **k: watch.execute(e, *a, **k))
        patch.setattr(Launch, "run", run)
        patch.setattr(FrameReader, "read", lend)
        yield watch
    assert not watch.faults, "\n".join(watch.faults)
