"""The table of costs: reading, measuring, keeping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from torch import nn

from videoeff.bench import costs as measuring
from videoeff.kernels.cpp import costs, library
from videoeff.kernels.cpp.costs import Costs
from videoeff.kernels.cpp.first_use import SHARES
from videoeff.kernels.cpp.winograd import pays
from videoeff.kernels.region_spec.producers import Window


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    costs.table.cache_clear()
    yield
    costs.table.cache_clear()


def test_the_shipped_table_serves_until_one_is_measured() -> None:
    shipped = json.loads(costs.SHIPPED.read_text(encoding="utf-8"))
    processor = shipped.pop("processor")
    assert costs.table().to_json() == shipped
    assert costs.table().notes == {"processor": processor}
    assert not costs.table().measured
    measured = Costs(dict.fromkeys(costs.KINDS, 0.75), 1.25, costs.measured_path())
    assert measuring.write(measured) == str(costs.measured_path())
    assert costs.table().to_json() == measured.to_json()
    assert costs.table().notes["by"] == costs.TUNE
    assert costs.table().measured


def test_a_table_of_version_0_1_0_has_no_cost_of_minimal_filtering() -> None:
    path = costs.measured_path()
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(dict.fromkeys(costs.KINDS, 0.75)), encoding="utf-8")
    assert costs.table().measured
    assert costs.table().winograd == json.loads(costs.SHIPPED.read_text(encoding="utf-8"))["winograd"]


@pytest.mark.parametrize(("cost", "expected"), [(1.5, True), (2.2, True), (2.3, False)])
def test_the_cost_decides_about_minimal_filtering(cost: float, expected: bool) -> None:
    """36 products for 16: ahead below 2.25."""
    measuring.write(Costs(costs.table().shares, cost, costs.measured_path()))
    window = Window((3, 3), padding=(0, 0))
    assert pays((64, 64), window, 1, (62, 42), (60, 40)) == expected


@pytest.mark.parametrize("text", ["", "[1]", '{"convolution": 0.5}', "NaN"])
def test_a_table_that_is_none_is_as_if_it_were_not_there(text: str) -> None:
    path = costs.measured_path()
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert costs.read(path) is None
    assert costs.table() == costs.read(costs.SHIPPED)


def test_no_share_of_a_table_may_be_nonsense() -> None:
    path = costs.measured_path()
    path.parent.mkdir(parents=True)
    for name, wrong in product(("pooling", "winograd"), (0.0, -1.0, True, "half", float("nan"))):
        path.write_text(json.dumps(costs.table().to_json() | {name: wrong}), encoding="utf-8")
        assert costs.read(path) is None


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
def test_every_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(measuring.LAYERS) == set(costs.KINDS)
    layers = {
        "convolution": ((lambda: nn.Conv2d(4, 8, 3, padding=1), 24, 32),),
        "pooling": ((lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.MaxPool2d(2)), 24, 32),),
    }
    monkeypatch.setattr(measuring, "LAYERS", layers)
    monkeypatch.setattr(measuring, "FILTERED", ((32, 32, 24, 32),))
    table = measuring.measure(rounds=1)
    assert set(table.shares) == set(layers)
    assert all(share in (*SHARES, 2.0) for share in table.shares.values())
    assert 0 < table.winograd < 100
