"""A region is described once: what a description may depend on, and when a backend is asked again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.small_nets import Gated, InPlace, Plain, lively
from tests.support.streams import stream_of
from videoeff import kernels
from videoeff.ir.markers import cache_option, is_cache
from videoeff.kernels import Accepted, Backend, Declined
from videoeff.kernels.call import RegionCall
from videoeff.kernels.computation import Computation
from videoeff.kernels.region_spec.values import Constant
from videoeff.kernels.triton.describe import served_device
from videoeff.lowering import lower as lowering
from videoeff.passes import recipe
from videoeff.passes.recompute_expansions import RecomputeExpansions
from videoeff.runtime import engine as engine_module
from videoeff.runtime.streaming_module import StreamingModule

FRAME = torch.rand(1, 3, 24, 32)


class Expansion(nn.Module):
    """A wide map that a native kernel may compute anew instead of keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.widen = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 32, 1)
        self.filter, self.narrow = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.narrow(
            torch.relu(self.filter(torch.relu(self.widen(torch.relu(self.start(x))))))
        )
        return result


#: The usual passes, for maps of any size.
EAGER = tuple(
    RecomputeExpansions(least=0) if isinstance(p, RecomputeExpansions) else p for p in recipe("delta")
)


def calls(stream: StreamingModule) -> Iterator[RegionCall]:
    for engine in stream.engines.values():
        yield from (i.call for i in engine.plan.instructions)


def plain(value: Any) -> Any:
    """A description by its content: constants by name, tables as lists."""
    if isinstance(value, Constant):
        return value.names, value.shape
    if isinstance(value, Tensor):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return [plain(getattr(value, f.name)) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value


def answer(backend: Backend[Any], call: RegionCall) -> Any:
    match backend.accept(call):
        case Accepted(description=description):
            return plain(description)
        case Declined(reason=reason):
            return reason


@pytest.mark.parametrize("backend", kernels.BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("model", [Plain, Gated, InPlace, Expansion], ids=lambda m: m.__name__)
@pytest.mark.parametrize("predict", [0.0, 1.0])
def test_a_description_depends_on_the_structure_alone(
    backend: Backend[Any], model: type[nn.Module], predict: float
) -> None:
    stream = videoeff.convert(
        lively(model()).eval(), FRAME, threshold=0.1, predict=predict, block=4, backend="reference"
    )
    for call in calls(stream):
        here = dataclasses.replace(call, device=served_device() if backend.name == "triton" else "cpu")
        test = dataclasses.replace(
            here.test, threshold=0.7, kind="l2", block=2 * here.test.block if here.test.blocks else 1
        )
        prediction = here.prediction and dataclasses.replace(here.prediction, factor=3.0)
        other = dataclasses.replace(
            here, test=test, scale="", wants_magnitude=not here.wants_magnitude, prediction=prediction
        )
        assert other.structure == here.structure
        assert answer(backend, other) == answer(backend, here)


@pytest.fixture(name="asked")
def _asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that some backend is asked about, as often as it is."""
    layers: list[str] = []
    for kind in {type(b) for b in kernels.BACKENDS}:

        def accept(self: Any, call: RegionCall, original: Any = kind.accept) -> Any:
            layers.append(f"{self.name} {call.name}")
            return original(self, call)

        monkeypatch.setattr(kind, "accept", accept)
    return layers


@pytest.mark.parametrize("model", [Plain, Gated, InPlace, Expansion], ids=lambda m: m.__name__)
def test_each_region_is_described_once(model: type[nn.Module], asked: list[str]) -> None:
    videoeff.convert(lively(model()).eval(), FRAME, threshold=0.1)
    assert len(asked) == len(set(asked)) > 0


def test_other_thresholds_describe_nothing_anew(asked: list[str]) -> None:
    stream = videoeff.convert(lively(InPlace()).eval(), FRAME, threshold=0.1, block=4)
    stream(FRAME)
    asked.clear()
    stream.set_threshold(0.2)
    stream.set_threshold(0.3, next(iter(stream.thresholds())))
    assert asked == []
    assert {c.test.threshold for c in calls(stream)} >= {0.2, 0.3}


def test_what_changes_its_structure_is_asked_about(asked: list[str]) -> None:
    stream = stream_of(lively(Expansion()).eval(), FRAME, passes=EAGER)
    engine = stream.engines[""]
    assert any(is_cache(n) and cache_option(n, "recompute") for n in engine.program.nodes)
    stream(FRAME)
    asked.clear()
    stream.set_threshold(0.2, "widen")  # it is kept now
    layers = {a.partition(" ")[2] for a in asked}
    assert "start" not in layers
    if engine.plan.groups:  # a native kernel computed it anew before
        assert "widen" in layers
    asked.clear()
    stream.set_threshold(0.0, "widen")
    stream.set_threshold(0.4, "widen")
    assert asked == []  # both are known


def test_moving_or_casting_forgets_what_was_said(asked: list[str]) -> None:
    stream = videoeff.convert(lively(Plain()).eval(), FRAME)
    asked.clear()
    stream.double()
    assert asked
    assert {c.value.dtype for c in calls(stream)} == {torch.float64}


def test_a_device_is_known_when_lowering_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[str] = []
    original = lowering.lower

    def lower(program: Any, *rest: Any) -> Any:
        lowered.append(next(program.module.buffers()).device.type)
        return original(program, *rest)

    monkeypatch.setattr(engine_module, "lower", lower)
    model = lively(Plain()).eval()
    stream = videoeff.convert(model, FRAME, device="cpu")
    assert lowered == ["cpu"]
    assert torch.isfinite(torch.as_tensor(stream(FRAME))).all()


# ---------------------------------------------------------------- computations


def compiled(stream: StreamingModule) -> list[bool]:
    sources = [c.source for c in calls(stream)]
    return ["function" in s.__dict__ for s in sources if isinstance(s, Computation)]


def test_only_what_is_run_in_pytorch_is_compiled() -> None:
    model = lively(Plain()).eval()
    reference = videoeff.convert(model, FRAME, backend="reference", threshold=0.1)
    assert not any(compiled(reference))
    reference(FRAME)
    assert all(compiled(reference))
    reference.set_threshold(0.2)
    assert all(compiled(reference))  # the same functions
    stream = videoeff.convert(model, FRAME)
    stream(FRAME)
    served = [i.kernel != "reference" for i in stream.engines[""].plan.instructions[1:]]
    assert [not c for c in compiled(stream)] == served
