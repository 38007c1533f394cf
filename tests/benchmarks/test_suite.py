"""The set of models: which measurements, in which budget, with which tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import cpu_render, suite
from benchmarks.pages import fill
from benchmarks.store import Store
from videoeff.bench import measure
from videoeff.bench.figures import compare, summary
from videoeff.bench.spec import PEERS, SHARES, Model, Settings
from videoeff.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = Settings(threads=2)


def test_the_whole_set() -> None:
    found = list(suite.tasks(suite.Choice(data=Path("data"))))
    keys = [(t.section, t.key) for t in found]
    assert len(set(keys)) == len(keys)
    assert sum(s == "synthetic" for s, _ in keys) == 20
    assert sum(s == "clips" for s, _ in keys) == 6
    assert ("synthetic", "hrnet_w18/704x1280") in keys  # rounded down to its multiple
    assert ("clips", "campus/fastestdet") in keys
    detector = next(t.model for t in found if t.model.name == "fastestdet")
    assert Path(detector.reference) == Path("data/fastestdet.pt2")


def test_a_choice() -> None:
    choice = suite.Choice(("resnet18",), ((360, 480),), ("synthetic",))
    assert [t.key for t in suite.tasks(choice)] == ["resnet18/360x480"]


def test_without_data_the_detector_and_the_clips_are_left_out() -> None:
    found = list(suite.tasks(suite.Choice()))
    assert found
    assert not [t for t in found if t.clip or t.model.name == "fastestdet"]


def test_sizes_are_rounded_down() -> None:
    assert Model("timm:x", multiple=32).fit((360, 480)) == (352, 480)
    assert Model("timm:x").fit((360, 480)) == (360, 480)


def result(name: str = "resnet50", size: tuple[int, int] = (360, 480)) -> dict[str, Any]:
    """A made-up result: 10 ms dense, streaming in proportion with 1 ms of overhead."""
    dense = {"eager": 30.0, "compile": 20.0, "openvino": 10.0}
    stream = []
    for share in SHARES:
        work = min(1.0, 3 * share)
        row = compare(0.1 + 11 * work, dense, work, work)
        stream.append({"label": f"{share:g}", "changed": share, **row, "spread": summary([row["ms"]] * 3)})
    return {
        "model": name,
        "size": list(size),
        "threads": 2,
        "rounds": 3,
        "partial": False,
        "note": "",
        "parity": {"compile": 1e-6, "openvino": 2e-6},
        "dense": {k: summary([v]) for k, v in dense.items()}
        | {"onnxruntime": {"failed": "ImportError: none"}},
        "stream": stream,
        "state_ratio": 1.1,
    }


def run(
    store: Store, budget: float, said: list[str], models: tuple[str, ...] = ("resnet18", "resnet50")
) -> int:
    choice = suite.Choice(models, ((360, 480),), ("synthetic",))
    return suite.run(
        list(suite.tasks(choice)), choice, SETTINGS, store, 0, Path("cache"), budget, said.append
    )


def test_results_are_kept_and_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def fake(model: Model, size: Any, settings: Settings, *_: Any) -> dict[str, Any]:
        measured.append(model.name)
        assert 6.0 <= settings.budget <= 100.0
        if model.name == "resnet18" and len(measured) == 1:
            raise BackendError("outputs differ from eager PyTorch's")
        return result(model.name)

    monkeypatch.setattr(measure, "synthetic", fake)
    store, said = Store(None), list[str]()
    assert run(store, 100.0, said) == 1
    assert measured == ["resnet18", "resnet50"]
    assert store.section("synthetic")["resnet18/360x480"]["failed"] == "outputs differ from eager PyTorch's"
    assert run(store, 100.0, said) == 0
    assert measured == ["resnet18", "resnet50", "resnet18"]
    assert run(store, 100.0, said) == 0
    assert len(measured) == 3
    assert "without onnxruntime" in said[1]


def test_a_spent_budget_says_what_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "synthetic", lambda *_: pytest.fail("there was no time"))
    said: list[str] = []
    assert run(Store(None), 0.0, said) == 2
    assert said == ["the budget is spent; left out: resnet18/360x480, resnet50/360x480"]


# ---------------------------------------------------------------- tables


def document() -> dict[str, Any]:
    store = Store(None)
    machine = {
        "cpu": "a processor",
        "instruction_sets": ["avx2"],
        "cores": 2,
        "caches": {"L2": "1M"},
        "threads": 2,
        "python": "3",
        "versions": {"torch": "2"},
    }
    number = store.started("python benchmarks/cpu.py", machine, {})
    for row in (result(), result("mobilenet_v2"), result("resnet50", (720, 1280))):
        key = f"{row['model']}/{row['size'][0]}x{row['size'][1]}"
        store.put("synthetic", key, row | {"run": number})
    store.put("synthetic", "broken/360x480", {"failed": "outputs | differ", "run": number})
    return store.document


def test_goals() -> None:
    rows = {r[0]: r for r in cpu_render.goals(document())}
    still = next(r for k, r in rows.items() if k.startswith("still"))
    assert still[1:3] == ["0.02", "0.01"]
    assert still[-1] == "3 of 3"
    every = next(r for k, r in rows.items() if k.startswith("every pixel changes, speed over the best dense"))
    assert every[2] == "0.901"  # 10 ms dense, 11.1 ms streaming
    assert rows["every pixel changes, speed over the best PyTorch"][2] == "1.8"
    middle = rows["frame, efficiency at A/D 5 to 50 %, depthwise networks"]
    assert middle[-1] == "0 of 3"  # at 2, 5 and 10 % of the pixels; none reaches 1.1
    assert rows["real clips, speed-up over the MACs saved"][2] == "not measured"


def test_tables_hold_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- cpu:overview -->old<!-- /cpu:overview -->\n<!-- cpu:missing --><!-- /cpu:missing -->"
    )
    written = cpu_render.render(document(), tmp_path, page)
    assert {p.name for p in written} == {"cpu.md", "cpu.png", "page.md"}
    text = page.read_text()
    assert "old" not in text
    assert "| resnet50 | 720×1280 | 10.0 (openvino) | 100.00× |" in text
    assert "broken/360x480: outputs | differ" in text
    assert "onnxruntime: ImportError: none" in text
    again = fill(text, "cpu", cpu_render.sections(document()))
    assert again == text  # filling twice changes nothing
    assert (tmp_path / "cpu.png").stat().st_size < cpu_render.PLOT_BYTES


def test_marks_of_the_page_are_known() -> None:
    page = (ROOT / "docs" / "cpu.md").read_text(encoding="utf-8")
    marks = re.findall(r"<!-- cpu:(\w+) -->", page)
    assert set(marks) == set(cpu_render.sections(document()))
    with pytest.raises(ValueError, match="'other'"):
        fill("<!-- cpu:other --><!-- /cpu:other -->", "cpu", {})


def test_dense_runtimes_of_command_and_set_agree() -> None:
    from videoeff.cli.commands import bench

    assert bench.PEERS == PEERS
