from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.support.nets import ZOO, network
from tests.support.streams import captured, planned
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.hold_gates import HoldGates
from videoeff.passes.insert_thresholds import InsertThresholds
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import changing_frames

BEFORE = "fold-batchnorm,drop-noops,insert-delta-caches,fuse-pointwise,plan-layout"


def hold(model: nn.Module, *frames: Tensor) -> PassResult:
    return HoldGates().run(planned(captured(model, *frames), BEFORE))


def gates(result: PassResult) -> list[str]:
    return [cache_name(n) for n in result.program.nodes if is_cache(n) and cache_option(n, "kind") == "gate"]


FRAME = torch.rand(1, 4, 9, 11)


def test_squeeze_excite_is_recognised() -> None:
    spec = ZOO["gates"]
    result = hold(network(spec), *next(changing_frames(spec.shapes, 1)))
    assert len(gates(result)) == 2
    assert result.changed


def test_a_gate_behind_a_view() -> None:
    """Old squeeze-excites work on (B, C) and view the result as (B, C, 1, 1)."""

    class Old(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(4, 4, 3), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            result: Tensor = x * self.fc(x.mean((2, 3))).sigmoid().view(1, 4, 1, 1).expand_as(x)
            return result

    assert len(gates(hold(Old(), FRAME))) == 1


def test_a_head_is_no_gate() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    result = hold(model, FRAME)
    assert gates(result) == []
    assert not result.changed


def test_a_frame_s_own_vector_is_no_gate() -> None:
    """Conditioning given from outside is an input; its threshold is the input's business."""

    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor, code: Tensor) -> Tensor:
            result: Tensor = self.conv(x) * code[:, :, None, None]
            return result

    result = hold(Conditioned(), FRAME, torch.rand(1, 4))
    assert gates(result) == []


def test_a_map_of_one_channel_is_no_gate() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), Lambda(lambda x: x * x.mean(1, keepdim=True).sigmoid()))
    assert gates(hold(model, FRAME)) == []


def test_a_gate_is_held_until_it_moves_by_its_threshold() -> None:
    """A held gate leaves its map sparse; one that moves recomputes it whole."""

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() * x.relu().mean((2, 3), keepdim=True)

    frame = torch.rand(1, 2, 8, 8, dtype=torch.float64) + 1
    result = hold(Net(), frame)
    program = InsertThresholds(0.1, "max", input_threshold=0.0).run(result.program).program
    stream = StreamingModule(Engine(program))
    (gate,) = gates(result)
    stream(frame)
    small, large = frame.clone(), frame.clone()
    small[..., 0, 0] += 0.01
    large[..., :4, :4] *= 50
    with stream.observe() as seen:
        stream(small)
        assert not seen.changed[gate].any()
        stream(large)
        assert seen.changed[gate].all()
        last = list(seen.active)[-1]
        assert seen.active[last].all()
