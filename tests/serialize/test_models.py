"""Models by reference: what resolves, and what is trusted."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from videoeff.errors import (
    ArtifactError,
    CaptureError,
)
from videoeff.serialize.models import build, build_trusted


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("resnet18", "write torchvision:NAME"),
        ("torchvision:", "write torchvision:NAME"),
        ("torchvision:resnet19", "torchvision has no model 'resnet19'; similar: "),
        ("timm:no_such_net", "timm"),
        ("no_such_package.module:f", "cannot be imported"),
        ("absent.py:f", r"absent\.py: no such file"),
        ("os.path:nothing", "no callable 'nothing'"),
        ("os:getcwd", "made a str, expected a torch.nn.Module"),
    ],
)
def test_references_that_do_not_resolve(reference: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        build(reference)


def test_a_timm_name_with_weights_is_its_architecture() -> None:
    pytest.importorskip("timm", reason="needs the package of videoeff[timm]")
    assert type(build("timm:test_resnet.r160_in1k")) is type(build("timm:test_resnet"))


def test_a_file_whose_code_fails(tmp_path: Path) -> None:
    source = tmp_path / "net.py"
    source.write_text(
        "import torch\nnet = torch.nn.Conv2d(3, 4, 3)\n\ndef broken():\n    raise ValueError('x')\n"
    )
    assert isinstance(build(f"{source}:net"), nn.Conv2d)
    with pytest.raises(CaptureError, match="failed when called: ValueError: x"):
        build(f"{source}:broken")
    source.write_text("import nothing_of_that_name\n")
    with pytest.raises(CaptureError, match="failed while it was run: ModuleNotFoundError"):
        build(f"{source}:net")
    source.write_text("def f(:\n")
    with pytest.raises(CaptureError, match="SyntaxError"):
        build(f"{source}:f")


@pytest.mark.parametrize(
    "reference", ["os:getcwd", "net.py:f", "", "posix:system", "torchvision.models:resnet18"]
)
def test_references_of_files_are_trusted_by_library_only(reference: str) -> None:
    with pytest.raises(ArtifactError, match=r"a\.veff: .*build it yourself"):
        build_trusted(reference, "a.veff")
