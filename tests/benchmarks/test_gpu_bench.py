"""The GPU benchmark without a GPU: its order, its arithmetic, and what it makes of made-up results."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "cpu": "a CPU", "cores": 16, "python": "3.12.3", "versions": {"torch": "2.11.0"}, "gpu": "NVIDIA H200",
    "capability": "sm_90", "multiprocessors": 132, "memory": 141 << 30, "driver": "580.1", "cuda": "13.0",
    "cudnn": 91000, "triton": "3.6.0", "matmul_tflops": 700.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The benchmark's modules, which lie beside each other and are no package."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    names = ("gpu_render", "gpu", "gpu_units")
    yield {name: importlib.import_module(name) for name in names}
    sys.path.remove(str(ROOT / "benchmarks"))
    for name in names:
        del sys.modules[name]


def summary(median: float) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median, "min": 0.8 * median, "count": 9}


def row(model: str, streams: int, times: dict[float, float], dense: dict[str, float]) -> dict[str, Any]:
    """A row as the measuring side gives it."""
    return {
        "model": model,
        "size": [1080, 1920],
        "streams": streams,
        "dtype": "float16",
        "state_bytes": 1_000_000,
        "kernels": 57,
        "chain": 41,
        "error": 1e-3,
        "dense": {k: summary(v) for k, v in dense.items()} | {"compile": {"failed": "not ready within 9 s"}},
        "stream": [
            {
                "share": share, "threshold": 0.0, "changed": share, "spread": summary(ms), "host_us": 31.0,
                "dense_macs": 1e12, "needed_share": share, "scheduled_share": 2 * share if share < 1 else 1.0,
            }
            for share, ms in times.items()
        ],
    }  # fmt: skip


def document(gpu_render: ModuleType) -> dict[str, Any]:
    """Made-up results: one of the goals' networks measured, the other failed."""
    times = {0.05: 2.0, 0.1: 4.0, 0.0: 0.5, 1.0: 11.0}
    made = row("resnet50", 8, times, {"eager": 12.0, "cudnn-graph": 10.0})
    return {
        "format": "videoeff-bench-1",
        "runs": [{"command": "python benchmarks/gpu.py", "machine": MACHINE, "settings": {}}],
        "sections": {
            "parity": {"float16": {"error": 1e-4, "limit": 2e-2, "run": 0}},
            "frames": {
                "resnet50/1080x1920/8/float16": gpu_render.compared(made, 700.0) | {"run": 0},
                "hrnet_w18/1056x1920/8/float16": {"failed": "OutOfMemoryError: too much", "run": 0},
            },
            "convolutions": {
                "3x3 64->64 on 270x480": {
                    "ratio": 0.8, "ms": 0.1, "cudnn_ms": 0.08, "macs": 38e9, "tflops": 760.0, "run": 0,
                }
            },
            "summaries": {
                "convolutions": {
                    "geometric_mean": 0.8, "worst": 0.8, "worst_shape": "3x3 64->64 on 270x480", "shapes": 1,
                    "failed_shapes": 0, "all_shapes": 9, "share_of_macs": 0.25, "run": 0,
                }
            },
        },
    }  # fmt: skip


EMPTY: dict[str, Any] = {"format": "videoeff-bench-1", "runs": [], "sections": {}}


# ---------------------------------------------------------------- arithmetic


def test_what_follows_from_the_times(scripts: dict[str, ModuleType]) -> None:
    render = scripts["gpu_render"]
    made = render.compared(row("resnet50", 8, {0.05: 2.0}, {"eager": 12.0, "cudnn-graph": 10.0}), 700.0)
    (one,) = made["stream"]
    assert (one["best_peer"], one["best_peer_ms"]) == ("cudnn-graph", 10.0)
    assert one["speedup"] == 5.0
    assert one["efficiency"] == pytest.approx(10.0 * 0.1 / 2.0)
    assert one["dense_tflops"] == pytest.approx(2 * 1e12 / 2e-3 / 1e12)
    assert one["scheduled_tflops"] == pytest.approx(100.0)
    assert one["share_of_peak"] == pytest.approx(100.0 / 700.0)


def test_without_a_peer_there_is_no_speed_up(scripts: dict[str, ModuleType]) -> None:
    (one,) = scripts["gpu_render"].compared(row("resnet50", 8, {0.05: 2.0}, {}), 700.0)["stream"]
    assert one["best_peer"] is None
    assert "speedup" not in one


# ---------------------------------------------------------------- goals


def test_goals_without_results_say_not_measured_and_nothing_else(scripts: dict[str, ModuleType]) -> None:
    rows = scripts["gpu_render"].goals(EMPTY)
    assert len(rows) == 16
    assert all(r[2] == "not measured" for r in rows)
    wanted = {(r[0], r[1]) for r in rows}
    assert ("1080p, 8 streams, 5 % changed, hrnet_w18", "4×") in wanted
    assert ("host time per frame", "under 50 µs") in wanted


def test_goals_beside_what_was_measured(scripts: dict[str, ModuleType]) -> None:
    render = scripts["gpu_render"]
    rows = {r[0]: r[2] for r in render.goals(document(render))}
    assert rows["1080p, 8 streams, 5 % changed, resnet50"] == (
        "5.00× over cudnn-graph, without compile, compile-graph: yes"
    )
    assert rows["1080p, 8 streams, 10 % changed, resnet50"].startswith("2.50×")
    assert rows["1080p, 8 streams, 10 % changed, resnet50"].endswith(": no")
    assert rows["still picture, 1080p, 8 streams, resnet50"].startswith("20.00×")
    assert rows["every pixel changes, 1080p, 8 streams, resnet50"].endswith(": no")
    assert rows["1080p, 1 stream, 5 % changed, resnet50"] == "not measured"
    assert rows["1080p, 8 streams, 5 % changed, hrnet_w18"] == "not measured"
    assert (
        "0.80× over 1 of 9 shapes with 25 % of the MACs"
        in rows["convolution kernel, full list, over cuDNN's (by MACs)"]
    )
    assert rows["host time per frame"].startswith("31 µs at most")


def test_goals_are_about_half_precision_at_1080p(scripts: dict[str, ModuleType]) -> None:
    render = scripts["gpu_render"]
    for change in ({"dtype": "float32"}, {"size": [720, 1280]}, {"streams": 4}):
        made = document(render)
        made["sections"]["frames"]["resnet50/1080x1920/8/float16"] |= change
        speeds = [r for r in render.goals(made) if "×" in r[1] and "convolution" not in r[0]]
        assert speeds
        assert all(r[2] == "not measured" for r in speeds)


# ---------------------------------------------------------------- rendering


def test_everything_is_written(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, which is not installed here")
    render = scripts["gpu_render"]
    page = tmp_path / "cuda.md"
    marks = [f"<!-- cuda:{n} -->\nstale\n<!-- /cuda:{n} -->" for n in render.sections(EMPTY)]
    page.write_text("before\n\n" + "\n\n".join(marks) + "\n\nafter\n", encoding="utf-8")
    written = render.render(document(render), tmp_path, page)
    assert [p.name for p in written] == ["gpu.md", "gpu.png", "cuda.md"]
    text = page.read_text(encoding="utf-8")
    assert "stale" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "NVIDIA H200, 141 GiB, driver 580.1" in text
    assert "hrnet_w18/1056x1920/8/float16: OutOfMemoryError: too much" in text
    full = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "### resnet50 at 1080×1920, 8 streams, float16" in full
    assert "not measured: not ready within 9 s" in full
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    again = render.render(document(render), tmp_path, page)
    assert [p.name for p in again] == ["gpu.md", "gpu.png", "cuda.md"]
    assert page.read_text(encoding="utf-8") == text


def test_what_lanes_are_worth(scripts: dict[str, ModuleType]) -> None:
    render = scripts["gpu_render"]
    made = row("hrnet_w18", 1, {0.05: 2.0, 0.0: 0.5}, {"eager": 12.0})
    assert render.one_lane(made) == ""
    slower = row("hrnet_w18", 1, {0.05: 3.0}, {})["stream"]
    text = render.one_lane(made | {"one_lane": slower})
    assert text == " With all of them one after the other 5.0 % changed takes 3.00 ms, 1.50 times as long."


def test_without_results_only_the_page_is_written(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    render = scripts["gpu_render"]
    page = tmp_path / "cuda.md"
    page.write_text("<!-- cuda:overview -->\n<!-- /cuda:overview -->\n", encoding="utf-8")
    assert render.render(EMPTY, tmp_path, page) == [page]
    assert "Not measured: no GPU was available." in page.read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cuda.md"]


def test_an_unknown_mark_is_an_error(scripts: dict[str, ModuleType]) -> None:
    with pytest.raises(ValueError, match="'other'"):
        scripts["gpu_render"].fill("<!-- cuda:other --><!-- /cuda:other -->", "cuda", {"goals": ""})


def test_the_page_holds_what_the_results_say(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    """docs/cuda.md is as `benchmarks/gpu.py --render` leaves it."""
    render = scripts["gpu_render"]
    results = ROOT / "benchmarks" / "results" / "gpu.json"
    found = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else EMPTY
    page = (ROOT / "docs" / "cuda.md").read_text(encoding="utf-8")
    assert render.fill(page, "cuda", render.sections(found)) == page


# ---------------------------------------------------------------- the order of work


def test_goals_come_first_and_nothing_twice(scripts: dict[str, ModuleType]) -> None:
    gpu = scripts["gpu"]
    found = gpu.steps(gpu.MODELS, gpu.SIZES, gpu.STREAMS, gpu.PARTS)
    frames = [(s.model.name, s.size, s.streams) for s in found if s.part == "frames"]
    assert frames[:4] == [
        ("resnet50", (1080, 1920), 8),
        ("hrnet_w18", (1080, 1920), 8),
        ("resnet50", (1080, 1920), 1),
        ("hrnet_w18", (1080, 1920), 1),
    ]
    assert len(frames) == len(set(frames)) == len(gpu.MODELS) * len(gpu.SIZES) * len(gpu.STREAMS)
    parts = [s.part for s in found]
    assert parts[4] == "convolutions"
    assert parts[5:13] == ["compiled"] * 4 + ["thresholds"] * 4
    assert set(parts[13:]) == {"frames"}


def test_less_can_be_asked_for(scripts: dict[str, ModuleType]) -> None:
    gpu = scripts["gpu"]
    models = [m for m in gpu.MODELS if m.name == "mobilenet_v2"]
    found = gpu.steps(models, [(720, 1280)], [4], ["frames", "compiled"])
    assert [(s.part, s.streams) for s in found] == [("frames", 4)]
    options = gpu.arguments(["--sizes", "720x1280", "--budget", "60"])
    assert (options.sizes, options.budget) == ([(720, 1280)], 60.0)
    assert gpu.arguments([]).budget < 8 * 60


@pytest.mark.parametrize(
    ("absent", "left", "said"),
    [
        ((), 6, []),
        (("timm",), 5, ["hrnet_w18: left out"]),
        (("torchvision",), 4, ["timm's mobilenetv2_100 instead", "fpn: left out"]),
        (("torchvision", "timm"), 0, ["resnet50: left out"]),
    ],
)
def test_networks_of_packages_that_are_not_there(
    scripts: dict[str, ModuleType], absent: tuple[str, ...], left: int, said: list[str]
) -> None:
    gpu = scripts["gpu"]
    models, notes = gpu.available(gpu.MODELS, lambda name: None if name in absent else object())
    assert len(models) == left
    assert bool(notes) == bool(absent)
    assert all(any(text in note for note in notes) for text in said)
    assert {m.name for m in models} <= {m.name for m in gpu.MODELS}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--json", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "gpu.json").exists()


# ---------------------------------------------------------------- clips and kernels ahead


@pytest.fixture(scope="module")
def measuring(scripts: dict[str, ModuleType]) -> Iterator[dict[str, ModuleType]]:
    """The modules that measure; importing them touches no device."""
    pytest.importorskip("triton", reason="needs triton, which is not installed here")
    names = ("gpu_frames", "gpu_compile", "gpu_kernels", "cpu_layers")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def test_a_clip_shown_forth_and_back_changes_as_much_in_every_step(
    measuring: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = measuring["gpu_frames"]
    monkeypatch.setattr(frames, "DEVICE", "cpu")
    clips = frames.Clips(torch.float32)
    batches = [clips.batch((36, 64), 0.1, 3, n) for n in range(2 * frames.CLIP + 2)]
    assert batches[0].shape == (3, 3, 36, 64)
    assert batches[0].is_contiguous(memory_format=torch.channels_last)
    for before, after in pairwise(batches):
        changed = (before != after).any(1).float().mean((1, 2))
        assert torch.allclose(changed, torch.full((3,), round(0.1 * 36 * 64) / (36 * 64)))
    assert clips.changed((36, 64), 0.1) == pytest.approx(0.1, abs=1e-3)
    assert torch.equal(clips.batch((36, 64), 0.0, 1, 0), clips.batch((36, 64), 0.0, 1, 5))
    assert clips.changed((36, 64), 0.0) == 0.0


def test_what_takes_too_long_is_given_up(measuring: dict[str, ModuleType]) -> None:
    frames = measuring["gpu_frames"]
    with pytest.raises(frames.TooSlow, match="not ready within"), frames.limited(0.05):
        time.sleep(60.0)
    with frames.limited(60.0):
        pass


def test_a_network_is_planned_for_a_gpu_that_is_not_there(measuring: dict[str, ModuleType]) -> None:
    ahead, kernels = measuring["gpu_compile"], measuring["gpu_kernels"]
    shape = measuring["cpu_layers"].Shape(16, 40, (3, 3), (1, 1), (1, 1), (1, 1), 2, 24, 32)
    reference = kernels.reference_of(shape)
    made = ahead.convolution(reference)
    assert (made.in_channels, made.out_channels, made.groups, made.padding) == (16, 40, 2, (1, 1))
    wanted = ahead.Ahead(reference, (24, 32), 2, "float16", 0.1, "NVIDIA H200", 90)
    found = ahead.launches(wanted)
    assert [x.kernel.__name__ for x in found] == ["begin", "arrived", "convolution"]
    assert found[-1].arguments["BM"] >= 64  # as a Hopper GPU wants it
    assert found[-1].arguments["out"][0].is_meta


def test_the_figures_of_the_convolutions(measuring: dict[str, ModuleType]) -> None:
    kernels = measuring["gpu_kernels"]
    rows = {"a": {"ratio": 1.0, "macs": 3.0}, "b": {"ratio": 0.25, "macs": 1.0}, "c": {"failed": "why"}}
    found = kernels.summary(rows, 8.0)
    assert found["geometric_mean"] == pytest.approx(0.25**0.25)
    assert (found["worst"], found["worst_shape"]) == (0.25, "b")
    assert (found["shapes"], found["failed_shapes"], found["share_of_macs"]) == (2, 1, 0.5)
    assert kernels.summary({"c": {"failed": "why"}}, 8.0) == {"shapes": 0, "failed_shapes": 1}


# ---------------------------------------------------------------- edges of units


@pytest.mark.parametrize(("edge", "expected"), [(1, (3, 3)), (2, (8, 2)), (4, (28, 2)), (8, (35, 1))])
def test_squares_that_cover_pixels(
    edge: int, expected: tuple[int, int], scripts: dict[str, ModuleType]
) -> None:
    """Counted by hand on a map of 5 x 7; squares end where the map does."""
    mask = torch.zeros(1, 5, 7, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 5] = True
    assert scripts["gpu_units"].covered(mask, edge) == expected


def test_units_of_a_frame(scripts: dict[str, ModuleType]) -> None:
    from types import SimpleNamespace

    calls = {
        "picture": SimpleNamespace(kind="input", extent=(1, 4, 4), macs=0),
        "conv": SimpleNamespace(kind="map", extent=(1, 4, 4), macs=160),
        "head": SimpleNamespace(kind="global", extent=(1, 1, 1), macs=5),
    }
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 3, 3] = True
    found = scripts["gpu_units"].frame_of(calls, dict.fromkeys(calls, mask))
    assert found == {"1": (10.0, 1), "2": (40.0, 1), "4": (160.0, 1), "8": (160.0, 1), "shipped": (10.0, 1)}
