"""What the tests of the build share: the C header as text, the tree, and what needs a compiler."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from videoeff.kernels.cpp import build, library

ROOT = Path(__file__).resolve().parents[2]
HEADER = build.SOURCES / "videoeff.h"
IN_TREE = Path("videoeff/kernels/cpp")

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "c++").split()[0]), reason="needs a C++ compiler; there is none"
)


def header() -> str:
    """The header without comments."""
    return re.sub(r"//[^\n]*", "", HEADER.read_text(encoding="utf-8"))


def declarations() -> dict[str, tuple[str, str]]:
    """Result and arguments of each function, as they stand in the header."""
    found = re.findall(r"VF_API ([\w ]+?[ *])(vf_\w+)\(([^)]*)\);", header())
    return {name: (result.strip(), " ".join(arguments.split())) for result, name, arguments in found}


def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has no compiler."""
    empty = tmp_path / "empty"
    empty.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("CXX", "LD_PRELOAD", library.VARIABLE)}
    return {**kept, "PATH": str(empty)}
