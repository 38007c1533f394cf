"""Sizes of the CUDA kernels: candidates, the choice, the table written; measured by a made-up clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.conftest import call_json, refused
from videoeff.bench import cuda_sizes
from videoeff.bench.cuda_sizes import Layer, Measured, candidates, choice, save, table_of
from videoeff.errors import BackendError
from videoeff.kernels.triton import rules
from videoeff.kernels.triton.configs import Config

NAME = "NVIDIA H200"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rules.forget()
    yield
    rules.forget()


def layer(kind: str = "convolution", **facts: float) -> Layer:
    usual = {
        "inputs": 64, "outputs": 64, "taps": 9, "pixels": 100, "all_pixels": 400, "streams": 4, "bytes": 2,
        "aligned": 1, "along": 0, "tf32": 0,
    }  # fmt: skip
    return Layer.of(kind, usual | facts)


def measured(of: Layer, full: float = 1.0, part: float = 0.1, **sizes: Any) -> Measured:
    return Measured(of, Config(**sizes), full, part)


LAYERS = [
    layer(),
    layer(inputs=3, taps=49),
    layer("convolution-1x1", inputs=2048, outputs=512, taps=1, bytes=4, tf32=1),
    layer("grouped", inputs=4, outputs=4),
    layer("transposed", outputs=21),
    layer("depthwise", inputs=1, outputs=960),
    layer("pointwise", outputs=7, taps=1),
    layer("convolution-1x1", outputs=1000, taps=1, along=1),
    layer("pooling", outputs=2048),
]


@pytest.mark.parametrize("capability", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize("of", LAYERS, ids=str)
def test_every_candidate_may_stand_in_a_table(of: Layer, capability: str) -> None:
    now = Config(U=1, BM=64)
    found = candidates(of, now, capability)
    assert found[0] == now
    assert len(found) == len(set(found))
    for config in found:
        table = table_of(capability, [Measured(of, config, 1.0, 1.0)])
        assert rules.parse(_json(table), "candidates") == table
        if of.kind in rules.MATRIX:
            taken = config.stages * of["bytes"] * config.BK * (config.BM + config.BN)
            assert taken <= cuda_sizes.SHARED.get(capability, cuda_sizes.LEAST_SHARED)


def test_matrix_products_have_several_candidates_of_their_width() -> None:
    found = candidates(layer(outputs=40), Config(BM=64, BN=64), "sm_90")
    assert 5 <= len(found) <= 30
    assert max(c.BN for c in found) == 64
    assert {c.BM for c in found} == {64, 128}
    assert {c.BK for c in found} >= {32, 64}


def test_what_cannot_be_chosen_by_one_layer_keeps_its_sizes() -> None:
    now = Config()
    assert candidates(layer("rows"), now, "sm_90") == [now]
    assert candidates(layer(along=1), now, "sm_90") == [now]


def test_neither_time_is_bought_with_the_other() -> None:
    of = layer()
    best = choice([measured(of, 1.0, 1.0), measured(of, 0.5, 3.0, BM=128), measured(of, 0.9, 0.9, BN=32)])
    assert best.config.BN == 32
    near = choice([measured(of, 1.0, 1.0), measured(of, 0.995, 0.995, BM=128)])
    assert near.config == Config()  # noise changes nothing


def test_rules_are_of_the_layers_measured() -> None:
    small, large = layer(pixels=100, all_pixels=100), layer(pixels=10_000, all_pixels=10_000)
    other = layer(outputs=128)
    table = table_of(NAME, [measured(large, BM=128), measured(small), measured(other, BN=128)])
    listed = table[NAME]["convolution"]

    def first(**facts: float) -> dict[str, float]:
        wanted = dict(layer("convolution", **facts).facts)
        return dict(next(r.use for r in listed if r.fits(wanted)))

    assert first(all_pixels=100)["BM"] == 64
    assert first(all_pixels=990)["BM"] == 64  # below the geometric mean of both
    assert first(all_pixels=1001)["BM"] == 128
    assert first(all_pixels=1e9)["BM"] == 128
    assert first(outputs=128, all_pixels=7)["BN"] == 128
    assert not any(r.fits(dict(layer(outputs=65).facts)) for r in listed)
    assert all("U" not in r.use for r in listed)


def test_a_second_run_replaces_what_it_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    save(table_of(NAME, [measured(layer(), programs=3), measured(layer(outputs=9), programs=4)]), path)
    save(table_of(NAME, [measured(layer(), programs=5), measured(layer(taps=1), programs=6)]), path)
    found = rules.read(path)[NAME]["convolution"]
    assert [r.use["programs"] for r in found] == [5, 6, 4]
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]


def test_a_file_that_is_no_table_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(BackendError, match=r"table\.json"):
        save(table_of(NAME, [measured(layer())]), path)
    assert path.read_text(encoding="utf-8") == "mine"


# ---------------------------------------------------------------- the walk over layers


class Clock:
    """Measures by a formula; counts what it was asked."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[tuple[Any, Config]] = []
        self.fails = fails

    def __call__(self, place: Any, config: Config) -> tuple[float, float]:
        self.asked.append((place.layer, config))
        if self.fails and len(self.asked) > 1:
            raise RuntimeError("out of resource: shared memory\nand more")
        return 1.0 / config.BM, 1.0 / config.BN


def place(of: Layer, macs: int) -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(layer=of, now=Config(), call=SimpleNamespace(macs=macs))


def tuning() -> Any:
    pytest.importorskip("triton", reason="needs triton, which is not installed here")
    from videoeff.bench import cuda_tune

    return cuda_tune


def test_distinct_layers_the_largest_first() -> None:
    few, many, notes, clock = layer(outputs=40), layer(outputs=128), list[str](), Clock()
    found = [place(few, 1), place(many, 5), place(few, 2)]
    best = tuning().layers(found, "sm_90", time.monotonic() + 60, notes.append, clock)
    assert [b.layer for b in best] == [many, few]
    assert (best[0].config.BM, best[0].config.BN) == (128, 128)
    assert len(clock.asked) == sum(len(candidates(x, Config(), "sm_90")) for x in (few, many))
    assert len(notes) == 2


def test_a_spent_budget_leaves_the_rest_as_it_is() -> None:
    notes: list[str] = []
    best = tuning().layers([place(layer(), 1)], "sm_90", time.monotonic() - 1, notes.append, Clock())
    assert best == []
    assert "1 layer(s) keep their sizes" in notes[0]


def test_sizes_that_do_not_fit_the_device_are_left_out() -> None:
    notes: list[str] = []
    best = tuning().layers(
        [place(layer(), 1)], "sm_90", time.monotonic() + 60, notes.append, Clock(fails=True)
    )
    assert best[0].config == Config()
    assert any("left out: out of resource" in n for n in notes)


# ---------------------------------------------------------------- the command


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_command_says_so() -> None:
    said = refused("tune", "--device", "cuda")
    assert "needs a CUDA device" in said
    found = call_json("tune", "--device", "cuda", status=2)
    assert found["error"]["kind"] == "BackendError"


@pytest.mark.gpu
def test_a_small_network_is_tuned(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    reference = f"{Path(__file__).resolve().parents[1] / 'support' / 'tiny_net.py'}:net"
    found = call_json(
        "tune", "--device", "cuda", "--model", reference, "--input-size", 64, 96, "--streams", 1,
        "--budget", 60, "-o", path,
    )  # fmt: skip
    assert found["path"] == str(path)
    assert rules.read(path)[torch.cuda.get_device_name()]


def _json(table: rules.Table) -> dict[str, Any]:
    return {
        d: {k: [r.to_json() for r in listed] for k, listed in kinds.items()} for d, kinds in table.items()
    }
