"""Sizes of blocks: the tables, how they are read and merged, and what is chosen for a region."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import videoeff
from videoeff.errors import BackendError
from videoeff.kernels.backend import Accepted
from videoeff.kernels.call import RegionCall
from videoeff.kernels.region_spec.spec import RegionSpec
from videoeff.kernels.triton import configs, rules
from videoeff.kernels.triton.configs import Config, Device
from videoeff.kernels.triton.describe import describe, served_device

HOPPER = Device("NVIDIA H200", "sm_90")
AMPERE = Device("NVIDIA A100-SXM4-80GB", "sm_80")
DEVICES = [Device(), HOPPER, AMPERE, Device("NVIDIA L4", "sm_89")]


@pytest.fixture(autouse=True)
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No table but the shipped one."""
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rules.forget()
    yield
    rules.forget()


class Kinds(nn.Module):
    """A layer of every kind whose sizes are chosen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 18, 3, 1, 1)
        self.point = nn.Conv2d(18, 300, 1)
        self.depth = nn.Conv2d(300, 300, 3, 2, 1, groups=300)
        self.group = nn.Conv2d(300, 40, 3, padding=1, groups=2)
        self.grow = nn.ConvTranspose2d(40, 24, 4, 2, 1)
        self.last = nn.Conv2d(24, 21, 1)
        self.fc = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = nn.functional.max_pool2d(self.stem(x), 2)
        x = self.group(self.depth(self.point(x)))
        y = nn.functional.interpolate(self.grow(x), scale_factor=2, mode="bilinear")
        return self.last(y).softmax(1), self.fc(x.mean((2, 3)))


def specs(model: nn.Module, size: tuple[int, int], **options: Any) -> Iterator[tuple[RegionCall, RegionSpec]]:
    """The regions of a network with their specs."""
    stream = videoeff.convert(model.eval(), torch.rand(1, 3, *size), backend="reference", **options)
    for engine in stream.engines.values():
        for instruction in engine.plan.instructions:
            call = dataclasses.replace(instruction.call, device=served_device())
            found = describe(call)
            assert isinstance(found, Accepted), found
            yield call, found.description


def regions(
    model: nn.Module, size: tuple[int, int], **options: Any
) -> dict[str, tuple[RegionCall, RegionSpec]]:
    """The last region of each kind."""
    return {configs.kind_of(spec): (call, spec) for call, spec in specs(model, size, **options)}


@pytest.fixture(scope="module")
def kinds() -> dict[str, Any]:
    return regions(Kinds(), (136, 256), threshold=0.1)


# ---------------------------------------------------------------- the shipped table


def test_every_kind_has_a_rule_for_everything() -> None:
    shipped = rules.read(rules.SHIPPED)
    assert {"default", "sm_90"} <= set(shipped)
    assert set(shipped["default"]) == set(rules.KINDS)
    assert all(listed[-1].when == {} for listed in shipped["default"].values())


def test_no_shipped_rule_is_behind_one_for_everything() -> None:
    for kinds_ in rules.read(rules.SHIPPED).values():
        for listed in kinds_.values():
            assert all(rule.when for rule in listed[:-1])


def test_shipped_sizes_fit_each_other() -> None:
    number = 0
    for device, kind, rule, config in configs.shipped():
        number += 1
        assert config.BM % config.U**2 == 0, (device, kind, rule)
        assert config.warps * 32 <= 1024
        if kind in rules.MATRIX:
            assert config.BM * config.BN <= 128 * 256
            assert config.stages * 4 * config.BK * (config.BM + config.BN) <= 227 * 1024
    assert number >= 30


def test_the_shipped_table_goes_into_the_wheel() -> None:
    assert rules.SHIPPED.name == "configs.json"
    assert rules.SHIPPED.parent == Path(configs.__file__).parent  # everything there that git does not ignore


def test_a_table_written_is_the_table_read() -> None:
    shipped = rules.read(rules.SHIPPED)
    assert rules.parse(json.loads(rules.text(shipped)), "again") == shipped


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize("device", DEVICES, ids=lambda d: d.name or "none")
def test_every_region_has_sizes_that_suit_it(kinds: dict[str, Any], device: Device) -> None:
    assert set(kinds) == {
        "input", "convolution", "convolution-1x1", "depthwise", "grouped", "transposed", "pooling",
        "resampling", "rows",
    }  # fmt: skip
    for kind, (call, spec) in kinds.items():
        config = configs.choose(call, spec, device)
        assert config.BM % config.U**2 == 0
        assert all(v & (v - 1) == 0 for v in (config.U, config.BM, config.BN, config.BK, config.warps))
        assert configs.power_of_two(configs.width_of(spec, kind), 16) >= config.BN
        if kind in rules.MATRIX:
            assert config.BN >= 16
            assert config.BM >= 16
            if device.capability == "sm_90" and not configs.looks_along(spec):
                assert config.BM >= 64


def test_channels_of_a_block_are_capped_by_the_layer(kinds: dict[str, Any]) -> None:
    call, spec = kinds["convolution"]
    assert configs.choose(call, spec).BN == 32  # 18 channels
    call, spec = kinds["grouped"]
    assert configs.choose(call, spec).BN == 32  # 20 of each group
    call, spec = kinds["input"]
    assert configs.choose(call, spec).BN == 4


def test_what_looks_along_the_channels_has_them_in_one_block(kinds: dict[str, Any]) -> None:
    call, spec = kinds["convolution-1x1"]  # followed by a softmax over 21
    assert configs.looks_along(spec)
    for device in DEVICES:
        assert configs.choose(call, spec, device).BN == 32
    wide = regions(nn.Sequential(nn.Conv2d(3, 1000, 1), nn.Softmax(1)), (8, 8))
    call, spec = wide["convolution-1x1"]
    config = configs.choose(call, spec, HOPPER)
    assert config.BN == 1024
    assert config.BM >= 16


def test_rows_are_one_pixel_each(kinds: dict[str, Any]) -> None:
    call, spec = kinds["rows"]
    config = configs.choose(call, spec, HOPPER)
    assert (config.U, config.BM, config.BN) == (1, 1, 16)


def test_tiles_follow_the_size_of_the_map() -> None:
    assert [configs.tile_of((1, n, n)) for n in (31, 32, 127, 128, 500)] == [1, 2, 2, 4, 4]
    assert configs.tile_of((8, 31, 33)) == 1  # a map's own pixels, not those of all streams


def test_a_transposed_convolution_keeps_its_stride_in_a_tile() -> None:
    found = regions(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 4, 4)), (6, 6))
    call, spec = found["transposed"]
    assert configs.choose(call, spec).U == 4


def test_predicted_changes_are_single_pixels() -> None:
    layers = [m for _ in range(3) for m in (nn.Conv2d(3, 3, 3), nn.ReLU())]
    found = list(specs(nn.Sequential(*layers), (160, 160), threshold=0.1, predict=1.0))
    predicted = [(call, spec) for call, spec in found if call.prediction is not None]
    assert predicted
    for call, spec in predicted:
        config = configs.choose(call, spec, HOPPER)
        assert (config.U, config.whole_from) == (1, 1.0)
        assert config.BM <= 64
    assert all(configs.choose(c, f).U == 4 for c, f in found if c.prediction is None)


def test_facts(kinds: dict[str, Any]) -> None:
    call, spec = kinds["grouped"]
    facts = configs.facts_of(call, spec, "grouped")
    assert set(facts) == set(rules.FACTS)
    assert (facts["inputs"], facts["outputs"], facts["taps"]) == (150, 20, 9)
    assert (facts["pixels"], facts["streams"], facts["bytes"], facts["along"]) == (34 * 64, 1, 4, 0)
    call, spec = kinds["transposed"]
    facts = configs.facts_of(call, spec, "transposed")
    assert (facts["inputs"], facts["outputs"], facts["taps"]) == (40, 24, 16)
    call, spec = kinds["depthwise"]
    facts = configs.facts_of(call, spec, "depthwise")
    assert (facts["inputs"], facts["outputs"]) == (1, 300)


def test_where_there_is_no_gpu_nothing_is_asked_for() -> None:
    assert configs.present("cpu") == Device()
    if not torch.cuda.is_available():
        assert configs.present("cuda") == Device()
    assert HOPPER.keys == ("NVIDIA H200", "sm_90", "default")
    assert Device().keys == ("default",)


# ---------------------------------------------------------------- a user's own


def write(path: Path, **devices: Any) -> Path:
    """A table of one rule a device, for convolutions of the kind named."""
    path.write_text(json.dumps(devices), encoding="utf-8")
    return path


def rule(**use: Any) -> dict[str, Any]:
    return {"use": {"BM": 64, "BN": 16, "warps": 4} | use}


def test_the_nearest_device_decides(
    kinds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {
        "default": {"convolution": [rule(programs=5)]},
        "sm_90": {"convolution": [rule(programs=6)]},
        "NVIDIA H200": {"convolution": [{"when": {"inputs": [1, 2]}} | rule(programs=7), rule(programs=8)]},
    }
    monkeypatch.setenv(rules.VARIABLE, str(write(tmp_path / "own.json", **table)))
    call, spec = kinds["convolution"]
    assert configs.choose(call, spec, HOPPER).programs == 8
    assert configs.choose(call, spec, Device("NVIDIA H100 PCIe", "sm_90")).programs == 6
    assert configs.choose(call, spec, Device()).programs == 5
    call, spec = kinds["pooling"]  # of which the user says nothing
    assert configs.choose(call, spec, HOPPER) == shipped_choice(call, spec, HOPPER, monkeypatch)


def shipped_choice(
    call: RegionCall, spec: RegionSpec, device: Device, monkeypatch: pytest.MonkeyPatch
) -> Config:
    monkeypatch.delenv(rules.VARIABLE)
    return configs.choose(call, spec, device)


def test_a_rule_that_does_not_fit_leaves_the_shipped_ones(
    kinds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, spec = kinds["convolution"]
    before = configs.choose(call, spec, HOPPER)
    one = {"when": {"outputs": [500, None], "streams": 3}} | rule(programs=9)
    table = {"NVIDIA H200": {"convolution": [one]}}
    monkeypatch.setenv(rules.VARIABLE, str(write(tmp_path / "own.json", **table)))
    assert configs.choose(call, spec, HOPPER) == before


def test_a_measured_table_serves_its_device_alone(kinds: dict[str, Any]) -> None:
    call, spec = kinds["convolution"]
    path = rules.measured_path("NVIDIA H200")
    path.parent.mkdir(parents=True)
    write(path, **{"NVIDIA H200": {"convolution": [rule(programs=11)]}})
    assert configs.choose(call, spec, HOPPER).programs == 11
    assert configs.choose(call, spec, AMPERE).programs != 11


BAD: list[tuple[Any, str]] = [
    ([], "devices"),
    ({"hopper": {}}, "'hopper' is no device"),
    ({"default": {"conv": []}}, "no such kind"),
    ({"default": {"convolution": {}}}, "list of rules"),
    ({"default": {"convolution": [{"use": {"BM": 64, "BN": 16, "warps": 4}, "if": {}}]}}, "not if"),
    ({"default": {"convolution": [{"when": {}}]}}, "a rule has 'use'"),
    ({"default": {"convolution": [{"use": {"BM": 64, "BN": 16}}]}}, "warps is missing"),
    ({"default": {"convolution": [rule(BQ=3)]}}, "no such size 'BQ'"),
    ({"default": {"convolution": [rule(BM=48)]}}, "power of two"),
    ({"default": {"convolution": [rule(BM="64")]}}, "whole number"),
    ({"default": {"convolution": [rule(BM=True)]}}, "whole number"),
    ({"default": {"convolution": [rule(BM=64.0)]}}, "whole number"),
    ({"default": {"convolution": [rule(whole_from=1.5)]}}, "from 0 to 1"),
    ({"default": {"convolution": [rule(BM=8)]}}, "at least 16 pixels"),
    ({"default": {"depthwise": [rule(BM=8, U=4)]}}, "a tile has 16 pixels"),
    ({"sm_90": {"convolution": [rule(BM=32)]}}, "Hopper's matrix units"),
    ({"NVIDIA H100 PCIe": {"grouped": [rule(BM=32)]}}, "Hopper's matrix units"),
    ({"default": {"unit": [{"use": {"U": 4, "BM": 64}}]}}, "gives U and nothing else"),
    ({"default": {"convolution": [{"when": {"channels": 3}} | rule()]}}, "nothing is known of 'channels'"),
    ({"default": {"convolution": [{"when": {"inputs": [4, 3]}} | rule()]}}, "inputs is [4, 3]"),
    ({"default": {"convolution": [{"when": {"inputs": "few"}} | rule()]}}, "inputs is 'few'"),
    ({"default": {"convolution": [{"when": {"inputs": [1, 2, 3]}} | rule()]}}, "inputs is [1, 2, 3]"),
    ({"default": {"convolution": [{"when": {"inputs": [math.nan, 3]}} | rule()]}}, "inputs is"),
]


@pytest.mark.parametrize(("document", "said"), BAD, ids=[b[1] for b in BAD])
def test_a_wrong_table_is_refused_with_the_place(document: Any, said: str) -> None:
    with pytest.raises(BackendError, match=r"own\.json") as error:
        rules.parse(document, "own.json")
    assert said in str(error.value)


def test_a_file_that_is_no_table_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.json"
    monkeypatch.setenv(rules.VARIABLE, str(path))
    with pytest.raises(BackendError, match=r"own\.json.*cannot be read"):
        rules.table()
    path.write_text("{", encoding="utf-8")
    with pytest.raises(BackendError, match=r"own\.json.*cannot be read"):
        rules.table()


def test_a_region_without_a_rule_is_named(kinds: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    call, spec = kinds["pooling"]
    monkeypatch.setattr(rules, "table", lambda name="": {"default": {"unit": (rules.Rule({}, {"U": 1}),)}})
    with pytest.raises(BackendError, match="no rule of default gives sizes for pooling"):
        configs.choose(call, spec)


def test_large_blocks_do_not_cost_a_list_its_precision() -> None:
    """A wide window behind a small map: more tiles than one append takes would reach the whole map."""
    pytest.importorskip("triton", reason="needs triton, which is not installed here")
    from tests.support.streams import stream_of
    from tests.support.triton.launches import launches

    module = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 7, padding=3, groups=128))
    stream = stream_of(module.half(), torch.empty(1, 64, 20, 30, dtype=torch.half), backend="reference")
    found = {x.layer: (x.arguments, c) for x, c in launches(stream, 90) if x.kernel.__name__ == "convolution"}
    ((arguments, sizes),) = found.values()
    (first,) = found
    assert sizes[first].long_BM == 0
    assert arguments["LONG"] is None
    assert arguments["EDGES"][0].whole == 0  # by tiles, not the whole map
    wide = nn.Sequential(nn.Conv2d(64, 128, 3, padding=1), nn.Conv2d(128, 128, 3, padding=1))
    for size, expected in (((20, 30), (128, 128, 1)), ((6, 9), None)):  # a list of 54 pixels is never long
        stream = stream_of(wide.half(), torch.empty(1, 64, *size, dtype=torch.half), backend="reference")
        made = [x for x, _ in launches(stream, 90) if x.kernel.__name__ == "convolution"]
        assert [x.arguments["LONG"] for x in made] == [expected] * 2
