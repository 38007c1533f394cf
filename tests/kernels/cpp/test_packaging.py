"""Wheels and source archives carry the native library and its sources."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.native_interface import IN_TREE, ROOT, needs_compiler, without_compiler
from videoeff.kernels.cpp import build, library


def copy_of_the_tree(to: Path) -> Path:
    """The sources as they are, without anything that was built."""
    leave = shutil.ignore_patterns(
        ".*cache", ".git", ".venv", ".hypothesis", "*.so", "__pycache__", "dist", "build"
    )
    shutil.copytree(ROOT, to, ignore=leave)
    return to


def pack(tree: Path, kind: str, environment: dict[str, str] | None = None) -> tuple[Path, str]:
    """The one file hatchling builds, and what it said."""
    pytest.importorskip("hatchling.build", reason="needs hatchling, which `make setup` installs")
    out = tree.parent / f"dist-{kind}"
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = out.iterdir()
    return path, done.stdout + done.stderr


@needs_compiler
def test_wheel_carries_the_library(sources: Path, tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    shutil.rmtree(tree / IN_TREE / "src")
    shutil.copytree(sources, tree / IN_TREE / "src")
    path, _ = pack(tree, "wheel")
    assert re.fullmatch(r"videoeff-[\d.]+-py3-none-(?!any)\w+\.whl", path.name)
    with zipfile.ZipFile(path) as wheel:
        wheel.extractall(tmp_path / "installed")
    installed = tmp_path / "installed" / IN_TREE
    assert library.open_library(installed / "_native.so", installed / "src").best_isa == int(build.X86)


def test_wheel_without_a_compiler_is_pure(tmp_path: Path) -> None:
    tree = copy_of_the_tree(tmp_path / "tree")
    (tree / IN_TREE / "_native.so").write_bytes(b"of an earlier version")
    path, said = pack(tree, "wheel", without_compiler(tmp_path))
    assert path.name.endswith("-py3-none-any.whl")
    assert len([line for line in said.splitlines() if "the slow reference will compute" in line]) == 1
    names = zipfile.ZipFile(path).namelist()
    to_compile_later = {p.relative_to(ROOT).as_posix() for p in build.source_files()}
    assert to_compile_later <= set(names)
    assert not [name for name in names if name.endswith(".so")]


def test_sdist_carries_the_sources(tmp_path: Path) -> None:
    path, _ = pack(copy_of_the_tree(tmp_path / "tree"), "sdist")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "hatch_build.py" in names
    assert {p.relative_to(ROOT).as_posix() for p in build.source_files()} <= names
    assert not [name for name in names if name.endswith(".so")]
