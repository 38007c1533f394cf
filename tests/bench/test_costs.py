"""The table of costs: reading, measuring, keeping."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from videoeff.bench import costs as measuring
from videoeff.kernels.cpp import costs, library


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    costs.shares.cache_clear()
    yield
    costs.shares.cache_clear()


def test_the_shipped_table_serves_until_one_is_measured() -> None:
    shipped = json.loads(costs.SHIPPED.read_text(encoding="utf-8"))
    assert costs.shares() == shipped
    measured = dict.fromkeys(costs.KINDS, 0.75)
    assert measuring.write(measured) == str(costs.measured_path())
    assert costs.shares() == measured


@pytest.mark.parametrize("text", ["", "[1]", '{"convolution": 0.5}', "NaN"])
def test_a_table_that_is_none_is_as_if_it_were_not_there(text: str) -> None:
    path = costs.measured_path()
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    assert costs.read(path) is None
    assert costs.shares() == costs.read(costs.SHIPPED)


def test_no_share_of_a_table_may_be_nonsense() -> None:
    path = costs.measured_path()
    path.parent.mkdir(parents=True)
    for wrong in (0.0, -1.0, True, "half", float("nan")):
        path.write_text(json.dumps(dict.fromkeys(costs.KINDS, 0.9) | {"pooling": wrong}), encoding="utf-8")
        assert costs.read(path) is None


@pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
def test_every_kind_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(measuring.LAYERS) == set(costs.KINDS)
    layers = {
        "convolution": ((lambda: nn.Conv2d(4, 8, 3, padding=1), 24, 32),),
        "pooling": ((lambda: nn.Sequential(nn.Conv2d(4, 8, 1), nn.MaxPool2d(2)), 24, 32),),
    }
    monkeypatch.setattr(measuring, "LAYERS", layers)
    table = measuring.measure(rounds=1)
    assert set(table) == set(layers)
    assert all(share in (*measuring.SHARES, 2.0) for share in table.values())
