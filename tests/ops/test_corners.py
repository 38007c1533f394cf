"""Calls whose rule must give up or widen: what else they read, and which streams they mix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

from tests.support.streams import BACKENDS, captured, stream_of
from videoeff.ir.layout import info
from videoeff.ops.base import Lambda
from videoeff.testing import TOLERANCES, changing_frames, poison, relative_error

SHAPE = (2, 4, 9, 8)


class Dynamic(nn.Module):
    """Weights of every kind that a frame computes."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.fc = kind, nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.mean, self.var = nn.Buffer(torch.rand(4)), nn.Buffer(torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        code = x.mean((0, 2, 3))
        if self.kind == "bias":
            return F.relu(F.conv2d(x, self.conv.weight, code, padding=1))
        if self.kind == "transposed-bias":
            return F.relu(F.conv_transpose2d(x, self.conv.weight, code, padding=1))
        if self.kind == "linear-bias":
            return F.linear(x.permute(0, 2, 3, 1), self.fc.weight, code).relu()
        if self.kind == "layer-norm":
            return F.layer_norm(x.permute(0, 2, 3, 1), (4,), code, None).relu()
        if self.kind == "batch-norm":
            return F.batch_norm(x, self.mean, self.var, code, None).relu()
        if self.kind == "prelu":
            return F.prelu(x, code)
        if self.kind == "weight":
            return F.conv2d(x, self.conv.weight * code.view(4, 1, 1, 1), None, padding=1).relu()
        raise AssertionError(self.kind)


def check(module: nn.Module, shapes: tuple[tuple[int, ...], ...], backend: str) -> None:
    module = module.double().eval()
    stream = stream_of(module, *next(changing_frames(shapes, 1)), backend=backend)
    poison(stream)
    for number, frame in enumerate(changing_frames(shapes, 8, seed=2)):
        if number == 5:
            stream.reset(stream=1)
        with torch.no_grad():
            expected = module(*frame)
        assert relative_error(stream(*frame), expected) <= 1e-9, f"frame {number}"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "kind", ["bias", "transposed-bias", "linear-bias", "layer-norm", "batch-norm", "prelu", "weight"]
)
def test_parameters_computed_from_the_frame(kind: str, backend: str) -> None:
    """A change anywhere reaches every pixel through such a parameter."""
    check(Dynamic(kind), (SHAPE,), backend)


MIXERS: dict[str, Callable[[Tensor], Any]] = {
    "roll-flat": lambda x: x.roll(3).relu(),
    "roll-streams": lambda x: x.roll(1, 0).relu(),
    "flip-streams": lambda x: x.flip(0).relu(),
    "minus-first": lambda x: (x - x[0:1]).relu(),
    "minus-first-vector": lambda x: x.mean((2, 3)) - x.mean((2, 3))[0:1],
    "minus-selected": lambda x: (x - x[0]).relu() * 2,
    "minus-selected-vector": lambda x: x.amax((2, 3)) * x.amax((2, 3))[1],
    "batch-mean": lambda x: (x - x.mean(0, keepdim=True)).relu(),
    "batch-attention": lambda x: x.flatten(1) @ x.flatten(1).t(),
    "mixed-ranks": lambda x: x.mean(1) @ torch.stack([x.mean(1).mT, x.amax(1).mT], 1),
    "into-channels": lambda x: x.reshape(1, 8, 9, 8).relu(),
    "across": lambda x: x.transpose(0, 1).softmax(1).relu(),
    "first-only": lambda x: x[0].relu(),
    "last-only": lambda x: F.max_pool2d(x[1:], 3),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MIXERS)
def test_models_that_mix_streams_stay_exact(name: str, backend: str) -> None:
    """Such a model breaks law 5 by itself; the stream still has to be the model, also after one reset."""
    check(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Lambda(MIXERS[name])), (SHAPE,), backend)


def test_channel_shuffle_on_a_permuted_map() -> None:
    module = Lambda(lambda x: torch.channel_shuffle(x.permute(0, 2, 3, 1), 3).relu())
    check(module, ((2, 4, 9, 8),), "reference")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
def test_frames_of_whole_numbers(dtype: torch.dtype) -> None:
    """Camera frames of bytes, converted inside the model: differences must not wrap around."""
    module = nn.Sequential(Lambda(lambda x: x.to(torch.float64) / 255), nn.Conv2d(3, 4, 3).double()).eval()
    frame = torch.zeros(1, 3, 12, 12, dtype=dtype)
    stream = stream_of(module, frame)
    stream(frame)
    for value in (1, 0, 255):
        frame = frame.clone()
        frame[:, :, 4:7, 4:7] = value if dtype != torch.bool else bool(value)
        with torch.no_grad():
            assert relative_error(stream(frame), module(frame)) <= 1e-9


def test_threshold_on_bytes_counts_real_differences() -> None:
    module = nn.Sequential(Lambda(lambda x: x.to(torch.float64)), nn.Conv2d(1, 2, 1).double()).eval()
    first = torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    stream = stream_of(
        module, first, passes="insert-delta-caches,insert-thresholds{input_threshold=20.0, input_test=max}"
    )
    stream(first)
    frame = first.clone()
    frame[..., 0, 0] = 0  # differs by 255, which wraps to 1
    frame[..., 1, 1] = 254  # differs by 1, which wraps to 255 the other way round
    frame[..., 2, 2] = 230
    with stream.observe() as seen:
        stream(frame)
    changed = next(iter(seen.changed.values()))[0].nonzero().tolist()
    assert changed == [[0, 0], [2, 2]]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("mode", "size", "out"), [("nearest", 54, 171), ("nearest-exact", 112, 447)])
def test_nearest_in_float64_at_sizes_where_the_memory_format_matters(
    mode: str, size: int, out: int, backend: str
) -> None:
    """PyTorch picks other pixels there of a map that lies channels last, as buffers do."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Upsample((out, 6), mode=mode), nn.Conv2d(8, 4, 1))
    model = model.double().eval()
    clip = [torch.rand(1, 3, size, 4, dtype=torch.float64) for _ in range(2)]
    stream = stream_of(model, clip[0], backend=backend)
    for frame in clip:
        assert relative_error(stream(frame), model(frame)) <= TOLERANCES[torch.float64].relative


def test_no_rule_means_whole_not_wrong() -> None:
    """An operator nobody declared runs on the full buffers."""
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), Lambda(lambda x: x.sort(-1)[0].relu()))
    program = captured(module.double(), torch.randn(SHAPE, dtype=torch.float64))
    assert any(
        "sort" in info(n).dense or "several" in info(n).dense
        for n in program.nodes
        if n.op == "call_function"
    )
    check(module, (SHAPE,), "reference")


def test_outputs_in_any_structure() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    both = Lambda(lambda x: {"a": [x.relu(), 3], "b": (x, None), "same": x})
    model = nn.Sequential(module, both).double().eval()
    frame = torch.randn(SHAPE, dtype=torch.float64)
    stream = stream_of(model, frame)
    with torch.no_grad():
        expected = model(frame)
    found = stream(frame)
    assert pytree.tree_structure(found) == pytree.tree_structure(expected)
    assert relative_error(found, expected) <= 1e-9
