"""Reach against brute force: disturb one pixel of one input and see which result pixels move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from tests.support.op_cases import ALL, EVERY, build
from tests.support.reach import (
    check,
    local_nodes,
    values_of,
)
from tests.support.streams import captured, stream_of
from videoeff.ops import Case, Op, op_of
from videoeff.ops.axis_tables import Axis, reads
from videoeff.ops.base import Lambda


@pytest.mark.parametrize(("op", "case"), ALL)
def test_reach_is_what_moves(op: Op, case: Case) -> None:
    module, example = build(case)
    program = captured(module, *example)
    with torch.no_grad():
        values = values_of(program, example)
        for node in local_nodes(program, op):
            check(op, node, values)


def test_every_traced_op_is_disturbed() -> None:
    """The test above says something about an op only if one of its cases holds a traced call."""
    idle = {op.name for op, _ in EVERY}
    for op, case in EVERY:
        if op.name in idle:
            module, example = build(case)
            if local_nodes(captured(module, *example), op):
                idle.discard(op.name)
    assert idle == {"delta_cache", "global"}  # a marker of planned graphs; what looks at all pixels


# ---------------------------------------------------------------- other parameters than those of the cases

SIDES = st.tuples(st.integers(5, 9), st.integers(5, 9))
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADS = st.tuples(st.integers(0, 1), st.integers(0, 1))


def check_module(name: str, module: nn.Module, sides: tuple[int, int]) -> None:
    """The reach of the one call of an op in a module."""
    example = torch.randn(1, 2, *sides, dtype=torch.float64)
    program = captured(module.double(), example)
    (node,) = [n for n in program.nodes if n.op == "call_function" and (op := op_of(n)) and op.name == name]
    op = op_of(node)
    assert op is not None
    with torch.no_grad():
        check(op, node, values_of(program, (example,)))


@given(sides=SIDES, kernel=PAIRS, stride=PAIRS, padding=PADS, dilation=PAIRS)
def test_windows(sides: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> None:
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
    assume(all(s <= n + 2 * p for s, n, p in zip(span, sides, padding, strict=True)))
    check_module("convolution", nn.Conv2d(2, 3, kernel, stride, padding, dilation), sides)
    check_module("pool", nn.MaxPool2d(kernel, stride, padding, dilation), sides)
    check_module("pool", nn.AvgPool2d(kernel, stride, padding), sides)


@given(sides=SIDES, kernel=PAIRS, stride=PAIRS, padding=PADS, extra=PADS, dilation=PAIRS)
def test_transposed_windows(
    sides: Any, kernel: Any, stride: Any, padding: Any, extra: Any, dilation: Any
) -> None:
    extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(extra, stride, dilation, strict=True))
    module = nn.ConvTranspose2d(2, 3, kernel, stride, padding, extra, dilation=dilation)
    check_module("conv_transpose", module, sides)


@given(
    sides=SIDES,
    pads=st.tuples(*[st.integers(-2, 3)] * 4),
    mode=st.sampled_from(["constant", "reflect", "replicate", "circular"]),
)
def test_padding(sides: Any, pads: Any, mode: str) -> None:
    if mode != "constant":
        pads = tuple(abs(p) for p in pads)
    assume(any(pads))
    check_module("pad", Lambda(lambda x: F.pad(x, pads, mode)), sides)


@st.composite
def resamplings(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of ``interpolate``: sizes or factors, up and down."""
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "bilinear"]))
    given: dict[str, Any] = {"mode": mode}
    if mode == "bilinear":
        given["align_corners"] = draw(st.booleans())
    factor = st.one_of(st.sampled_from([0.5, 2.0, 3.0, 1 / 3, 1.5]), st.floats(0.3, 3.0))
    if draw(st.booleans()):
        given["scale_factor"] = (draw(factor), draw(factor))
    else:
        given["size"] = (draw(st.integers(1, 20)), draw(st.integers(1, 20)))
    return given


@given(sides=SIDES, how=resamplings())
def test_resampling(sides: Any, how: dict[str, Any]) -> None:
    check_module("upsample", Lambda(lambda x: F.interpolate(x, **how)), sides)


@pytest.mark.parametrize("align", [None, False, True])
@pytest.mark.parametrize("out", [54, 135, 171, 189, 270, 480])
@pytest.mark.parametrize("size", [54, 60, 135, 240])
def test_resampling_of_long_axes(size: int, out: int, align: bool | None) -> None:
    """A row of pixels, each disturbed in an entry of the batch of its own."""
    mode = "nearest" if align is None else "bilinear"
    flat = torch.zeros(size, 1, size, 3, dtype=torch.float64)
    flat[torch.arange(size), 0, torch.arange(size), 1] = 1.0
    moves = torch.zeros(size, out, dtype=torch.bool)
    for frames in (flat, flat.expand(-1, 4, -1, -1).contiguous(memory_format=torch.channels_last)):
        moves |= (F.interpolate(frames, (out, 3), mode=mode, align_corners=align) != 0).any(1)[:, :, 1]
    options = (None,) if align is None else (align, None)
    found = torch.zeros(size, out, dtype=torch.bool)
    found[reads(Axis(mode, size, out, options, torch.float64)).T, torch.arange(out)] = True
    assert torch.equal(found, moves)


def test_both_of_pytorchs_nearest_pixels_are_followed() -> None:
    """In float64 PyTorch takes other pixels of this map channels-last; a stream those of the default."""
    size, out, last = 54, 171, torch.channels_last
    x = torch.rand(1, 4, size, size, dtype=torch.float64)
    module = nn.Upsample(size=(out, out))
    assert not torch.equal(module(x), module(x.to(memory_format=last)))
    stream = stream_of(nn.Sequential(module, nn.ReLU()), x, backend="reference")
    stream(x)
    for place in range(size):
        x = x.clone()
        x[:, :, place, size - 1 - place] = torch.rand(4, dtype=torch.float64)
        assert torch.equal(stream(x), module(x))
