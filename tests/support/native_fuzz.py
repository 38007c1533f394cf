"""Corrupted descriptors for the native library: ``python -m tests.support.native_fuzz SEED ROUNDS``."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from typing import Any

import torch

from tests.support import quantised as quantised_net
from tests.support.native_streams import SHAPE, InvertedResidual, Net, engine_of, passes, plans_of
from tests.support.streams import stream_of
from videoeff.kernels.cpp import abi, library
from videoeff.passes.recompute_expansions import RecomputeExpansions

#: Arrays without a length of their own in the descriptor: here all of them lie in one long, empty one.
BARE = ("weight", "bias", "iy", "ix", "wy", "wx", "streams", "scale", "pending", "taps")
NUMBERS = (0, 1, -1, 2, 3, 5, 7, 16, 17, 63, 64, 100, 2**15, 2**20, 2**31 - 1, -(2**31))
REALS = (0.0, -1.0, 1.0, 1e-30, 1e30, float("nan"), float("inf"), -float("inf"))


def fields(structure: ctypes.Structure) -> Iterator[tuple[Any, Any, type]]:
    """Every number inside a structure that is no address: (holder, name or index, type)."""
    for name, kind in structure._fields_:  # type: ignore[misc]
        value = getattr(structure, name)
        if isinstance(value, ctypes.Structure):
            yield from fields(value)
        elif isinstance(value, ctypes.Array):
            for i, item in enumerate(value):
                if isinstance(item, ctypes.Structure):
                    yield from fields(item)
                else:
                    yield value, i, ctypes.c_int32
        elif kind is not ctypes.c_void_p and name != "size":  # how much memory there is, is taken as told
            yield structure, name, kind


def corrupt(ops: Any, masks: Any, rng: random.Random) -> list[str]:
    """Change one to three numbers; says which."""
    done = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        index = rng.randrange(len(ops))
        target = masks[rng.randrange(len(masks))] if rng.random() < 0.1 else ops[index]
        holder, name, kind = rng.choice(list(fields(target)))
        value: Any
        if kind is ctypes.c_double:
            value = rng.choice(REALS)
        else:
            value = rng.choice(NUMBERS) if rng.random() < 0.8 else rng.randrange(-100, 1000)
        if isinstance(name, int):
            holder[name] = value
        else:
            setattr(holder, name, value)
        done.append(f"op {index}: {type(target).__name__}.{name} = {value}")
    return done


def fuzz(seed: int, rounds: int) -> None:
    """Create plans of corrupted descriptors, and run those that are accepted."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    native = library.load()
    how = ("noise", "predicted", "l2", "exact", "predicted", "l2", "exact", "exact")[seed]
    middle = InvertedResidual(8, 16, gate=False).eval() if seed == 3 else None
    quantised = seed > 4
    staged = seed in (3, 7)
    if quantised:
        model: torch.nn.Module = quantised_net.Net(12)
        words = "drop-noops,trace-channels,insert-delta-caches,fuse-quantized,fuse-pointwise,plan-layout"
        words += ",recompute-expansions{least=0}" if staged else ""
        words += ",insert-thresholds{threshold=0.1, test=l2}" if how == "l2" else ""
        stream = stream_of(model.eval(), torch.rand(SHAPE), passes=words)
    else:
        exact = RecomputeExpansions(least=0)
        chosen = [exact if isinstance(p, RecomputeExpansions) else p for p in passes(how)]
        stream = stream_of(Net(middle).eval(), torch.rand(SHAPE), passes=chosen)
    if seed in (0, 2, 6):  # a test by noise, one by blocks, and one of 8-bit numbers
        stream.set_zones(torch.rand(SHAPE[2:]) > 0.5)
    frame = torch.rand(SHAPE)
    (plan,), engine = plans_of(stream), engine_of(stream)
    plan.winograd = seed == 4
    stream(frame)
    valid, masks, kept = plan.descriptors(engine._state, engine._constants)
    assert any(op.nbefore for op in valid) == staged
    assert any(op.winograd for op in valid) == (seed == 4)
    assert any(op.integer for op in valid) == quantised
    assert any(op.watched for op in valid) == (seed in (0, 2, 6))
    empty, ones = torch.zeros(64 << 20, dtype=torch.uint8), torch.ones(16 << 20)
    some = torch.full((8 << 20,), 0b10101010)  # every second of the first pixels of each word
    for op in valid:
        if op.noise:  # zeros are no noise
            op.noise = ones.data_ptr()
        if op.watched:
            op.watched = some.data_ptr()
        for view in (op.out, op.in_, *op.args):
            if view.grid:
                view.grid = ones.data_ptr()
        if op.factors:
            op.factors = ones.data_ptr()
        for name in BARE:
            if getattr(op, name):
                setattr(op, name, empty.data_ptr())
        for stage in op.before:
            stage.weight = stage.bias = empty.data_ptr()
            if stage.grid:
                stage.grid = ones.data_ptr()
            if stage.factors:
                stage.factors = ones.data_ptr()
    frames = (abi.Frame * 1)(abi.Frame(frame.data_ptr(), *(frame.stride()[d] for d in (0, 2, 3, 1))))
    accepted = 0
    for number in range(rounds):
        ops = type(valid).from_buffer_copy(valid)
        table = type(masks).from_buffer_copy(masks)
        done = corrupt(ops, table, rng) if number else []
        print(seed, number, done, flush=True)
        error = ctypes.create_string_buffer(512)
        isa = rng.randrange(native.best_isa + 1)
        handle = native.vf_plan_create(ops, len(ops), table, len(table), isa, error, len(error))
        assert bool(handle) != bool(error.value), f"{done}: refused without a sentence"
        assert handle or number, error.value
        if handle:
            accepted += 1
            for fresh in (b"\1\1", b"\0\0", b"\0\1"):
                native.vf_plan_run(handle, frames, 1, fresh, 2, 2, 1)
            native.vf_plan_destroy(handle)
    assert 0 < accepted < rounds
    del kept


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), int(sys.argv[2]))
