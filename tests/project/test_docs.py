"""The documents' own code runs, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from videoeff.capture.export import capture
from videoeff.passes.base import Pass, parse_options

ROOT = Path(__file__).resolve().parents[2]


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
