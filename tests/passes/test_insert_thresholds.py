from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from tests.support.nets import ZOO, network
from tests.support.streams import captured, planned
from videoeff.errors import PassError
from videoeff.ir.markers import TESTS, cache_name, cache_option, is_cache
from videoeff.ir.program import Program
from videoeff.ops.base import Lambda
from videoeff.passes.base import PassResult
from videoeff.passes.insert_thresholds import NOISE_THRESHOLD, InsertThresholds
from videoeff.passes.pipeline import parse_passes
from videoeff.passes.recompute_expansions import RecomputeExpansions
from videoeff.runtime.engine import Engine
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.testing import changing_frames, moving_clip, poison

BEFORE = "fold-batchnorm,drop-noops,trace-channels,insert-delta-caches,fuse-pointwise,plan-layout"
BEFORE += ",hold-gates,mark-dense"
FRAME = torch.rand(1, 3, 16, 16)


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def before(model: nn.Module, *frames: Tensor) -> Program:
    return planned(captured(model, *frames), BEFORE)


def insert(item: InsertThresholds, model: nn.Module | None = None, *frames: Tensor) -> PassResult:
    return item.run(before(model or plain(), *(frames or (FRAME,))))


def options(result: PassResult, option: str) -> dict[str, Any]:
    return {cache_name(n): cache_option(n, option) for n in result.program.nodes if is_cache(n)}


def cache(result: PassResult, name: str) -> fx.Node:
    return next(n for n in result.program.nodes if is_cache(n) and cache_name(n) == name)


@pytest.mark.parametrize("test", [t for t in TESTS if t != "noise"])
def test_threshold_and_test_of_every_layer(test: str) -> None:
    result = insert(InsertThresholds(0.25, test, input_test=test))
    assert options(result, "threshold") == {"input_1": 0.25, "0": 0.25, "2": 0.25, "4": 0.0}
    assert options(result, "test") == {"input_1": test, "0": test, "2": test, "4": "max"}
    assert options(result, "predict") == dict.fromkeys(("input_1", "0", "2", "4"), 0.0)
    assert result.notes == ("4: threshold kept at 0: it is an output: holding it back would save nothing",)


def test_the_input_has_options_of_its_own() -> None:
    result = insert(InsertThresholds(0.25, input_threshold=0.1, input_test="l2", block=8, dilation=2))
    frame = cache(result, "input_1")
    found = [cache_option(frame, o) for o in ("threshold", "test", "block", "dilation")]
    assert found == [0.1, "l2", 8, 2]
    assert cache_option(cache(result, "0"), "block") == 1
    assert options(insert(InsertThresholds(0.25, input_threshold=0.0)), "threshold")["input_1"] == 0.0
    assert options(insert(InsertThresholds(0.0, input_threshold=0.3)), "threshold") == {
        "input_1": 0.3, "0": 0.0, "2": 0.0, "4": 0.0,
    }  # fmt: skip


NOISE = ((0.01, 1.0, -2.0), (0.0, 1e-5, 0.0), (0.5, 2.0, 1.0))


def test_noise_is_of_the_frame_alone() -> None:
    item = InsertThresholds(0.25, noise=NOISE, block=8, weak=0.4, grow=1)
    result = insert(item)
    frame = cache(result, "input_1")
    found = {o: cache_option(frame, o) for o in ("test", "threshold", "noise", "block", "weak", "grow")}
    assert found == {
        "test": "noise", "threshold": NOISE_THRESHOLD, "noise": NOISE, "block": 8, "weak": 0.4, "grow": 1,
    }  # fmt: skip
    assert options(result, "noise")["0"] == ()
    assert options(result, "grow")["0"] == 0
    assert options(insert(InsertThresholds(noise=NOISE, input_threshold=7.0)), "threshold")["input_1"] == 7.0
    exact = insert(InsertThresholds(noise=NOISE, input_threshold=0.0))
    assert (options(exact, "test")["input_1"], options(exact, "noise")["input_1"]) == ("max", ())
    assert parse_passes(str(item)) == (item,)
    assert parse_passes(str(replace(item, noise=((1e16, 1e-30, 0.0),) * 3)))


def test_a_frame_of_other_channels_is_tested_exactly() -> None:
    result = insert(InsertThresholds(0.25, noise=NOISE[:1], grow=1))
    assert options(result, "threshold")["input_1"] == 0.0
    assert any("it has 3 channel(s), noise is given for 1" in n for n in result.notes)


def test_zero_is_exact_and_says_nothing() -> None:
    result = insert(InsertThresholds())
    assert set(options(result, "threshold").values()) == {0.0}
    assert not result.notes


def test_predicted_changes() -> None:
    result = insert(InsertThresholds(0.25, predict=1.5))
    assert options(result, "predict") == {"input_1": 0.0, "0": 1.5, "2": 1.5, "4": 0.0}
    assert set(options(insert(InsertThresholds(0.0, predict=1.5)), "predict").values()) == {0.0}


def test_what_cannot_be_predicted_is_noted() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    result = insert(InsertThresholds(0.25, predict=1.0), model)
    assert "1/max_pool2d: changes not predicted: it is not a plain convolution" in result.notes
    assert any(n.startswith("2: changes not predicted") for n in result.notes)


def test_a_second_run_replaces_the_first() -> None:
    """Each run says all options; nothing is left over from the one before."""
    first = insert(
        InsertThresholds(0.3, "l2", predict=2.0, block=8, dilation=1, noise=NOISE, weak=0.5, grow=2)
    )
    for item in (InsertThresholds(0.1), InsertThresholds(), InsertThresholds(0.2, "max", input_test="max")):
        again, fresh = item.run(first.program), insert(item)
        for option in ("threshold", "test", "predict", "block", "dilation", "noise", "weak", "grow"):
            assert options(again, option) == options(fresh, option)


def test_gates_have_thresholds_heads_do_not() -> None:
    spec = ZOO["gates"]
    result = insert(InsertThresholds(0.2), network(spec), *next(changing_frames(spec.shapes, 1)))
    kinds, thresholds = options(result, "kind"), options(result, "threshold")
    assert [thresholds[n] for n, k in kinds.items() if k == "gate"] == [0.2, 0.2]
    head = nn.Sequential(plain(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    found = insert(InsertThresholds(0.2), head)
    assert options(found, "threshold")["3"] == 0.0
    assert any("3: threshold kept at 0: nothing local follows it" in n for n in found.notes)


def test_whole_numbers_and_mixed_streams_are_declined() -> None:
    labels = Lambda(lambda x: (lambda y: (y * 2.5, (y + 1).relu() * 0.5))(x.argmax(1, keepdim=True)))
    result = insert(InsertThresholds(0.2), nn.Sequential(nn.Conv2d(3, 4, 3), labels))
    assert any("it holds torch.int64" in n for n in result.notes)
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3), Lambda(lambda x: (x - x[0:1]).relu()), nn.Conv2d(4, 2, 3))
    result = insert(InsertThresholds(0.2), mixed, torch.rand(2, 3, 16, 16))
    assert any("it mixes streams" in n for n in result.notes)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (InsertThresholds(0.1, "median"), "test='median' is none of max, l2, rms, rms-relative"),
        (InsertThresholds(0.1, input_test="mean"), "input_test='mean' is none of"),
        (InsertThresholds(-0.1), "threshold must be a finite number, 0 or larger"),
        (InsertThresholds(float("nan")), "threshold must be a finite number, 0 or larger"),
        (InsertThresholds(float("inf")), "threshold must be a finite number, 0 or larger"),
        (InsertThresholds(0.1, input_threshold=-1.0), "input_threshold must be a finite number, 0 or larger"),
        (InsertThresholds(0.1, input_threshold=float("nan")), "input_threshold must be a finite number"),
        (InsertThresholds(0.1, predict=-1.0), "predict must be a finite number, 0 or larger"),
        (InsertThresholds(0.1, predict=float("nan")), "predict must be a finite number, 0 or larger"),
        (InsertThresholds(0.1, dilation=-1), "dilation must be at least 0"),
        (InsertThresholds(0.1, block=0), "block must be at least 1"),
        (InsertThresholds(0.1, grow=-1), "grow must be at least 0, and whole"),
        (InsertThresholds(0.1, weak=0.0), "weak must be more than 0 and at most 1"),
        (InsertThresholds(0.1, weak=1.5), "weak must be more than 0 and at most 1"),
        (InsertThresholds(0.1, noise=((0.0, 0.0, 0.0),)), "give a tuple"),
        (InsertThresholds(0.1, noise=((-1.0, 1.0, 0.0),)), "give a tuple"),
        (InsertThresholds(0.1, noise=((0.0, 1.0, float("nan")),)), "give a tuple"),
        (InsertThresholds(0.1, noise=((0.0, 1.0),)), "give a tuple"),  # type: ignore[arg-type]
        (InsertThresholds(0.1, input_test="noise"), "input_test='noise' goes with noise="),
        (InsertThresholds(0.1, "noise"), "test='noise' is none of"),
    ],
    ids=str,
)
def test_bad_values(item: InsertThresholds, message: str) -> None:
    with pytest.raises(PassError, match=message):
        insert(item)


def test_higher_thresholds_change_less() -> None:
    """On noise the share of pixels passed on falls with τ, to none at last."""
    model, counts = plain().eval(), []
    frames = list(moving_clip(4, (1, 3, 16, 16), noise=0.05))
    for threshold in (0.0, 0.05, 0.2, 10.0):
        stream = StreamingModule(Engine(insert(InsertThresholds(threshold), model).program))
        poison(stream)
        total = 0
        with stream.observe() as seen:
            for number, frame in enumerate(frames):
                stream(frame)
                total += int(sum(m.sum() for m in seen.changed.values())) if number else 0
        counts.append(total)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0


def test_maps_that_are_computed_anew_get_none_unless_changes_are_predicted() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 2, 1)
    )
    program = RecomputeExpansions(least=0).run(before(model, FRAME)).program
    result = InsertThresholds(0.2).run(program)
    assert options(result, "threshold") == {"input_1": 0.2, "0": 0.0, "1": 0.0, "2": 0.2, "3": 0.0}
    assert "0: threshold kept at 0: it is computed anew rather than kept" in result.notes[0]
    predicted = InsertThresholds(0.2, predict=1.0).run(program)
    assert options(predicted, "threshold") == {"input_1": 0.2, "0": 0.2, "1": 0.2, "2": 0.2, "3": 0.0}
