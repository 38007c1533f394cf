"""Reach against brute force: disturb one pixel of one input and see which result pixels move."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from tests.support.op_cases import ALL, EVERY, build
from tests.support.streams import captured, stream_of
from videoeff.ir.layout import PixelLayout, info
from videoeff.ir.program import Program
from videoeff.kernels.change_test import pixels_first
from videoeff.ops import Case, Op, op_of
from videoeff.ops.axis_tables import Axis, reads
from videoeff.ops.base import Lambda, shape_of, stream_inputs


def values_of(program: Program, example: tuple[Tensor, ...]) -> dict[fx.Node, Any]:
    """Every node's value, run node by node."""
    values: dict[fx.Node, Any] = dict(zip(program.placeholders, example, strict=True))
    for node in program.nodes:
        if node.op == "get_attr":
            values[node] = program.tensor(node)
        elif node.op == "call_function":
            values[node] = evaluate(node, values)
    return values


def evaluate(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    target: Any = node.target
    return target(*fx.map_arg(node.args, values.__getitem__), **fx.map_arg(node.kwargs, values.__getitem__))


def local_nodes(program: Program, op: Op) -> list[fx.Node]:
    return [n for n in program.nodes if op_of(n) is op and not info(n).dense and info(n).shape is not None]


def layout_of(node: fx.Node) -> PixelLayout:
    layout = info(node).layout
    assert layout is not None
    return layout


def extent_of(node: fx.Node) -> tuple[int, int, int]:
    return layout_of(node).extent(shape_of(node))


def pixels(extent: tuple[int, int, int]) -> Iterator[tuple[int, int, int]]:
    """Every pixel of the last stream."""
    rows, height, width = extent
    assert rows * height * width > 0
    return ((rows - 1, y, x) for y in range(height) for x in range(width))


def disturbances(op: Op, value: Tensor) -> list[Callable[[Tensor], Tensor]]:
    """What is done to the channels of a pixel; one of them moves each result pixel that it has a part in."""
    if not value.is_floating_point():
        return [torch.logical_not if value.dtype == torch.bool else torch.neg]
    by_amount: list[Callable[[Tensor], Tensor]] = [
        partial(torch.add, other=amount) for amount in (1e3, -1e3, 0.01)
    ]
    if op.name == "upsample":  # NaN would show the pixels that are read with a weight of 0, too
        return by_amount
    return [*by_amount, torch.neg, partial(torch.full_like, fill_value=math.nan)]


def disturbed(
    value: Tensor, layout: PixelLayout, place: tuple[int, int, int], how: Callable[[Tensor], Tensor]
) -> Tensor:
    result = value.clone()
    key: list[slice | int] = [slice(None)] * value.ndim
    for dim, index in zip((layout.rows, layout.h, layout.w), place, strict=True):
        if dim is not None:
            key[dim] = index
    result[tuple(key)] = how(result[tuple(key)])
    return result


def moved(node: fx.Node, before: Tensor, after: Tensor) -> Tensor:
    layout = layout_of(node)
    a, b = pixels_first(before, layout), pixels_first(after, layout)
    return ((a != b) & ~(a.isnan() & b.isnan())).any(-1)


def check(op: Op, node: fx.Node, values: dict[fx.Node, Any]) -> None:
    """A node's reach is what moves, no pixel less and no pixel more, from every pixel of every input."""
    reach, extent, sources = op.reach(node), extent_of(node), stream_inputs(node)
    assert sources
    # what chooses between two inputs, the other way round
    chosen = {n: ~values[n] for n in sources if values[n].dtype == torch.bool}
    bases = [values, {**values, **chosen}] if chosen else [values]
    for source in sources:
        for place in pixels(extent_of(source)):
            masks = {n.name: torch.zeros(extent_of(n), dtype=torch.bool) for n in sources}
            masks[source.name][place] = True
            reached = reach(masks).expand(extent)
            truly = torch.zeros(extent, dtype=torch.bool)
            for how, base in itertools.product(disturbances(op, values[source]), bases):
                after = {**base, source: disturbed(base[source], layout_of(source), place, how)}
                truly |= moved(node, evaluate(node, base), evaluate(node, after))
            where = f"{node.name} from {source.name} at {place}"
            assert not bool((truly & ~reached).any()), f"{where}: a pixel moves that is not reached"
            assert not bool((reached & ~truly).any()), f"{where}: a pixel is reached that never moves"


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
    """In float64 PyTorch takes other pixels of a map of this size if it is contiguous than channels-last."""
    size, out, last = 54, 171, torch.channels_last
    x = torch.rand(1, 4, size, size, dtype=torch.float64)
    module = nn.Upsample(size=(out, out))
    assert not torch.equal(module(x), module(x.to(memory_format=last)))
    stream = stream_of(nn.Sequential(module, nn.ReLU()), x, backend="reference")
    stream(x)
    for place in range(size):
        x = x.clone()
        x[:, :, place, size - 1 - place] = torch.rand(4, dtype=torch.float64)
        assert torch.equal(stream(x), module(x.to(memory_format=last)))
