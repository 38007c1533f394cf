"""The coverage benchmark: what counts as covered, what is run again, and what the page says."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import coverage
from benchmarks.coverage_models import LIBRARIES, TIMM, Built, build, library, names
from benchmarks.coverage_page import lawful, page


def row(model: str, **changes: Any) -> dict[str, Any]:
    base = {
        "model": model, "input": "image 96x96", "partitions": [], "convolutions": 3, "streamed": 1.0,
        "error": 1e-6, "error_float64": None, "error_outputs": None, "numbers_compared": 10, "harmed": "",
        "macs_dense": 1.0,
        "macs_needed_share": 0.5, "state_bytes": 1, "convert_seconds": 1.0,
    }  # fmt: skip
    return base | changes


REFUSED = "videoeff.errors.CaptureError: ViT: it has no convolution, so there are no pixels to follow"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"error": 1e-3}, False),
        ({"error": 1e-3, "error_float64": 1e-12}, True),
        ({"error": float("inf")}, False),
        ({"numbers_compared": 0}, False),
        ({"motion": 1e-6}, False),
        ({"motion": 0.5, "error": 0.0}, True),
        ({"error": 0.0}, False),
        ({"harmed": "it returns FakeTensor"}, False),
        ({"failed": "IndexError"}, False),
        ({"failed": REFUSED}, True),
    ],
)
def test_what_is_lawful(changes: dict[str, Any], expected: bool) -> None:
    assert lawful(row("a", **changes)) == expected


def test_the_page_names_what_differs_and_what_was_not_run() -> None:
    rows = [
        row("vgg11"),
        row("timm:a", error=0.5),
        row("timm:b", failed="IndexError: |"),
        row("timm:c", failed=REFUSED),
    ]
    older = row("alexnet")
    del older["harmed"]
    text = page([*rows, older], 20, {"torch": "2.15.0"})
    assert "**1 differ without a word or leave the model changed: timm:a.**" in text
    assert "1 are not converted: timm:b." in text
    assert "1 have no convolution and are refused: timm:c." in text
    assert "| alexnet * |" in text
    assert "| b | | | not converted: IndexError: / |" in text
    assert "Not run: pixeltable-yolox was not installed." in text
    assert "partitions |" in text
    assert "1 have yet to be repeated" in page([row("vgg11", error=0.0)], 20, {})
    assert "None differs" in page(rows[:1], 20, {})


def test_what_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "names", lambda: (["a", "b", "c", "timm:d"], ["timm is old"]))
    known = {
        "a": row("a"),
        "b": row("b", error=1.0),
        "c": {"model": "c", "error": 0.0, "numbers_compared": 1},
    }
    said: list[str] = []

    def run(**given: Any) -> list[str]:
        base: dict[str, Any] = {"failed": False, "again": False, "libraries": [], "models": []}
        return coverage.to_run(argparse.Namespace(**{**base, **given}), known, said.append)

    assert run() == ["c", "timm:d"]
    assert run(failed=True) == ["b", "c"]
    assert run(libraries=["timm"]) == ["timm:d"]
    assert run(again=True) == ["a", "b", "c", "timm:d"]
    assert run(models=["b", "c"]) == ["b", "c"]
    assert said[0] == "timm is old"


def test_again_forgets_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "coverage.json"
    path.write_text(json.dumps({"frames": 20, "versions": {}, "models": [row("a"), row("b")]}))
    monkeypatch.setattr(coverage, "run_all", lambda arguments, wanted, known, note: known.update(b=row("b")))
    pages: list[Any] = []

    def shown(rows: Any, *_: Any) -> str:
        pages.append(rows)
        return ""

    monkeypatch.setattr(coverage, "page", shown)
    options = ["--again", "--models", "b", "--json", str(path), "--out", str(tmp_path / "page.md")]
    monkeypatch.setattr("sys.argv", ["coverage.py", *options])
    with pytest.raises(SystemExit) as ended:
        coverage.main()
    assert ended.value.code == 0
    assert [r["model"] for r in pages[0]] == ["a", "b"]


def test_libraries_that_are_absent_are_left_out_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, notes = names()
    assert {library(n) for n in found} == {"torchvision"}
    assert len(notes) == len(LIBRARIES)
    assert "pip install pixeltable-yolox" in " ".join(notes)


def test_every_family_of_timm_has_a_model() -> None:
    timm = pytest.importorskip("timm", reason="needs the package of videoeff[timm]")
    assert set(TIMM) == set(timm.list_modules())
    assert set(TIMM.values()) <= set(timm.list_models())


class Caches(nn.Module):
    """Keeps its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 1), torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(self.conv(x), self.last)


def test_a_model_that_was_harmed_is_told() -> None:
    call = (torch.rand(1, 3, 4, 4),)
    model, other = Caches(), Caches()
    other.load_state_dict(model.state_dict())
    assert coverage.harm(model, other, call) == ""
    model.last = torch.ones(())
    assert "own outputs changed by" in coverage.harm(model, other, call)
    model.last = torch.ones(2, 2, 2, 2, 2, 7)
    assert "the converted model itself raises RuntimeError" in coverage.harm(model, other, call)


def test_weights_that_begin_as_nothing_come_alive() -> None:
    conv, norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    nn.init.constant_(norm.weight, 1e-5)
    kept = conv.weight.detach().clone()
    coverage.enliven(nn.Sequential(conv, norm))
    assert torch.equal(conv.weight, kept)
    assert float(norm.weight.detach().min()) >= 0.3
    assert float(norm.bias.detach().abs().max()) == 0.0


def test_the_smallest_size_that_fits() -> None:
    model = nn.Sequential(nn.Conv2d(3, 1, 5), nn.MaxPool2d(4))
    assert coverage.fitting(Built(model, "image", ((4, 4), (16, 16), (32, 32)))) == (16, 16)


@pytest.mark.parametrize("wrong", [False, True])
def test_a_model_from_the_first_to_the_last_step(wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong:
        real = coverage.twins

        def unlike(name: str) -> Any:
            model, reference, *rest = real(name)
            next(reference.parameters()).data.mul_(1.1)
            return (model, reference, *rest)

        monkeypatch.setattr(coverage, "twins", unlike)
    found = coverage.one("squeezenet1_1", 3)
    json.dumps(found)
    assert found["numbers_compared"] == 3000
    assert lawful(found) != wrong


def test_torchvision_models_have_their_inputs() -> None:
    assert build("maxvit_t").sizes == ((224, 224),)
    assert build("r3d_18").kind == "clip"
