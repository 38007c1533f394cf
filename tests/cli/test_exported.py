"""Exported programs that call operators of torchvision, read in a process that has not imported it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

READ = """
import sys
from pathlib import Path
from videoeff.cli.shared.exported import load_export
assert "torchvision" not in sys.modules
program = load_export(Path(sys.argv[1]))
print([str(n.target) for n in program.graph.nodes if "torchvision" in str(n.target)])
"""


class Deformed(nn.Module):
    """A convolution, and a deformable one whose offsets it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.weight = nn.Conv2d(3, 18, 3, padding=1), nn.Parameter(torch.rand(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        """The deformed map."""
        result: Tensor = deform_conv2d(x, self.offsets(x), self.weight, padding=1)
        return result


def test_operators_of_torchvision_are_imported(tmp_path: Path) -> None:
    path = tmp_path / "deformed.pt2"
    torch.export.save(torch.export.export(Deformed().eval(), (torch.rand(1, 3, 16, 16),)), path)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "torchvision.deform_conv2d.default" in done.stdout
