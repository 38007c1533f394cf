"""The documents' own code runs, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from videoeff import convert
from videoeff.capture.export import capture
from videoeff.passes.base import Pass, parse_options

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def code_of(page: str) -> str:
    """The Python blocks of a page, one after the other."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks: list[str] = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks, f"{page} has no Python block"
    return "\n\n".join(blocks)


def run_page(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Python blocks of a page define, run in a folder of their own."""
    monkeypatch.chdir(folder)
    file = folder / f"{Path(page).stem}.py"
    file.write_text(code_of(page), encoding="utf-8")
    return runpy.run_path(str(file), run_name=file.stem)


def test_choosing_settings_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run_page("choosing_settings.md", tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "MACs per frame" in printed
    assert (tmp_path / "thresholds.json").exists()
    # A still scene with noise: the threshold that the page takes from two frames holds all of it back.
    noisy = [
        0.3 + 0.4 * (torch.arange(96).view(-1, 1) % 2) + 0.02 * torch.randn(1, 3, 96, 128) for _ in range(4)
    ]
    threshold = found["input_threshold_of"](noisy[0], noisy[1])
    assert threshold == pytest.approx(2 * 0.02 / float(noisy[0].std(correction=0)), rel=0.05)
    stream = convert(found["model"], noisy[0], threshold=0.1, block=8, dilation=1, input_threshold=threshold)
    for frame in noisy:
        stream(frame)
    assert stream.report().macs["needed"] == 0
    stream = convert(found["model"], noisy[0], threshold=0.1, input_threshold=threshold)
    for frame in noisy:
        stream(frame)
    assert stream.report().macs["needed"] > 0


class Clamped(nn.Module):
    """Two clamps, one of them a ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y.clamp(0, 6) + y.clamp(0, 5)


def test_the_pass_of_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "writing_a_pass.md").read_text(encoding="utf-8")
    source = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    file = tmp_path / "clamp_to_relu6.py"
    file.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("clamp_to_relu6", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "clamp_to_relu6", module)
    spec.loader.exec_module(module)
    kind: type[Pass] = module.ClampToRelu6
    example = torch.randn(1, 3, 8, 8)
    program = capture(Clamped().eval(), (example,))
    result = kind().run(program)
    names = [str(n.target) for n in result.program.nodes if n.op == "call_function"]
    assert names.count("aten.hardtanh.default") == 1
    assert names.count("aten.clamp.default") == 1
    assert any("is no ReLU6" in note for note in result.notes)
    with torch.no_grad():
        assert torch.equal(result.program.run(example)[0], program.run(example)[0])
    assert str(parse_options(kind, "limit=5")) == "clamp-to-relu6{limit=5.0}"
    again = kind().run(result.program)
    assert not again.changed
    assert str(again.program) == str(result.program)


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"]
    checked = 0
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if target.startswith(("http:", "https:")):
                continue
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"
            checked += 1
    assert checked > 0
