"""The detectors' benchmark: reading outputs, agreement, intervals, tables; and a run on a clip of its own."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from videoeff.calibration.metrics import Score
from videoeff.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 96)


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules, which lie beside each other and are no package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    names = ("detectors_data", "detectors_score", "detectors_run", "detectors_render", "detectors")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def score(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["detectors_score"]


# ---------------------------------------------------------------- agreement


def fastestdet(*cells: tuple[int, int, int, float]) -> np.ndarray[Any, Any]:
    """An output with a class and its score at some cells (row, column)."""
    output = np.zeros((1, 85, SIZE[0] // 16, SIZE[1] // 16), np.float32)
    for row, column, label, score in cells:
        output[0, 0, row, column] = 1.0
        output[0, 5 + label, row, column] = score ** (1 / 0.4)
    return output


def test_agreement(score: ModuleType) -> None:
    judge = score.Judge(score.DETECTORS["fastestdet"].decoder(SIZE))
    dense = judge.read(fastestdet((0, 0, 7, 0.6), (2, 3, 7, 0.45), (3, 5, 8, 0.36)))
    ours = judge.read(fastestdet((0, 0, 7, 0.38), (2, 3, 7, 0.45), (1, 5, 9, 0.55)))
    assert judge.count(dense) == judge.count(ours) == 2
    agreement = score.Agreement(judge)
    agreement.add(ours, dense)
    found = agreement.to_json(score.Agreement(judge, settled=agreement.settled))
    assert found["f1"]["value"] == 0.5  # above 0.4: two here, two there, one of them the same
    # Above 0.5 the dense one of class 7, found again here at 0.38; ours of class 9 is nowhere in the other.
    assert found["settled"] == {"value": 0.5, "low": None, "high": None}
    assert found["settled_over_int8"]["value"] == 0
    assert found["error"] > 0
    assert score.Agreement(judge, [], [], [Score(0, 0)]).to_json()["error"] is None


def test_yolox_is_read_raw(score: ModuleType) -> None:
    output = np.zeros((1, 8 * 12 + 4 * 6 + 2 * 3, 85), np.float32)
    output[0, 100, [4, 6]] = 1.0
    (found,) = score.Judge(score.DETECTORS["yolox_nano"].decoder(SIZE)).read(output).found
    assert found.boxes.tolist() == [[4 * 16 - 8, -8, 4 * 16 + 8, 8]]


# ---------------------------------------------------------------- data


def test_what_is_missing_says_where_it_comes_from(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    data = scripts["detectors_data"]
    (tmp_path / "campus.avi").touch()
    text = data.missing(tmp_path, ["campus.avi", "fastestdet.pt2"])
    assert "campus" not in text
    assert "fastestdet.pt2 is missing: github.com/dog-qiuqiu/FastestDet" in text
    assert 'torch.export.save(exported, "fastestdet.pt2")' in text
    named = {c.file for c in data.CLIPS.values()}
    named |= {f"{name}.pt2" for name in scripts["detectors_score"].DETECTORS}
    assert named == set(data.SOURCES)
    assert all(side % 32 == 0 for clip in data.CLIPS.values() for side in clip.size)


def test_disturbances(scripts: dict[str, ModuleType]) -> None:
    controls = scripts["detectors_data"].CONTROLS
    frame = np.full((40, 60, 3), 128, np.uint8)
    frame[:, 31:] = 160, 120, 90
    for name, sigma in (("noise, σ = 1", 1), ("noise, σ = 2", 2)):
        moved = controls[name](frame, np.random.default_rng(0)).astype(float) - frame
        assert moved.std() == pytest.approx(math.sqrt(sigma**2 + 1 / 12), rel=0.05)
    coded = controls["JPEG 95"](frame, np.random.default_rng(0))
    assert coded.shape == frame.shape
    assert 0 < np.abs(coded.astype(int) - frame).max() < 30


# ---------------------------------------------------------------- tables


def calibration() -> dict[str, Any]:
    def point(label: str, work: float, settled: float) -> dict[str, Any]:
        figure = {"value": settled, "low": settled - 0.01, "high": settled, "frames": 9}
        return {"label": label, "work": work, "figure": figure, "ms": 1.0}

    held = point("input 12 grey levels, reach 0", 0.3, 0.9999)
    return {"budget": "settled=0.97", "kept": False, "limit": 0.97, "held_limit": 0.97, "held": held,
            "curve": [point("exact", 0.8, 1.0), held], "seconds": [30.2, 40.6], "notes": []}  # fmt: skip


def document() -> dict[str, Any]:
    def told(label: str, group: str, settled: float, **more: Any) -> dict[str, Any]:
        figure = {"value": settled, "low": settled - 0.01, "high": min(1.0, settled + 0.01)}
        return {"label": label, "group": group, "f1": figure, "settled": figure, "error": 0.02, **more}

    def ms(value: float) -> dict[str, Any]:
        return {"ms": value, "spread": {"median": value, "low": value, "high": value}, "worst_ms": value}

    over = {"value": 0.02, "low": -0.01, "high": 0.04}
    contenders = [
        {"label": "eager", "group": "float32", **ms(20.0)},
        told("openvino", "float32", 1.0, **ms(8.0)),
        told("openvino-bf16", "coarse", 0.98, **ms(5.0)),
        told("openvino-int8", "coarse", 0.95, **ms(4.0)),
        told("every 2nd frame", "skip", 0.96, ms=4.0, worst_ms=8.0, needed=0.5, settled_over_int8=over),
        told("every 4th frame", "skip", 0.91, ms=2.0, worst_ms=8.0, needed=0.25),
        told("videoeff, τ = 0", "stream", 1.0, needed=0.8, scheduled=0.8, **ms(9.0)),
        told("videoeff, settled kept", "stream", 0.9999, needed=0.3, scheduled=0.31, **ms(3.0)),
        told("videoeff, τ = 0.1", "stream", 0.94, needed=0.2, scheduled=0.2, **ms(2.5)),
        told("videoeff, as close as int8", "stream", 0.93, needed=0.1, scheduled=0.1, **ms(2.0)),
        told("noise, σ = 2", "control", 0.97),
    ]
    row = {
        "network": "fastestdet", "clip": "campus", "size": [352, 480], "frames": [301, 420], "changed": 0.025,
        "detections": 20.0, "best": "openvino", "contenders": contenders, "run": 0,
        "failed_contenders": {"compile": "RuntimeError: no compiler"},
        "calibrations": {"videoeff, settled kept": calibration()},
    }  # fmt: skip
    about = {"cpu": "a CPU", "cores": 2, "instruction_sets": ["avx2"], "threads": 2, "python": "3",
             "caches": {"L2": "1M"}, "versions": {"torch": "2"}}  # fmt: skip
    bad = {"network": "yolox_nano", "clip": "campus", "failed": "outputs differ", "run": 0}
    return {
        "runs": [{"command": "python benchmarks/detectors.py", "machine": about}],
        "sections": {"detectors": {"fastestdet/campus": row, "yolox_nano/campus": bad}},
    }


def cells(line: str) -> list[str]:
    return [c.strip() for c in line.strip("|").split("|")]


def test_the_short_table(scripts: dict[str, ModuleType]) -> None:
    lines = scripts["detectors_render"].short(document()).splitlines()
    head, rows = cells(lines[0]), [cells(line) for line in lines[2:11]]
    assert len(head) == 8
    assert head[2::3] == ["FastestDet: ms (MACs)", "YOLOX-Nano: ms (MACs)"]
    assert [row[:5] for row in rows] == [
        ["campus", "best float32", "8.00 (openvino)", "", ""],
        ["", "OpenVINO bfloat16", "5.00", ".980 / .980", "0.02"],
        ["", "OpenVINO int8", "4.00", ".950 / .950", "0.02"],
        ["", "every 2nd frame", "4.00 (50 %)", ".960 / .960", "0.02"],
        ["", "every 4th frame", "2.00 (25 %)", ".910 / .910", "0.02"],
        ["", "videoeff, τ = 0", "9.00 (80 %)", "1 / 1", "0.02"],
        ["", "videoeff, τ = 0.1", "2.50 (20 %)", ".940 / .940", "0.02"],
        # The quickest that agrees no less than int8; .9999 is not rounded to 1.
        ["", "videoeff, settled kept", "**3.00** (30 %)", ".999 / .999", "0.02"],
        ["", "videoeff, as close as int8", "2.00 (10 %)", ".930 / .930", "0.02"],
    ]
    assert all(row[5:] == ["–", "–", "–"] for row in rows)  # YOLOX-Nano failed there
    assert lines[11] == ""
    assert "noise of σ = 2 grey levels: campus .970 / .970 and –." in lines[12]


def test_the_short_table_of_all_clips_is_small(scripts: dict[str, ModuleType]) -> None:
    everything = document()
    row = everything["sections"]["detectors"]["fastestdet/campus"]
    everything["sections"]["detectors"] = {
        f"{network}/{clip}": row | {"network": network, "clip": clip}
        for network in scripts["detectors_score"].DETECTORS
        for clip in scripts["detectors_data"].CLIPS
    }
    lines = scripts["detectors_render"].short(everything).splitlines()
    table = [cells(line) for line in lines if line.startswith("|")][2:]
    assert len(table) == 36
    assert [row[0] for row in table if row[0]] == list(scripts["detectors_data"].CLIPS)
    assert all(row[2:5] == row[5:] and "–" not in row for row in table)


def test_the_full_table(scripts: dict[str, ModuleType]) -> None:
    text = scripts["detectors_render"].tables(document())
    assert "compile did not take part: RuntimeError: no compiler." in text
    assert "YOLOX-Nano on campus\n\nNot measured: outputs differ" in text
    line = next(x for x in text.splitlines() if "every 2nd" in x)
    assert "| *every 2nd frame* | 4.00 | 8.00 | 50 % |  | 0.960 (0.950–0.970) |" in line
    assert "| +0.020 (−0.010 to +0.040) | 0.02 |" in line
    assert "| openvino, the best | 8.00 (8.00–8.00) |" in text


def test_the_table_of_calibrations(scripts: dict[str, ModuleType]) -> None:
    """A line for each: what it gave where nothing was chosen, what stands beside it, whether it kept."""
    lines = scripts["detectors_render"].calibrations(document()).splitlines()
    assert [cells(line) for line in lines[2:]] == [
        ["campus, FastestDet", "settled=0.97: not kept", "1.000 (0.990–1.000)", "30 %", "3.00",
         ".960, 4.00 ms", ".950, 4.00 ms", "input 12 grey levels, reach 0", "41"]
    ]  # fmt: skip


def test_the_curves(scripts: dict[str, ModuleType]) -> None:
    """In the order of work; the clip is named once."""
    lines = scripts["detectors_render"].curves(document()).splitlines()
    rows = [cells(line) for line in lines[2:]]
    assert [row[0] for row in rows] == ["campus, FastestDet", ""]
    assert [row[2] for row in rows] == ["30 %", "80 %"]


def test_budgets(scripts: dict[str, ModuleType]) -> None:
    """A word stands for a figure that depends on network and clip; int8 is itself."""
    budget_of = importlib.import_module("detectors_calibrate").budget_of
    assert budget_of("settled", "yolox_nano", "campus") == "settled=0.99"
    assert budget_of("settled", "fastestdet", "campus") == "settled=0.98"
    assert budget_of("settled", "fastestdet", "car") == "settled=0.97"
    assert budget_of("int8", "fastestdet", "car") == "int8"


def test_pages_are_filled_where_they_are_marked(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    marked, other = tmp_path / "marked.md", tmp_path / "other.md"
    marked.write_text(
        "a\n<!-- detectors:begin -->stale<!-- detectors:end -->\nb\n"
        "<!-- detectors:tables -->old<!-- /detectors:tables -->\nc"
    )
    other.write_text("no marks")
    render = scripts["detectors_render"].render
    written = render(document(), tmp_path / "all.md", [marked, other, tmp_path / "absent.md"])
    assert [p.name for p in written] == ["all.md", "marked.md"]
    text = marked.read_text()
    assert text.startswith("a\n<!-- detectors:begin -->\n\n| clip |")
    assert "**3.00** (30 %)" in text
    assert text.index("<!-- detectors:end -->\nb") < text.index("### FastestDet on campus, 352×480")
    assert text.endswith("<!-- /detectors:tables -->\nc")
    assert "stale" not in text
    assert ">old<" not in text
    render(document(), tmp_path / "all.md", [marked])
    assert marked.read_text() == text
    assert other.read_text() == "no marks"


def test_reasons_hold_no_paths(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    options = type("Options", (), {"data": tmp_path / "data", "cache": tmp_path / "cache"})
    text = scripts["detectors"].cleaned(f"FileNotFoundError: {tmp_path / 'data' / 'net.pt2'}", options)
    assert text == "FileNotFoundError: data/net.pt2"


# ---------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("off", "threshold", "outcome"),
    [
        (2e-5, 0.0, "within"),
        (3e-4, 0.0, "explained"),
        (5e-4, 0.0, "refused"),
        (0.1, 0.0, "refused"),
        (math.nan, 0.0, "refused"),
        (0.1, 0.05, "within"),
    ],
)
def test_float64_tells_rounding_from_a_fault(
    scripts: dict[str, ModuleType], off: float, threshold: float, outcome: str
) -> None:
    """Eager PyTorch is off by 1e-4 of the network in float64."""
    run = scripts["detectors_run"]
    exact = np.array([1.0, 0.5])
    eager = (exact - 1e-4).astype(np.float32)

    class Bench(run.Bench):  # type: ignore[misc,name-defined]  # a module that is imported by name
        def __init__(self) -> None:
            self.contenders = {"stream": run.Contender(None, {"threshold": threshold})}
            self.detector = type("Net", (), {"name": "net"})
            self.setting = type("Setting", (), {"clip": Path("clip.avi")})
            self.notes: list[str] = []
            self.note = self.notes.append

        def _arrays(self, label: str, file: str, first: int, count: int, **request: Any) -> dict[str, Any]:
            assert (label, file, first, count, request) == ("eager", "clip.npy", 3, 1, {"float64": True})
            return {"exact0_0": exact, "eager0_0": eager, "last0_0": eager}

    bench = Bench()
    bench._compare("stream", [(exact + off - 1e-4 * (off < 1e-4)).astype(np.float32)], [eager], 3)
    if outcome == "refused":
        with pytest.raises(BackendError, match=r"net on clip\.avi: outputs differ .* nothing was timed"):
            bench._check()
    else:
        bench._check()
    assert bool(bench.notes) is (outcome == "explained")


# ---------------------------------------------------------------- the whole


@pytest.mark.real
@pytest.mark.slow
def test_a_run(shared_data: Path, tmp_path: Path) -> None:
    """Few frames, no packages but PyTorch: all rows, in the order they are shown, no path of this machine."""
    result, page = tmp_path / "detectors.json", tmp_path / "page.md"
    page.write_text("<!-- detectors:begin --><!-- detectors:end -->")
    command = [
        sys.executable, ROOT / "benchmarks" / "detectors.py", "--data", shared_data, "--networks",
        "fastestdet", "--clips", "campus", "--peers", "eager", "--budgets", "--frames", 5, "--block", 2,
        "--passes", 1, "--threads", 1, "--cache", tmp_path / "cache", "--json", result, "--pages", page,
    ]  # fmt: skip
    subprocess.run([str(c) for c in command], check=True, timeout=280, capture_output=True, cwd=ROOT)
    text = result.read_text()
    assert str(shared_data) not in text
    assert str(tmp_path) not in text
    row = json.loads(text)["sections"]["detectors"]["fastestdet/campus"]
    found = {c["label"]: c for c in row["contenders"]}
    assert list(found) == [
        "eager", "every 2nd frame", "every 4th frame", "videoeff, τ = 0", "videoeff, τ = 0.1", "noise, σ = 1",
        "noise, σ = 2", "JPEG 95",
    ]  # fmt: skip
    assert row["frames"] == [531, 535]
    assert found["eager"]["spread"]["count"] == 5
    exact, lossy = found["videoeff, τ = 0"], found["videoeff, τ = 0.1"]
    assert exact["f1"]["value"] == exact["settled"]["value"] == 1
    assert exact["difference"] < 1e-4
    assert 0 < lossy["needed"] < 0.5 < exact["needed"] < 1
    assert lossy["error"] > 1e-3
    assert found["every 2nd frame"]["ms"] == pytest.approx(found["eager"]["ms"] / 2)
    assert "| campus | best float32 |" in page.read_text()
