"""Fixtures of the tests of the build: small sources, and a process that has not looked for the library."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.native_interface import HEADER, declarations
from videoeff.kernels.cpp import build, library

# Every function of the header over nothing, which compiles in a second.
PLAN = """
#include "videoeff.h"
#include <vector>
struct vf_plan { std::vector<vf_op> ops; };
extern "C" {
int32_t vf_abi(void) { return VF_ABI; }
int32_t vf_best_isa(void) { return VF_X86; }
"""
WHOLE = ("vf_abi", "vf_layout", "vf_best_isa")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of small sources that give a whole library."""
    folder = tmp_path / "src"
    for part in ("isa", "plan"):
        (folder / part).mkdir(parents=True)
    shutil.copy(HEADER, folder)
    shutil.copy(build.SOURCES / "plan" / "layout.cpp", folder / "plan")
    (folder / "isa" / "kernels.cpp").write_text(
        "#define JOIN(a, b) a##b\n#define NAME(b) JOIN(kernels_, b)\nint NAME(VF_ISA)() { return VF_ISA; }\n"
    )
    rest = [
        f"{result} {name}({arguments}) {{ {'' if result == 'void' else 'return 0;'} }}\n"
        for name, (result, arguments) in declarations().items()
        if name not in WHOLE
    ]
    (folder / "plan" / "plan.cpp").write_text(f"{PLAN}{''.join(rest)}}}\n")
    return folder


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question looks for the library anew, and the warning was not given yet."""
    monkeypatch.setattr(library, "_find", library._find.__wrapped__)
    monkeypatch.setattr(library, "_warned", type(library._warned)())
