"""What the first use on a processor measures, and when it does not."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from videoeff import convert
from videoeff.errors import BackendError
from videoeff.kernels.cpp import costs, first_use, library

NATIVE = pytest.mark.skipif(bool(library.unavailable()), reason=library.unavailable() or "native library")
FOUND = {"convolution": 0.75, "convolution-1x1": 0.85, "depthwise": 2.0}


@pytest.fixture(autouse=True)
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A processor that nothing is known of, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(first_use.VARIABLE, "1")
    monkeypatch.setattr(costs, "processor", lambda: "a processor of the tests")
    monkeypatch.setattr(first_use, "_asked", threading.Event())
    costs.table.cache_clear()
    yield
    costs.table.cache_clear()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts how often is measured."""
    calls: list[int] = []

    def shares() -> dict[str, float]:
        calls.append(1)
        return FOUND

    monkeypatch.setattr(first_use, "shares", shares)
    return calls


def test_it_measures_once_and_keeps(measured: list[int], caplog: pytest.LogCaptureFixture) -> None:
    shipped = costs.read(costs.SHIPPED)
    assert shipped is not None
    first_use.measure_if_new()
    first_use.measure_if_new()
    assert len(measured) == len(caplog.records) == 1
    assert str(costs.measured_path()) in caplog.text
    table = costs.table()
    assert table.measured
    assert table.shares == {**shipped.shares, **FOUND}
    assert table.winograd == shipped.winograd  # decides about bits: only `videoeff tune` measures it
    assert table.notes["by"] == costs.FIRST_USE
    assert table.notes["processor"] == "a processor of the tests"
    assert [p.name for p in costs.measured_path().parent.iterdir()] == [costs.measured_path().name]


def test_a_table_that_is_there_serves(measured: list[int]) -> None:
    kept = costs.keep(costs.table(), costs.TUNE)
    first_use.measure_if_new()
    assert not measured
    assert costs.table() == kept


def test_the_shipped_processor_is_known(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    name = costs.table().notes["processor"]
    monkeypatch.setattr(costs, "processor", lambda: name)
    assert costs.table().fits
    first_use.measure_if_new()
    assert not measured


def test_it_is_switched_off(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(first_use.VARIABLE, "0")
    first_use.measure_if_new()
    assert not measured
    assert not costs.table().measured


def test_what_cannot_be_kept_is_not_measured(
    measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first_use.measure_if_new()
    assert not measured
    assert not costs.table().measured


@pytest.mark.parametrize("error", [OSError("full"), RuntimeError("refused"), BackendError("none")])
def test_it_never_fails(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def shares() -> dict[str, float]:
        raise error

    monkeypatch.setattr(first_use, "shares", shares)
    first_use.measure_if_new()
    assert not costs.table().measured
    assert caplog.records[-1].levelno == logging.WARNING
    assert str(error) in caplog.text


def test_nothing_half_written_is_left(measured: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr("os.replace", full)
    first_use.measure_if_new()
    assert measured
    assert not costs.table().measured
    assert list(costs.measured_path().parent.iterdir()) == []


def test_another_process_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    def shares() -> dict[str, float]:
        costs.keep(costs.table(), costs.FIRST_USE)
        return FOUND

    monkeypatch.setattr(first_use, "shares", shares)
    first_use.measure_if_new()
    assert costs.table().measured
    assert costs.table().shares["convolution"] != FOUND["convolution"]


def test_threads_measure_once(measured: list[int]) -> None:
    threads = [threading.Thread(target=first_use.measure_if_new) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measured) == 1


@NATIVE
def test_converting_measures(measured: list[int]) -> None:
    convert(nn.Conv2d(3, 8, 3).eval(), torch.rand(1, 3, 24, 32))
    assert len(measured) == 1


@NATIVE
def test_importing_measures_nothing(tmp_path: Path) -> None:
    code = "import videoeff, videoeff.kernels.cpp.plan, videoeff.kernels.cpp.first_use"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert list(tmp_path.iterdir()) == []


@NATIVE
def test_it_is_quick_and_sane() -> None:
    found = first_use.shares()
    assert set(found) <= set(costs.KINDS)
    assert all(share in (*first_use.SHARES, 2.0) for share in found.values())


@NATIVE
def test_kinds_for_which_time_does_not_last_are_left_out() -> None:
    assert first_use.shares(seconds=0.0) == {}


@pytest.mark.parametrize(
    ("ahead_at", "expected"),
    [((), 2.0), ((0.95,), 0.95), ((0.95, 0.9, 0.8), 0.8), ((0.9, 0.5), 2.0), (first_use.SHARES, 0.5)],
)
def test_break_even(ahead_at: tuple[float, ...], expected: float) -> None:
    """A share counts only if all larger ones are ahead, too: one time that was disturbed decides nothing."""
    assert first_use.break_even(lambda share: (1.0, 0.9 if share in ahead_at else 1.0)) == expected


@pytest.mark.parametrize("share", first_use.SHARES)
@pytest.mark.parametrize("kind", first_use.LAYERS)
def test_the_told_mask_makes_the_share_active(kind: str, share: float) -> None:
    for layer in first_use.LAYERS[kind]:
        mask = first_use.told(layer, share)
        active = nn.functional.max_pool2d(mask[None].float(), layer.kernel, 1, layer.kernel // 2)
        assert active.mean().item() == pytest.approx(share, abs=0.03)
