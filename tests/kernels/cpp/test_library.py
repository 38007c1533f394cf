"""The native library is looked for; where there is none, the reason is said and the reference computes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests.support.native_interface import IN_TREE, ROOT, without_compiler
from videoeff.errors import BackendError
from videoeff.kernels.cpp import build, library

CONVERT = """
import warnings
import torch, videoeff
from videoeff.kernels.cpp import library
print(library.unavailable())
assert library.isa_names() == ()
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
x = torch.rand(1, 3, 8, 8)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    streams = [videoeff.convert(net, x), videoeff.convert(net, x)]
assert all(torch.allclose(s(x), net(x), atol=1e-5) for s in streams)
for w in seen:
    print(w.category.__name__, w.filename, w.message)
try:
    videoeff.convert(net, x, backend="cpp")
except videoeff.errors.BackendError as error:
    print("BackendError", error)
"""


def test_without_a_compiler(tmp_path: Path) -> None:
    copy = tmp_path / "tree"
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "videoeff", copy / "videoeff", ignore=leave)
    environment = without_compiler(tmp_path)

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)

    script = str(copy / IN_TREE / "build.py")
    refused = python("-P", script)
    assert refused.returncode == 1
    assert "no C++ compiler was found" in refused.stderr
    optional = python("-P", script, "--optional", "--if-changed")
    assert optional.returncode == 0
    assert "Until then the reference computes" in optional.stderr

    done = python("-c", CONVERT)
    assert done.returncode == 0, done.stderr
    reason, *warned, error = done.stdout.splitlines()
    assert "no C++ compiler was found" in reason
    assert reason.endswith("then run `python -m videoeff.kernels.cpp.build`")
    assert warned == [
        f"UserWarning <string> videoeff computes with the slow reference backend: no native library, {reason}"
    ]
    assert error.startswith("BackendError")
    assert "no C++ compiler was found" in error


@pytest.mark.usefixtures("forgetful")
def test_another_build_is_named_by_a_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "other.so"
    monkeypatch.setenv(library.VARIABLE, str(path))
    assert library.unavailable() == f"{path} is not there (VIDEOEFF_NATIVE names it)"
    with pytest.raises(BackendError, match=r"no native library: .*other\.so is not there"):
        library.load()
    assert library.isa_names() == ()


@pytest.mark.usefixtures("forgetful")
def test_warned_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path / "other.so"))
    with pytest.warns(UserWarning, match="slow reference backend: no native library") as seen:
        library.warn_if_missing()
    assert seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        library.warn_if_missing()


def test_the_compiler_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(build.NoCompilerError, match="CXX names 'no-such-compiler -m64', which was not found"):
        build.find_compiler()
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    assert build.find_compiler() == [str(compiler), "-m64"]
    with pytest.raises(build.BuildError, match="says nothing"):
        build.compiler_version(build.find_compiler())
