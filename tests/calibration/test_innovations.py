"""Thresholds layer by layer: the innovations add up to the error, and each layer takes what suits it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import videoeff
from tests.support.remembering import SHAPE, Net
from videoeff.calibration.frames import Frames
from videoeff.calibration.innovations import FACTORS, Measured, _AtBuffers, measure, why_not
from videoeff.calibration.metrics import RelativeError
from videoeff.calibration.settings import Settings, Units, apply
from videoeff.calibration.trials import Bench
from videoeff.testing import moving_clip

SIZE = (1, 3, 24, 32)


def linear() -> nn.Sequential:
    """Convolutions alone: what is lost in each adds up."""
    torch.manual_seed(1)
    return nn.Sequential(*[nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 6), (6, 4))]).eval()


def frames(count: int = 16) -> Sequence[Tensor]:
    return list(moving_clip(count, SIZE, noise=0.02))


def test_innovations_add_up_to_the_error() -> None:
    """In a linear network the sum of ⟨Jᵀv, e⟩ over the layers is ⟨v, error of the outputs⟩."""
    model = linear()
    stream = videoeff.convert(model, frames(1)[0], threshold=0.2, backend="reference")
    with torch.no_grad():
        for frame in frames():
            out = stream(frame)
        expected = out - model(frame)
    (engine,) = stream.engines.values()
    walk = _AtBuffers(engine)
    (found,) = walk.run(frame)
    torch.testing.assert_close(found.detach(), out)
    direction = torch.randn_like(out)
    gradients = torch.autograd.grad(found, list(walk.innovations.values()), direction)
    sums = [float((g * e.detach()).sum()) for g, e in zip(gradients, walk.innovations.values(), strict=True)]
    assert sum(sums) == pytest.approx(float((direction * expected).sum()), rel=1e-3)
    assert sum(abs(s) > 1e-6 for s in sums) == 3  # the frame and two layers; outputs are never held back


def bench(model: nn.Module) -> Bench:
    clip = frames()
    stream = videoeff.convert(model, clip[0], backend="reference")
    pictures = dict(enumerate(clip))
    found = Bench(stream, Frames(pictures, lambda f: ((f,), {}), ""), Units())
    found.metric = RelativeError()
    return found


def test_what_is_measured() -> None:
    """Higher thresholds pass on fewer pixels; every layer that is held back is measured, outputs are not."""
    found = measure(bench(linear()), Settings(threshold=0.1), [range(16)], {"1": 5.0, "2": 7.0})
    assert set(found.errors) == set(found.passed) == {"0", "1"}
    assert found.readers == {"0": 5.0, "1": 7.0}
    for shares in found.passed.values():
        assert list(shares) == sorted(shares, reverse=True)
        assert shares[0] > shares[-1]
    assert all(len(e) == len(FACTORS) for e in found.errors.values())
    assert all(e[-1] > e[0] for e in found.errors.values())


def test_the_stream_is_no_longer_observed() -> None:
    """What looked at the frames is gone afterwards."""
    own = bench(linear())
    measure(own, Settings(threshold=0.1), [range(12)], {})
    assert all(engine.observer is None for engine in own.stream.engines.values())


def test_each_layer_takes_what_suits_it() -> None:
    """One whose error does not grow takes the highest threshold, one whose error does the lowest."""
    errors = {"harmless": [0.0] * 5, "delicate": [0.0, 0.1, 1.0, 10.0, 100.0]}
    passed = {name: [0.5, 0.4, 0.3, 0.2, 0.1] for name in errors}
    measured = Measured(errors, passed, dict.fromkeys(errors, 1.0))
    assert measured.factors(100.0) == {"harmless": FACTORS[-1], "delicate": FACTORS[0]}
    assert measured.factors(0.0) == dict.fromkeys(errors, FACTORS[-1])


def test_layers_that_nobody_pays_for_are_left_fine() -> None:
    """A threshold before readers that cost nothing saves nothing, so only its error counts."""
    measured = Measured({"a": [0.0, 0.1, 1.0, 2.0, 3.0]}, {"a": [0.5] * 5}, {"a": 0.0})
    assert measured.factors(1.0) == {"a": FACTORS[0]}


def test_what_cannot_be_told_apart() -> None:
    """A model that carries values from frame to frame is left as it is, and the reason is told."""

    def body(net: Net, x: Tensor) -> Tensor:
        net.n.add_(1)
        out: Tensor = net.d(net.c(x) + net.n)
        return out

    assert why_not(bench(linear()).stream) == ""
    carrying = videoeff.convert(Net(body).eval(), torch.rand(SHAPE))
    assert "frame to frame" in why_not(carrying)


def test_multiples_of_the_threshold() -> None:
    """Settings give each layer its own multiple of the common threshold; others have that itself."""
    own = bench(linear())
    apply(own.stream, Settings(threshold=0.1, layers=(("0", 0.5),)), own.units)
    found = own.stream.thresholds()
    assert [found[n] for n in "012"] == pytest.approx([0.05, 0.1, 0.0])
    assert Settings(threshold=0.1, layers=(("0", 0.5),)).to_json()["layers"] == {"0": 0.05}
