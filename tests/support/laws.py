"""What tests of laws share: random networks, their clips, their right answers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.utils._pytree as pytree
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.nets import BLOCKS, Spec, network
from tests.support.streams import captured
from videoeff.ir.program import Program
from videoeff.testing import moving_clip

FEW = settings(max_examples=12)


def specs(blocks: tuple[str, ...] = tuple(BLOCKS), max_streams: int = 3) -> st.SearchStrategy[Spec]:
    """Random networks of one to four blocks."""
    return st.builds(
        Spec,
        blocks=st.lists(st.sampled_from(blocks), min_size=1, max_size=4).map(tuple),
        seed=st.integers(0, 999),
        streams=st.integers(1, max_streams),
        inputs=st.integers(1, 2),
        outputs=st.integers(1, 2),
    )


@lru_cache(maxsize=16)
def program(spec: Spec, dtype: torch.dtype) -> Program:
    frames = [torch.rand(s, dtype=dtype) for s in spec.shapes]
    return captured(network(spec, dtype), *frames)


def clip(
    spec: Spec, count: int, dtype: torch.dtype = torch.float64, seed: int = 0
) -> list[tuple[Tensor, ...]]:
    """Frames with moving objects; a second input moves otherwise."""
    inputs = [moving_clip(count, s, dtype=dtype, seed=seed + 100 * i) for i, s in enumerate(spec.shapes)]
    return list(zip(*inputs, strict=True))


def dense(spec: Spec, frame: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        return network(spec, frame[0].dtype)(*frame)


def same(a: Any, b: Any) -> bool:
    """Bitwise equal outputs."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))


def entry(outputs: Any, stream: int) -> Any:
    """One stream's part of the outputs."""
    return pytree.tree_map(lambda t: t[stream], outputs)
