"""What has a native form, what has none and why, and where a value's elements are said to lie."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.support.op_cases import ALL, EVERY, NOT_NATIVE, build
from tests.support.streams import captured, planned, stream_of
from videoeff.ir import edit
from videoeff.kernels.backend import Accepted, Declined
from videoeff.kernels.call import RegionCall
from videoeff.kernels.cpp.abi import EpiOp, Kind, ReachKind
from videoeff.kernels.cpp.describe import Description, describe
from videoeff.kernels.cpp.registers import assign
from videoeff.kernels.region_spec.producers import Convolution, Input, Resampling, Window
from videoeff.kernels.region_spec.tables import picked
from videoeff.kernels.region_spec.values import Instruction, Unserved
from videoeff.ops import Case, Op
from videoeff.ops.axis_tables import Axis, Table, table
from videoeff.ops.base import Lambda
from videoeff.runtime.engine import Engine


def calls_of(module: nn.Module, *example: Tensor, **options: Any) -> list[RegionCall]:
    """The calls of a module's plan, in order."""
    stream = stream_of(module, *example, backend="reference", **options)
    return [i.call for e in stream.engines.values() for i in e.plan.instructions]


def described(module: nn.Module, *example: Tensor, **options: Any) -> list[Description]:
    """The descriptions of all regions behind the inputs, each of which must have one."""
    found = [accepted(c) for c in calls_of(module, *example, **options)]
    return [d for d in found if not isinstance(d.spec.producer, Input)]


def accepted(call: RegionCall) -> Description:
    """The description of a region, which it must have."""
    found = describe(call)
    assert isinstance(found, Accepted), found
    return found.description


def reason(call: RegionCall) -> str:
    """Why a region has no native form, which it must not have."""
    found = describe(call)
    assert isinstance(found, Declined)
    return found.reason


def maps(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 4, 11, 13, dtype=dtype)


# ---------------------------------------------------------------- what is served


@pytest.mark.parametrize(("op", "case"), ALL)
def test_served_or_declined_as_listed(op: Op, case: Case) -> None:
    """A form that is lost makes everything slow and nothing wrong, so it is noticed here."""
    module, example = build(case)
    found = [describe(c) for c in calls_of(module, *example)]
    reasons = [r.reason for r in found if isinstance(r, Declined)]
    expected = NOT_NATIVE.get(f"{op.name}-{case.name}", set())
    assert bool(reasons) == bool(expected), reasons
    for text in reasons:
        assert any(word in text for word in expected), text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_that_are_served(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).to(dtype)
    assert [d.spec.kind for d in described(module, maps(dtype))] == [Kind.CONV]


def test_dtypes_that_are_not() -> None:
    half = calls_of(nn.Conv2d(4, 6, 3).half(), maps(torch.float16))
    assert "float16" in reason(half[0])
    assert "float16" in reason(half[1])
    mixed = calls_of(Lambda(lambda x: x.double() * 2), maps())
    assert "reads float32 and gives float64" in reason(mixed[-1])
    camera = calls_of(Lambda(lambda x: x.float() / 255), torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert "uint8" in reason(camera[0])
    assert "uint8" in reason(camera[-1])


@pytest.mark.parametrize(
    ("before", "after"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)]
)
def test_casts_alone_are_served(before: torch.dtype, after: torch.dtype) -> None:
    (cast,) = described(Lambda(lambda x: x.permute(0, 2, 3, 1).to(after)), maps(before))
    assert (cast.spec.kind, cast.spec.dtype) == (Kind.POINTWISE, after)
    crop = calls_of(Lambda(lambda x: x[:, :, 1:-1, 2:].to(after)), maps(before), passes="insert-delta-caches")
    assert "and does more" in reason(crop[-1])


def test_a_cast_fused_with_another_step_declines() -> None:
    """No pass makes such a region; one that did would not be computed in the wrong precision."""
    module = Lambda(lambda x: torch.relu(x.bfloat16()))
    program = planned(captured(module, maps()), "insert-delta-caches")
    program = edit.drop_caches(program, {n for n in edit.cache_by_name(program) if "to" in n})
    engine = Engine(program, "reference")
    assert "reads float32, gives bfloat16, and does more" in reason(engine.plan.instructions[-1].call)


def test_other_devices_and_sizes_decline() -> None:
    _, call = calls_of(nn.Conv2d(4, 6, 3), maps())
    assert "cuda" in reason(dataclasses.replace(call, device="cuda"))
    shape = (1, 2**16, 2**8, 2**8)
    huge = {name: torch.empty(shape, device="meta") for name in call.buffers}
    assert "2^31" in reason(dataclasses.replace(call, buffers=huge))


def test_a_block_test_is_for_inputs() -> None:
    _, call = calls_of(nn.Conv2d(4, 6, 3), maps())
    test = dataclasses.replace(call.test, block=4, threshold=0.1)
    assert "blocks" in reason(dataclasses.replace(call, test=test))


def test_limits_decline() -> None:
    many = Lambda(lambda *x: sum(x[1:], x[0] * x[1]))
    assert "arguments" in reason(calls_of(many, *(maps() for _ in range(7)))[-1])

    def long(x: Tensor) -> Tensor:
        for i in range(26):
            x = torch.tanh(x * (1 + i))
        return x

    assert "instructions" in reason(
        calls_of(Lambda(long), maps(), passes="insert-delta-caches,fuse-pointwise")[-1]
    )


def test_more_values_at_once_than_registers_decline() -> None:
    def epilogue(values: int) -> list[Instruction | None]:
        code: list[Instruction | None] = [Instruction(EpiOp.AFFINE, -1, 0, 1.0, i, 8) for i in range(values)]
        code += [Instruction(EpiOp.ADD, 0, 1, 0.0, 0.0, 8)]
        code += [Instruction(EpiOp.ADD, values + i, 2 + i, 0.0, 0.0, 8) for i in range(values - 2)]
        return code

    assert assign(epilogue(4), 0, 8, exact=False).widths == (8, 8, 8, 8)
    with pytest.raises(Unserved, match="at once"):
        assign(epilogue(5), 0, 8, exact=False)


# ---------------------------------------------------------------- forms


def test_a_convolution_with_everything_behind_it_is_one_op() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, 1, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return F.hardswish(self.norm(self.conv(x)) + x)

    (found,) = described(Block(), maps())
    convolution = found.spec.producer
    assert isinstance(convolution, Convolution)
    assert convolution.window == Window(kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1))
    assert (convolution.groups, convolution.gate) == (1, None)
    assert [(i[0], i[1]) for i in found.epilogue.code] == [(EpiOp.ADD, 0), (EpiOp.HARDSWISH, 0)]
    assert sorted(found.spec.reach) == [("x", ReachKind.SAME), ("x", ReachKind.WINDOW)]
    assert convolution.bias is not None
    assert found.epilogue.widths == (4, 0, 0, 0)


def test_a_gate_is_a_mean_and_two_linear_layers() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))

    gate, product = described(Gate(), maps())
    assert gate.spec.kind == Kind.MEAN
    assert [i[0] for i in gate.epilogue.code] == [EpiOp.LINEAR, EpiOp.LEAKY, EpiOp.LINEAR, EpiOp.SIGMOID]
    assert [a.extent for a in gate.spec.arguments] == [(1, 1, 2, 4), (1, 1, 1, 2), (1, 1, 4, 2)]
    assert [i[5] for i in gate.epilogue.code if i[0] == EpiOp.LINEAR] == [1.0, 0.0]  # with and without bias
    assert gate.epilogue.code[-1][1] == 0
    assert [k for _, k in gate.spec.reach] == [ReachKind.WHOLE]
    assert product.spec.kind == Kind.POINTWISE
    assert dict(product.spec.reach).keys() == {"x", gate.spec.out.source.removesuffix(".value")}  # type: ignore[union-attr]
    assert sorted(k for _, k in product.spec.reach) == [ReachKind.SAME, ReachKind.WHOLE]


def test_a_classifier_over_a_flattened_map_is_a_convolution() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d((3, 2))
            self.one, self.two = nn.Linear(24, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.two(F.relu(self.one(self.pool(x).flatten(1))))
            return result

    pool, head = described(Head(), maps())
    assert isinstance(pool.spec.producer, Resampling)
    convolution = head.spec.producer
    assert isinstance(convolution, Convolution)
    assert convolution.weight.shape == (8, 4, 3, 2)
    assert convolution.window == Window(kernel=(3, 2))
    assert [i[0] for i in head.epilogue.code] == [EpiOp.LEAKY, EpiOp.LINEAR, EpiOp.COPY]
    assert head.epilogue.widths == (8, 5, 0, 0)  # a convolution's register is as wide as its channels


def test_linear_over_channels_last_is_a_convolution_that_reads_in_place() -> None:
    linear = nn.Linear(4, 6)
    module = Lambda(lambda x: linear(x.permute(0, 2, 3, 1)))
    module.linear = linear  # so that its weights are captured
    (found,) = described(module, maps())
    convolution = found.spec.producer
    assert isinstance(convolution, Convolution)
    assert convolution.input.extent == (2, 11, 13, 4)
    assert convolution.input.strides == (11 * 13 * 4, 13 * 4, 4, 1)
    assert found.spec.out.extent == (2, 11, 13, 6)


def test_interleaved_channels_are_written_and_read_with_steps() -> None:
    """A channel shuffle behind a concatenation, as ShuffleNet has it."""

    class Unit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(4, 4, 1) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.cat([self.a(x), self.b(x)], 1)
            n, c, h, w = y.shape
            y = y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
            result: Tensor = self.c(y[:, :4]) + self.c(y[:, 4:])
            return result

    a, b, *rest = (d.spec for d in described(Unit(), maps()))
    assert a.out.strides == b.out.strides == (11 * 13 * 8, 13 * 8, 8, 2)
    assert (a.out.offset, b.out.offset) == (0, 1)
    assert a.out.extent == (2, 11, 13, 4)
    inputs = [d.input for d in rest if d.input is not None]
    assert {i.offset for i in inputs} == {0, 4}
    assert {i.strides[3] for i in inputs} == {1}


def test_constants_broadcast_over_channels_columns_and_everything() -> None:
    module = Lambda(
        lambda x: x * torch.linspace(0, 1, 4).view(4, 1, 1) + torch.linspace(0, 1, 13) - torch.tensor(2.0)
    )
    calls = calls_of(module, maps(), passes="insert-delta-caches,fuse-pointwise")
    arguments = accepted(calls[-1]).spec.arguments
    strides = [a.strides for a in arguments if not isinstance(a.source, str)]
    assert (0, 0, 0, 1) in strides
    assert (0, 0, 1, 0) in strides


def test_a_cut_out_is_picked_by_tables() -> None:
    (found,) = described(Lambda(lambda x: x[:, :, 2:-3, 1::2].relu()), maps())
    resampling = found.spec.producer
    assert isinstance(resampling, Resampling)
    rows, columns = resampling.rows, resampling.columns
    assert rows.index.flatten().tolist() == [2, 3, 4, 5, 6, 7]
    assert columns.index.flatten().tolist() == [1, 3, 5, 7, 9, 11]
    assert resampling.input.extent == (2, 11, 13, 4)
    assert resampling.input.offset == 0
    assert [k for _, k in found.spec.reach] == [ReachKind.TABLE]


# ---------------------------------------------------------------- tables


def applied(rows: Table, columns: Table, x: Tensor) -> Tensor:
    """A map resampled by tables, in the plainest way."""
    picked_rows = (x[:, :, rows.index.long()] * rows.weight[:, :, None]).sum(3)
    return (picked_rows[:, :, :, columns.index.long()] * columns.weight).sum(4)


#: (case, function, rule, options of the rows, options of the columns)
RESAMPLED: list[tuple[str, Any, str, tuple[Any, ...], tuple[Any, ...]]] = [
    ("nearest", lambda x: F.interpolate(x, (23, 17)), "nearest", (None,), (None,)),
    ("nearest-scale", lambda x: F.interpolate(x, scale_factor=(1.7, 2.3)), "nearest", (1.7,), (2.3,)),
    ("exact", lambda x: F.interpolate(x, (5, 17), mode="nearest-exact"), "nearest-exact", (None,), (None,)),
    ("bilinear", lambda x: F.interpolate(x, (23, 6), mode="bilinear"), "bilinear",
     (False, None), (False, None)),
    (
        "corners",
        lambda x: F.interpolate(x, (33, 7), mode="bilinear", align_corners=True),
        "bilinear",
        (True, None),
        (True, None),
    ),
    ("average", lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1), "average",
     (3, 2, 1, False, True, None), (2, 1, 1, False, True, None)),
    ("average-ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), "average",
     (3, 2, 1, True, False, None), (3, 2, 1, True, False, None)),
    ("average-ceil-padded", lambda x: F.avg_pool2d(x, 4, 3, 2, True, True), "average",
     (4, 3, 2, True, True, None), (4, 3, 2, True, True, None)),
    ("average-divisor", lambda x: F.avg_pool2d(x, (3, 2), 1, divisor_override=5), "average",
     (3, 1, 0, False, True, 5), (2, 1, 0, False, True, 1)),
    ("adaptive", lambda x: F.adaptive_avg_pool2d(x, (5, 20)), "adaptive", (), ()),
    ("zeros", lambda x: F.pad(x, (1, 2, 3, 0)), "pad", (3, 0, "constant"), (1, 2, "constant")),
    ("crop", lambda x: F.pad(x, (-1, 2, 0, -3)), "pad", (0, -3, "constant"), (-1, 2, "constant")),
    ("reflect", lambda x: F.pad(x, (3, 1, 2, 2), mode="reflect"), "pad", (2, 2, "reflect"),
     (3, 1, "reflect")),
    ("circular", lambda x: F.pad(x, (3, 1, 2, 0), mode="circular"), "pad", (2, 0, "circular"),
     (3, 1, "circular")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "what", "rows", "columns"), [c[1:] for c in RESAMPLED], ids=[c[0] for c in RESAMPLED]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tables_resample_as_the_operator_does(
    function: Any, what: str, rows: tuple[Any, ...], columns: tuple[Any, ...], dtype: torch.dtype
) -> None:
    """Which also shows that rows and columns may be treated one after the other."""
    x = torch.randn(1, 2, 11, 13, dtype=dtype)
    expected = function(x)
    height, width = expected.shape[2:]
    found = applied(
        table(Axis(what, 11, height, rows, dtype)), table(Axis(what, 13, width, columns, dtype)), x.double()
    )
    assert found.shape == expected.shape
    torch.testing.assert_close(
        found, expected.double(), rtol=0, atol=1e-12 if dtype == torch.float64 else 2e-6
    )


def test_padding_reads_its_neighbour_with_weight_zero() -> None:
    """So that a change far away does not reach it."""
    found = table(Axis("pad", 5, 9, (2, 2, "constant"), torch.float32))
    assert found.index.flatten().tolist() == [0, 0, 0, 1, 2, 3, 4, 4, 4]
    assert found.weight.flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]


def test_tables_are_made_once() -> None:
    one = Axis("adaptive", 640, 7, (), torch.float32)
    assert table(one) is table(dataclasses.replace(one))
    assert picked(range(1, 7, 2)).index.flatten().tolist() == [1, 3, 5]


def test_every_description_fits_the_state() -> None:
    """No view leaves its buffer."""
    views = 0
    for _, case in EVERY:
        module, example = build(case)
        for engine in stream_of(module, *example, backend="reference").engines.values():
            views += check_views(engine)
    assert views > len(EVERY)


def check_views(engine: Engine) -> int:
    """Checks those of all regions that have a description; how many there were."""
    views = 0
    for call in (i.call for i in engine.plan.instructions):
        found = describe(call)
        if isinstance(found, Declined):
            continue
        spec = found.description.spec
        for view in (spec.out, *((spec.input,) if spec.input else ()), *spec.arguments):
            if isinstance(view.source, str):
                tensor, planned = engine._state[view.source], call.buffers[view.source]
                whole = planned.untyped_storage().nbytes() // planned.element_size()
                begin = tensor.storage_offset() - planned.storage_offset()  # buffers may share memory
                assert (begin + whole) * tensor.element_size() <= tensor.untyped_storage().nbytes()
                last = sum((n - 1) * s for n, s in zip(view.extent, view.strides, strict=True))
                assert 0 <= view.offset <= view.offset + last < whole
                assert view.offset + view.size == whole
                views += 1
    return views
