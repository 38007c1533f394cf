"""Quantised networks on the native kernels: against the reference, and against themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import videoeff
from tests.support.native_streams import ISAS, WAYS, plans_of
from tests.support.quantised import Chain, Conv, Net, Rounded, conv
from videoeff.ir.grids import Grid
from videoeff.kernels.computation import Computation
from videoeff.kernels.cpp import library
from videoeff.kernels.cpp.abi import Isa, Products
from videoeff.kernels.cpp.integers import as_integers, grid_table
from videoeff.kernels.cpp.plan import NativePlan
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import moving_clip

pytestmark = pytest.mark.skipif(bool(library.unavailable()), reason="needs the native library")

FRAME = (2, 3, 36, 44)


def make(model: nn.Module, frame: Tensor, isa: str = "", **options: Any) -> StreamingModule:
    stream = videoeff.convert(model.eval(), frame, **options)
    for plan in plans_of(stream):
        plan.isa = Isa[isa.upper()] if isa else -1
    return stream


def clip(shape: tuple[int, ...] = FRAME, count: int = 6) -> list[Tensor]:
    return list(moving_clip(count, shape, dtype=torch.float32))


def assert_within_a_step(stream: StreamingModule) -> None:
    """Each value, computed by the reference from the values it is computed from."""
    for engine in stream.engines.values():
        constants = dict(engine.network.named_buffers(remove_duplicate=False))
        for call in (i.call for i in engine.plan.instructions):
            if call.kind == "input":
                continue
            assert isinstance(call.source, Computation)
            new, kept = call.source.run(engine.state, constants), engine.state[call.value.name]
            if call.value.grid is not None:
                steps = (call.value.grid.encode(new).int() - kept.int()).abs()
                assert int(steps.max()) <= 1, call.name
                assert float((steps > 0).float().mean()) < 0.06, call.name  # means of numbers are halves
            else:
                torch.testing.assert_close(kept, new, rtol=1e-4, atol=1e-4 * float(new.abs().max()))


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
@pytest.mark.parametrize("channels", [8, 14, 20])
def test_a_network_within_a_step_of_the_reference(isa: str, channels: int, products: Products) -> None:
    torch.manual_seed(channels)
    frames = clip()
    stream = make(Net(channels), frames[0], isa)
    assert {i.kernel for e in stream.engines.values() for i in e.plan.instructions} == {"cpp"}
    for frame in frames[:3]:
        stream(frame)
        assert_within_a_step(stream)


@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
@pytest.mark.parametrize("reach", [None, 2.0])
def test_threshold_0_is_bit_for_bit_the_dense_network(
    isa: str, reach: float | None, products: Products
) -> None:
    torch.manual_seed(0)
    frames = clip()
    model, bound = Net(12), {} if reach is None else {"reach": reach, "refresh": 1}
    stream, dense = make(model, frames[0], isa, **bound), make(model, frames[0], isa)
    for frame in frames:
        dense.reset()
        for ours, expected in zip(stream(frame), dense(frame), strict=True):
            assert torch.equal(ours, expected)
    assert 0 < max(x.active_share or 0 for x in stream.report().layers) <= 1


def test_every_instruction_set_gives_the_same_numbers_but_for_a_step(products: Products) -> None:
    torch.manual_seed(1)
    frame = clip()[0]
    model, found = Net(12), []
    for isa in ISAS:
        stream = make(model, frame, isa)
        stream(frame)
        found.append(dict(stream.engines[""].state))
    for other in found[1:]:
        for name in ("stem.value", "deep.value", "narrow.value"):
            steps = (other[name].int() - found[0][name].int()).abs()
            assert int(steps.max()) <= 2, name  # what they are computed from may be a step apart


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "options"),
    [
        (3, 16, 3, {"stride": 2, "padding": 1}),
        (3, 20, 7, {"stride": 2, "padding": 3}),
        (5, 33, 3, {"padding": 1}),
        (64, 64, 1, {}),
        (16, 24, 5, {"padding": 4, "dilation": 2}),
        (24, 24, 3, {"padding": 1, "groups": 24}),
        (24, 24, 3, {"padding": 1, "groups": 24, "stride": 2}),
        (24, 24, 7, {"padding": 3, "groups": 24}),
        (24, 24, 3, {"padding": 2, "groups": 24, "dilation": 2}),
        (24, 36, 3, {"padding": 1, "groups": 4}),
        (9, 6, 3, {"padding": 1, "groups": 3}),
        (260, 8, 1, {}),
        (12, 70, (1, 3), {"padding": (0, 1)}),
    ],
)
@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_each_kind_of_convolution(
    isa: str,
    inputs: int,
    outputs: int,
    kernel: Any,
    options: dict[str, Any],
    dtype: torch.dtype,
    products: Products,
) -> None:
    torch.manual_seed(2)
    zero = 17 if dtype == torch.uint8 else -9
    model = Chain(
        [conv(inputs, outputs, kernel, **options), nn.Identity()],
        Rounded(0.02, zero, dtype),
        [Rounded(0.03, zero, dtype), nn.Identity()],
    )
    frames = [2 * f - 0.5 for f in clip((2, inputs, 19, 23), 3)]
    stream = make(model, frames[0], isa)
    assert all(op.integer or op.factors for plan in plans_of(stream) for op in _convolutions(plan, stream))
    for frame in frames:
        stream(frame)
        assert_within_a_step(stream)


def _convolutions(plan: NativePlan, stream: StreamingModule) -> list[Any]:
    engine = stream.engines[""]
    constants = dict(engine.network.named_buffers(remove_duplicate=False))
    ops, _, _ = plan.descriptors(engine.state, constants)
    found = [op for op in ops if op.weight]
    assert found
    return found


def test_large_sums_do_not_saturate(products: Products) -> None:
    """The largest numbers times the largest weights, all of one sign: 16 bits would not hold two of them."""
    layer = nn.Conv2d(64, 16, 3, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    model = Chain([Conv(layer)], Rounded(1.0, 0, torch.uint8), [Rounded(1000.0, 0, torch.uint8)])
    frame = torch.full((1, 64, 8, 8), 255.0)
    for isa in ISAS:
        (found,) = (make(model, frame, isa)(frame),)
        expected = model(frame)
        assert torch.equal(found, expected), isa


def test_thresholds_drop_small_changes_and_lose_none() -> None:
    torch.manual_seed(3)
    frames = clip()
    stream = make(Net(12), frames[0], threshold=0.2)
    exact = make(Net(12), frames[0])
    for frame in frames:
        stream(frame), exact(frame)
    ours, all_of_it = (sum(x.macs_needed for x in s.report().layers) for s in (stream, exact))
    assert ours < all_of_it
    still = [o.clone() for o in stream(frames[-1])]
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(stream(frames[-1]), still, strict=True))


@pytest.mark.parametrize("test", ["rms-relative", "max", "l2"])
@pytest.mark.parametrize(("isa", "products"), WAYS, indirect=["products"])
def test_the_reference_finds_the_same_changes(isa: str, test: str, products: Products) -> None:
    """Of layers whose inputs are the same on both: hardly a pixel is on the edge of its threshold."""
    torch.manual_seed(7)
    frames = [f + 0.004 * torch.randn_like(f) for f in clip()]
    passes = "drop-noops,trace-channels,insert-delta-caches,fuse-quantized,fuse-pointwise,plan-layout"
    threshold = 0.05 if test == "rms-relative" else 0.03
    passes += f",insert-thresholds{{threshold={threshold}, test={test}, input_threshold=0.02}}"
    ours = make(Net(12), frames[0], isa, passes=passes)
    theirs = videoeff.convert(Net(12).eval(), frames[0], backend="reference", passes=passes)
    theirs.engines[""].network.load_state_dict(ours.engines[""].network.state_dict())
    theirs.reset()
    for frame in frames:
        with ours.observe() as seen, theirs.observe() as expected:
            ours(frame), theirs(frame)
    names = [n for n in ("frame_2", "stem", "deep", "narrow") if n in seen.changed]
    assert "stem" in names
    for name in names:
        apart = (seen.changed[name] != expected.changed[name]).float().mean()
        assert float(apart) < 0.02, name
        assert 0 < float(seen.changed[name].float().mean()) < 1, name


def test_rounding_alone_is_no_change() -> None:
    """With a threshold a value is compared with the number it has, less half a step."""
    model = Chain([nn.Identity()], Rounded(1.0, -100), [nn.Conv2d(3, 2, 1)]).eval()
    frame = torch.arange(192.0).view(1, 3, 8, 8) + 0.45  # a deviation of 55: a threshold of 0.55
    for backend in ("cpp", "reference"):
        stream = videoeff.convert(model, frame, input_threshold=0.01, backend=backend)
        before = stream(frame).clone()
        assert torch.equal(stream(frame + 0.1), before), backend  # the next number is the nearer one
        assert torch.equal(stream(frame - 0.9), before), backend
        assert torch.equal(stream(frame + 0.5), before), backend  # 0.95 - 0.5
        assert not torch.equal(stream(frame + 0.7), before), backend


INPUT_TESTS: dict[str, dict[str, Any]] = {
    "exact": {},
    "pixels": {"threshold": 0.05, "input_threshold": 0.05},
    "blocks": {"threshold": 0.05, "input_threshold": 0.05, "block": 4, "dilation": 1},
    "grow": {"threshold": 0.05, "input_threshold": 0.1, "block": 4, "grow": 1, "weak": 0.4},
    "noise": {"threshold": 0.05, "noise": ((0.001, 1e-4, 0.0),) * 3, "block": 4},
}


@pytest.mark.parametrize("last", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("how", sorted(INPUT_TESTS))
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [3, 4])
def test_a_frame_is_kept_as_numbers(isa: str, how: str, channels: int, last: torch.memory_format) -> None:
    """Its test finds what the reference's finds."""
    torch.manual_seed(8)
    options = dict(INPUT_TESTS[how])
    if "noise" in options and channels == 4:
        options["noise"] = ((0.001, 1e-4, 0.0),) * 4
    model = Chain([conv(channels, 8, 3, padding=1)], Rounded(0.01, -20), [Rounded(0.05)])
    frames = [f + 0.01 * torch.randn_like(f) for f in clip((2, channels, 33, 41))]
    ours = make(model, frames[0], isa, **options)
    theirs = videoeff.convert(model.eval(), frames[0], backend="reference", **options)
    for frame in frames:
        frame = frame.to(memory_format=last)
        with ours.observe() as seen, theirs.observe() as expected:
            ours(frame), theirs(frame)
        (name,) = (i.call.name for i in ours.engines[""].plan.instructions if i.call.kind == "input")
        apart = (seen.changed[name] != expected.changed[name]).float().mean()
        assert float(apart) < (0.002 if how in ("exact", "pixels") else 0.05)
        key = f"{name}.value"
        kept, reference = ours.engines[""].state[key], theirs.engines[""].state[key]
        assert kept.dtype == torch.uint8
        assert float((kept != reference).float().mean()) < 0.05
    assert 0 < float(seen.changed[name].float().mean()) < 1
    for stream in (ours, theirs):
        stream(frame)
        stream.clear_report()
        stream(frame)
        assert sum(x.macs_needed for x in stream.report().layers) == 0, "a still picture"


def test_the_state_is_a_quarter() -> None:
    frames = clip((1, 3, 64, 96))
    stream = make(Net(16), frames[0])
    specs = stream.engines[""].plan.state
    numbers = sum(s.nbytes for s in specs if s.grid is not None and s.parent is None)
    values = sum(s.nbytes for s in specs if s.grid is None and s.parent is None)
    assert all(s.dtype == torch.uint8 for s in specs if s.grid is not None)
    assert numbers > 3 * values


def test_weights_that_are_multiples_of_a_step_are_found() -> None:
    torch.manual_seed(4)
    codes = torch.randint(-127, 128, (6, 5, 3, 3), dtype=torch.int8)
    codes[2] = 0
    codes[3] = 50 * codes[3].sign()
    steps = torch.rand(6) + 0.01
    found = as_integers(codes.float() * steps.view(-1, 1, 1, 1))
    assert found is not None
    again = found[0].float() * found[1].view(-1, 1, 1, 1)
    torch.testing.assert_close(again, codes.float() * steps.view(-1, 1, 1, 1), rtol=1e-5, atol=1e-7)
    assert as_integers(torch.randn(6, 5, 3, 3)) is None
    assert as_integers(torch.full((2, 3), float("nan"))) is None


def test_a_grid_as_a_table_says_what_the_grid_says() -> None:
    grid = Grid((0.5, 0.25, 2.0), (3, 128, 200), 0, 255, 1)
    table = grid_table(grid, 3)
    x = torch.randn(1, 3, 4, 4) * 40
    low, high = table[3, :3].view(1, 3, 1, 1), table[4, :3].view(1, 3, 1, 1)
    codes = (x * table[2, :3].view(1, 3, 1, 1)).clamp(low, high).round() + table[1, :3].view(1, 3, 1, 1)
    assert torch.equal(codes.to(torch.uint8), grid.encode(x))


def test_what_is_not_finite_becomes_a_number_on_every_backend() -> None:
    grid = Grid((0.5,), (7,))
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    assert grid.encode(x).tolist() == [0, 255, 0, 9]
    torch.manual_seed(0)
    frame = torch.rand(1, 3, 12, 12)
    model = Chain([nn.Identity()], Rounded(0.5, 7, torch.uint8), [nn.Conv2d(3, 4, 1)])
    stream = videoeff.convert(model.eval(), frame, nan_policy="recompute")
    stream(frame)
    bad = frame.clone()
    bad[0, 0, 3, 3], bad[0, 1, 3, 3] = float("nan"), float("inf")
    stream(bad)
    kept = next(v for k, v in stream.engines[""].state.items() if v.dtype == torch.uint8)
    assert kept[0, :, 3, 3].tolist()[:2] == [0, 255]


def test_a_transposed_convolution_is_declined_and_right() -> None:
    torch.manual_seed(5)
    frames = clip((1, 3, 12, 14))
    model = Chain(
        [nn.ConvTranspose2d(3, 5, 2, 2)], Rounded(0.02), [nn.Identity()],
    ).eval()  # fmt: skip
    stream = videoeff.convert(model, frames[0])
    reasons = [i.reason for i in stream.engines[""].plan.instructions if i.kernel != "cpp"]
    assert any("transposed convolution of 8-bit numbers" in r for r in reasons)
    for frame in frames:
        torch.testing.assert_close(stream(frame), model(frame), rtol=1e-4, atol=1e-4)


def test_frames_that_are_pictures_of_one_pixel_row() -> None:
    torch.manual_seed(6)
    frame = torch.rand(1, 3, 1, 9)
    model = Chain([conv(3, 8, (1, 3), padding=(0, 1))], Rounded(0.01), [Rounded(0.02)])  # type: ignore[arg-type]
    stream = make(model, frame)
    stream(frame)
    assert_within_a_step(stream)
    assert F.relu(stream(frame)).shape == (1, 8, 1, 9)
