"""Inverted residuals whose wide maps are computed anew: the same as with every map kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import ISAS, WAYS, InvertedResidual, plans_of
from tests.support.quantised import Rounded, quantised
from tests.support.streams import captured, planned
from videoeff.errors import StateError
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Products
from videoeff.lowering.lower import lower
from videoeff.passes import Pass, recipe
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.passes.recompute_expansions import RecomputeExpansions
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import relative_error

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")

ANY = RecomputeExpansions(least=0, widest=4096)


class Net(nn.Module):
    """A few blocks between a stem, of which a maximum may be taken, and a head."""

    def __init__(
        self, *blocks: dict[str, Any], channels: int = 8, pool: nn.Module | None = None, stem: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, stem, 1 + stem // 5, stem // 2)
        self.pool = nn.Identity() if pool is None else pool
        self.blocks = nn.Sequential(*(InvertedResidual(channels, **options) for options in blocks))
        self.head = nn.LazyConv2d(5, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.blocks(self.pool(torch.relu(self.stem(x)))))
        return result


BLOCKS: dict[str, tuple[dict[str, Any], ...]] = {
    "inverted": ({}, {"stride": 2, "wide": 48}, {"wide": 21, "bias": False}),
    "five": ({"kernel": 5, "act": nn.Hardswish}, {"kernel": 5, "stride": 2, "act": nn.SiLU}),
    "gated": ({"gate": True, "act": nn.SiLU}, {"gate": True, "stride": 2, "kernel": 5}),
    "no-widening": ({"widen": False}, {"widen": False, "stride": 2, "act": nn.GELU}),
    "no-narrowing": ({"narrow": False, "act": nn.LeakyReLU},),
    "dilated": ({"dilation": 3, "kernel": 3}, {"dilation": 2, "kernel": 5, "act": nn.ReLU}),
    "unpadded": ({"padding": 0, "act": nn.Identity}, {"padding": 0, "stride": 3, "kernel": 4}),
    "pooled": (),
    "pooled-apart": ({},),
    "stem-first": ({"widen": False, "stride": 2}, {}),
}

#: Other stems than a 3x3 convolution.
STEMS: dict[str, dict[str, Any]] = {
    "pooled": {"pool": nn.MaxPool2d(3, 2, 1), "stem": 7},
    "pooled-apart": {"pool": nn.MaxPool2d(2, 3, dilation=2), "stem": 5},
    "stem-first": {"stem": 5},
}

#: Wider than a line buffer; of odd sizes; narrower than a vector of pixels.
SIZES = [(2, 3, 37, 301), (2, 3, 53, 66), (1, 3, 90, 11)]


def passes(*more: Pass, threshold: float = 0.0) -> list[Pass]:
    """The passes of ``convert``, but those that mark what is recomputed; and more."""
    left = [p for p in recipe("delta") if not isinstance(p, RecomputeExpansions)]
    return [*left[:-1], InsertThresholds(threshold), *more]


def net(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    made = Net(*BLOCKS[name], channels=18 if name == "five" else 8, **STEMS.get(name, {}))
    made(torch.rand(1, 3, 64, 64))
    return made.to(dtype).eval()


def in_numbers(name: str, plain: Callable[[str], bool] = lambda path: False) -> nn.Module:
    """The network with every value that a layer reads as 8-bit numbers, and integer weights."""
    model = quantised(net(name), plain)
    inner = model.get_submodule("1")
    assert isinstance(inner, Net)
    model.set_submodule("1.stem", model.get_submodule("1.stem.0"))  # rounded behind its activation
    inner.pool = nn.Sequential(Rounded(0.02, -100), inner.pool)
    inner.blocks = nn.Sequential(*(nn.Sequential(b, Rounded(0.03, 1)) for b in inner.blocks))
    return model


def pair(
    model: nn.Module, example: Tensor, isa: int = -1, whole_from: float = 2.0
) -> tuple[StreamingModule, StreamingModule]:
    """A stream that recomputes and one that keeps everything."""
    streams = [videoeff.convert(model, example, passes=passes(*more)) for more in ((ANY,), ())]
    for stream in streams:
        for plan in plans_of(stream):
            plan.isa, plan.whole_from = isa, whole_from
    return streams[0], streams[1]


def frames(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Iterator[tuple[Tensor, bool]]:
    """Frames that change in places, everywhere, nowhere; and whether to reset the last stream first."""
    generator = torch.Generator().manual_seed(5)
    frame = torch.rand(shape, generator=generator, dtype=dtype)
    yield frame, False
    _, _, height, width = shape
    for boxes, reset in (
        ([(0, 2, 3, 7, 5, 9)], False),
        ([(0, 1, 0, 4, 0, width), (0, 1, height - 3, height, width - 2, width)], False),
        ([(1, 2, 0, height, 2, 4), (0, 1, 20, 21, 0, 1)], True),
        ([(0, 2, 0, height, 0, width)], False),
        ([], False),
        ([(0, 2, y, y + 1, x, x + 1) for y in range(0, height, 9) for x in range(0, width, 7)], False),
        ([(0, 2, 5, height - 5, 0, width // 2)], False),
    ):
        frame = frame.clone()
        for a, b, top, bottom, left, right in boxes:
            part = frame[a:b, :, top:bottom, left:right]
            part.copy_(torch.rand(part.shape, generator=generator, dtype=dtype))
        yield frame, reset


def compare(one: StreamingModule, other: StreamingModule, model: nn.Module, dtype: torch.dtype) -> None:
    shape = one.engines[""].plan.frame_specs[0][0]
    for frame, reset in frames(shape, dtype):
        if reset:
            one.reset(shape[0] - 1)
            other.reset(shape[0] - 1)
        found = one(frame)
        assert torch.equal(found, other(frame))
        with torch.no_grad():
            assert relative_error(found, model(frame)) < (1e-5 if dtype == torch.float32 else 1e-12)
    kept, values = other.engines[""].values(), one.engines[""].values()
    assert set(values) < set(kept)
    for name, value in values.items():
        assert torch.equal(value, kept[name]), name


@pytest.mark.parametrize("shape", SIZES, ids=["wide", "odd", "narrow"])
@pytest.mark.parametrize("name", BLOCKS)
def test_as_with_every_map_kept(name: str, shape: tuple[int, ...]) -> None:
    model = net(name)
    one, other = pair(model, torch.rand(shape))
    compare(one, other, model, torch.float32)
    found, expected = one.report().macs, other.report().macs
    # a kept value also tells where an activation swallowed a change
    assert 1 - 1e-9 < found["needed"] / expected["needed"] < 1.01
    assert found["scheduled"] > (1 - 1e-9) * found["needed"]
    assert one.report().state_bytes < 0.8 * other.report().state_bytes


@pytest.mark.parametrize("isa", range(len(ISAS)), ids=ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", ["inverted", "five", "pooled"])
def test_every_instruction_set(name: str, dtype: torch.dtype, isa: int) -> None:
    model = net(name, dtype)
    one, other = pair(model, torch.rand(SIZES[1], dtype=dtype), isa)
    compare(one, other, model, dtype)


def compare_bits(one: StreamingModule, other: StreamingModule, dtype: torch.dtype) -> None:
    """Bit for bit the same on all frames; and one of them did recompute."""
    shape = one.engines[""].plan.frame_specs[0][0]
    for frame, reset in frames(shape, dtype):
        if reset:
            one.reset(shape[0] - 1)
            other.reset(shape[0] - 1)
        assert torch.equal(one(frame), other(frame))
    assert {i.kernel for s in (one, other) for i in s.engines[""].plan.instructions} == {"cpp"}
    assert one.report().state_bytes < 0.85 * other.report().state_bytes


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
@pytest.mark.parametrize("name", BLOCKS)
def test_bfloat16(name: str, isa: str, products: Products) -> None:
    """What is passed on in a line buffer is rounded as what is kept."""
    one, other = pair(net(name, torch.bfloat16), torch.rand(SIZES[1]).bfloat16(), ISAS.index(isa))
    compare_bits(one, other, torch.bfloat16)


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
@pytest.mark.parametrize("name", [name for name in BLOCKS if name != "gated"])  # no kernel gates numbers
def test_8_bit_numbers(name: str, isa: str, products: Products) -> None:
    model = in_numbers(name)
    one, other = pair(model, torch.rand(SIZES[1]), ISAS.index(isa))
    compare_bits(one, other, torch.float32)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("plain", ["widen", "narrow", "head"])
def test_8_bit_numbers_times_weights_that_are_no_integers(plain: str, threads: int) -> None:
    """Numbers are then turned into what they stand for as they are read."""
    model = in_numbers("inverted", lambda path: plain in path)
    one, other = pair(model, torch.rand(SIZES[0]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare_bits(one, other, torch.float32)
    finally:
        torch.set_num_threads(before)


def test_8_bit_numbers_and_values_are_not_mixed() -> None:
    """A wide map of values between layers of numbers is kept."""
    model = in_numbers("inverted")
    wide = next(n for n, part in model.named_modules() if n.endswith("widen.1.1"))
    model.set_submodule(wide, nn.Identity())
    one, other = pair(model, torch.rand(SIZES[1]))
    for frame, _ in frames(SIZES[1]):
        assert torch.equal(one(frame), other(frame))
    kept = {x.name for x in one.report().layers}
    assert [n for n in kept if ".widen" in n] == [n for n in kept if wide.removesuffix(".1.1") in n] != []


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("whole_from", [2.0, 0.4], ids=["as-active", "whole-where-most-is"])
def test_threads_and_whole_maps(whole_from: float, threads: int) -> None:
    model = net("inverted")
    one, other = pair(model, torch.rand(SIZES[0]), whole_from=whole_from)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        compare(one, other, model, torch.float32)
    finally:
        torch.set_num_threads(before)


def test_what_is_computed_twice_is_counted() -> None:
    """A change of one pixel: the expansion is needed there, and worked on for the window of the next two."""
    model = Net({"wide": 32}, channels=16).eval()
    model(torch.rand(1, 3, 32, 32))
    stream = videoeff.convert(model, torch.rand(1, 3, 32, 32), passes=passes(ANY))
    frame = torch.rand(1, 3, 32, 32)
    stream(frame)
    frame = frame.clone()
    frame[:, :, 9, 9] += 1
    stream(frame)
    (layer,) = (x for x in stream.report().layers if x.name == "blocks.0.narrow")
    widen, depth, narrow = 16 * 32, 9 * 32, 32 * 16
    assert layer.macs_needed == 9 * widen + 25 * (depth + narrow)  # the stem has spread it to 3x3
    assert layer.macs_scheduled == 49 * widen + 25 * (depth + narrow)
    assert layer.active_share == 25 / 32**2


def test_a_threshold_keeps_the_value() -> None:
    model = net("inverted")
    stream = videoeff.convert(model, torch.rand(SIZES[1]), passes=passes(ANY))
    before = {x.name for x in stream.report().layers}
    twin = copy.deepcopy(stream)
    for frame, _ in frames(SIZES[1]):
        stream(frame)
    assert "blocks.0.widen.0" not in before
    stream.set_thresholds({"blocks.0.widen.0": 0.1})
    found = {x.name for x in stream.report().layers}
    assert "blocks.0.widen.0" in found
    assert "blocks.1.widen.0" not in found
    assert stream.engines[""].fresh == (True, True)  # nobody knew the value: the next frame is a first one
    twin.set_thresholds({"blocks.0.widen.0": 0.1})
    for frame, _ in frames(SIZES[1]):
        assert torch.equal(stream(frame), twin(frame))
    stream.set_thresholds({"blocks.0.widen.0": 0.0})
    assert {x.name for x in stream.report().layers} == before
    assert stream.engines[""].fresh == (False, False)
    changed = torch.rand(SIZES[1])
    with torch.no_grad():
        assert relative_error(stream(changed), model(changed)) < 1e-5


def test_snapshots_copies_and_files(tmp_path: Path) -> None:
    model = net("gated")
    stream = videoeff.convert(model, torch.rand(SIZES[1]), passes=passes(ANY))
    clip = [frame for frame, _ in frames(SIZES[1])]
    for frame in clip[:3]:
        stream(frame)
    held, twin = stream.snapshot(), copy.deepcopy(stream)
    stream.save(tmp_path / "net.veff")
    loaded = videoeff.load(tmp_path / "net.veff")
    assert [x.name for x in loaded.report().layers] == [x.name for x in stream.report().layers]
    loaded.restore(held)
    for frame in clip[3:]:
        expected = stream(frame)
        assert torch.equal(twin(frame), expected)
        assert torch.equal(loaded(frame), expected)
    stream.restore(held)
    assert torch.equal(stream(clip[3]), videoeff.load(tmp_path / "net.veff")(clip[3]))
    with pytest.raises(StateError, match=r"depth|widen"):
        videoeff.convert(model, torch.rand(SIZES[1]), passes=passes()).restore(held)


def test_a_cast_goes_on_or_starts_afresh() -> None:
    """In float64 the same maps are recomputed; in float16, which no kernel has, all are kept again."""
    model = net("inverted")
    stream = videoeff.convert(model, torch.rand(SIZES[1]), passes=passes(ANY))
    clip = [frame for frame, _ in frames(SIZES[1])]
    stream(clip[0])
    before = {x.name for x in stream.report().layers}
    stream.double()
    assert {x.name for x in stream.report().layers} == before
    assert stream.engines[""].fresh == (False, False)
    with torch.no_grad():
        assert relative_error(stream(clip[1].double()), model.double()(clip[1].double())) < 1e-5
    stream.to(torch.float16)
    assert "blocks.0.widen.0" in {x.name for x in stream.report().layers}
    assert stream.engines[""].fresh == (True, True)
    stream(clip[2].to(torch.float16))


class Twice(nn.Module):
    """A wide map that more than the depthwise convolution reads."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.depth = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.widen(x)
        result: Tensor = self.depth(y) + y
        return result


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        (Twice(), "widen"),
        (nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1)), "0"),
        (nn.Sequential(nn.Conv2d(3, 16, 1), nn.Tanh(), nn.Conv2d(16, 16, 3, padding=1, groups=16)), "0"),
        (nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=9, groups=16)), "0"),
    ],
    ids=["two-readers", "not-depthwise", "no-activation", "unusual-window"],
)
def test_what_no_kernel_takes_is_kept(model: nn.Module, kept: str) -> None:
    example = torch.rand(1, 3, 20, 20)
    stream = videoeff.convert(model.eval(), example, passes=passes(ANY))
    layers = {x.name: x for x in stream.report().layers}
    assert kept in layers
    assert {x.kernel for x in layers.values()} == {"cpp"}
    for frame, _ in frames((1, 3, 20, 20)):
        with torch.no_grad():
            assert relative_error(stream(frame), model(frame)) < 1e-5


def test_predicted_changes_keep_the_map() -> None:
    model = net("inverted")
    program = planned(captured(model, torch.rand(SIZES[1])), passes(ANY))
    for node in program.nodes:
        if node.name.startswith("delta_cache") and "narrow" in str(node.args[1]):
            node.kwargs = {**node.kwargs, "threshold": 0.1, "predict": 1.0, "test": "rms-relative"}
    layers = {i.call.name: i for i in lower(program).instructions}
    assert "blocks.0.depth.0" in layers
    assert all(i.kernel == "cpp" for i in layers.values())
    assert layers["blocks.0.narrow"].call.prediction is not None


def test_the_reference_keeps_everything() -> None:
    stream = videoeff.convert(net("inverted"), torch.rand(SIZES[1]), passes=passes(ANY), backend="reference")
    assert "blocks.0.widen.0" in {x.name for x in stream.report().layers}
