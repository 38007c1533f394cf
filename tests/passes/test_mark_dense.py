from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support.streams import captured, planned, stream_of
from videoeff.errors import PassError
from videoeff.ir.markers import cache_name, cache_option, is_cache
from videoeff.passes.base import PassResult
from videoeff.passes.mark_dense import MarkDense
from videoeff.testing import changing_frames, poison, relative_error

BEFORE = "fold-batchnorm,drop-noops,insert-delta-caches,fuse-pointwise,plan-layout,hold-gates"
FRAME = torch.rand(1, 3, 16, 16)


def model() -> nn.Module:
    stages = [nn.Sequential(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1), nn.ReLU()) for i in range(4)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def mark(item: MarkDense) -> PassResult:
    return item.run(planned(captured(model(), FRAME), BEFORE))


def reasons(result: PassResult) -> dict[str, str]:
    return {
        cache_name(n): cache_option(n, "dense")
        for n in result.program.nodes
        if is_cache(n) and cache_option(n, "dense")
    }


def test_small_maps_and_vectors() -> None:
    assert reasons(mark(MarkDense())) == {"2.0": "only 2x2 pixels", "6": "its result has no pixels"}


def test_the_smallest_is_an_option() -> None:
    assert "2.0" not in reasons(mark(MarkDense(smallest=3)))
    assert reasons(mark(MarkDense(smallest=16)))["1.0"] == "only 4x4 pixels"


def test_patterns() -> None:
    result = mark(MarkDense(("0.*", "1.0")))
    assert reasons(result)["0.0"] == "asked for by '0.*'"
    assert reasons(result)["1.0"] == "asked for by '1.0'"
    assert "0.0: computed densely: asked for by '0.*'" in result.notes


def test_a_pattern_without_a_layer_is_an_error() -> None:
    with pytest.raises(PassError, match=r"no layer matches 'layer9\.\*'; see videoeff inspect"):
        mark(MarkDense(("layer9.*",)))


def test_the_frame_itself_cannot_be_dense() -> None:
    with pytest.raises(PassError, match="no layer matches 'input_1'"):
        mark(MarkDense(("input_1",)))


def test_a_second_time_with_the_same_pattern() -> None:
    once = mark(MarkDense(("0.*",)))
    twice = MarkDense(("0.*",)).run(once.program)
    assert not twice.changed


def test_a_dense_layer_computes_all_or_nothing() -> None:
    net = model().double()
    shapes = ((2, 3, 16, 16),)
    frames = list(changing_frames(shapes, 5, seed=6))
    stream = stream_of(net, *frames[0], passes=f"{BEFORE},mark-dense{{layers=0.*+1.*}}")
    poison(stream)
    stream(*frames[0])
    with torch.no_grad(), stream.observe() as seen:
        for frame in frames[1:]:
            assert relative_error(stream(*frame), net(*frame)) <= 1e-12
            for name in ("0.0", "1.0"):
                rows = seen.active[name].flatten(1)
                assert torch.equal(rows.any(1), rows.all(1))
