"""The native library is built, described and refused; what is in it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.native_interface import needs_compiler
from videoeff.errors import BackendError
from videoeff.kernels.cpp import abi, build, library


@needs_compiler
def test_build_and_open(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "_native.so"
    info = build.build(path, sources=sources)
    assert info == build.read_info(path)
    assert info.compiler == build.compiler_version(build.find_compiler())
    found = library.open_library(path, sources)
    assert found.compiler == info.compiler
    assert found.best_isa == int(build.X86)
    ops, error = (abi.Op * 2)(), ctypes.create_string_buffer(100)
    assert found.vf_plan_create(ops, 2, (abi.Mask * 1)(), 1, -1, error, len(error)) is None
    assert [p.name for p in path.parent.iterdir()] == ["_native.so"]


@needs_compiler
def test_stale_library_is_noticed(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "_native.so"
    build.build(path, sources=sources)
    assert build.is_current(path, sources=sources)
    assert not build.is_current(path, ("address",), sources)
    with monkeypatch.context() as patch:  # other numbers
        patch.setattr(build, "NUMBERS", build.NUMBERS[:1])
        assert not build.is_current(path, sources=sources)
    (sources / "plan" / "plan.cpp").write_text((sources / "plan" / "plan.cpp").read_text() + "// changed\n")
    assert not build.is_current(path, sources=sources)
    with pytest.raises(BackendError, match=r"other sources.*python -m videoeff\.kernels\.cpp\.build"):
        library.open_library(path, sources)
    assert library.open_library(path).best_isa == int(build.X86)  # an installed package does not ask


@needs_compiler
def test_written_in_one_step(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lib" / "_native.so"
    path.parent.mkdir()
    path.write_bytes(b"the old one")
    seen = []

    def replace(partial: Path, target: Path) -> None:
        seen.append(
            (partial.parent == target.parent, target.read_bytes(), build.is_current(partial, (), sources))
        )
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(build.BuildError, match="no room"):
            build.build(path, sources=sources)
    assert seen == [(True, b"the old one", True)]
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"the old one"]


@needs_compiler
def test_what_the_compiler_said(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    (sources / "plan" / "plan.cpp").write_text("int broken() { return missing_name; }\n")
    with pytest.raises(build.BuildError, match=r"(?s)plan\.cpp was not built by.*missing_name"):
        build.build(path, sources=sources)
    (sources / "plan" / "plan.cpp").write_text("extern void nowhere(); void call() { nowhere(); }\n")
    with pytest.raises(build.BuildError, match=r"(?s)_native.* was not built by.*nowhere"):
        build.build(path, sources=sources)
    assert not path.exists()


@needs_compiler
@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "videoeff.h",
            "null\n} vf_view",
            "null\n  double more;\n} vf_view",
            "its vf_view has 88 bytes",
        ),
        ("videoeff.h", "int32_t op, dst,", "int32_t dst, op,", "its vf_epi.op lies at 4, wanted is 0"),
        ("videoeff.h", "int32_t nepi, nargs", "int32_t nepi, count", "it has no vf_op.nargs"),
        ("plan/plan.cpp", "return VF_ABI", "return VF_ABI + 1", f"its interface is number {abi.ABI + 1}"),
        ("plan/plan.cpp", "vf_best_isa(void)", "vf_no_isa(void)", "vf_best_isa"),
    ],
)
def test_another_interface_is_refused(
    sources: Path, tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    text = (sources / name).read_text()
    assert old in text
    (sources / name).write_text(text.replace(old, new))
    path = tmp_path / "_native.so"
    build.build(path, sources=sources)
    with pytest.raises(BackendError, match=re.escape(message)):
        library.open_library(path, sources)


@needs_compiler
def test_sanitized_build(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    with pytest.raises(build.BuildError, match="no sanitizer memory; there are address, undefined"):
        build.build(path, ("memory",), sources)
    info = build.build(path, build.SANITIZERS, sources)
    assert info.sanitize == build.SANITIZERS
    assert build.is_current(path, build.SANITIZERS, sources)
    assert not build.is_current(path, (), sources)


@needs_compiler
def test_exceptions_under_the_sanitizer() -> None:
    """The first exception of a C++ extension is an error of Python there, not the end of the process."""
    preloaded = ":".join(str(path) for path in build.preloaded_libraries(build.SANITIZERS))
    assert "san" in Path(preloaded.split(":")[0]).name
    throw = "import torch\ntry:\n    torch.empty(-1)\nexcept RuntimeError:\n    print('caught')"
    settings = {"LD_PRELOAD": preloaded, "PYTHONMALLOC": "malloc", "ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run(
        [sys.executable, "-c", throw], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.stdout == "caught\n", done.stderr


def test_files_that_are_no_library(tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    with pytest.raises(BackendError, match="is not there"):
        library.open_library(path)
    path.write_bytes(b"\x7fELF something else")
    with pytest.raises(BackendError, match="was not built by videoeff"):
        library.open_library(path)
    path.write_bytes(build._MARK + b'{"digest": "0", "compiler"')
    with pytest.raises(BackendError, match="was not built by videoeff"):
        library.open_library(path)
    path.write_bytes(build._MARK + b'{"digest": "0", "compiler": "c", "sanitize": []}\0')
    with pytest.raises(BackendError, match="could not be loaded"):
        library.open_library(path)


@needs_compiler
@pytest.mark.parametrize("isa", range(len(build.ISA_FLAGS) if build.X86 else 1))
def test_sources_give_no_warning(isa: int, tmp_path: Path) -> None:
    """All of them, whatever the compiler's words for it. In an #if a name that is not defined would be 0."""
    build.write_headers(tmp_path)
    flags = [*build.COMMON, f"-I{build.SOURCES}", f"-I{tmp_path}", "-Wall", "-Wextra", "-Wundef", "-Werror"]
    flags.append("-fsyntax-only")
    objects = build._objects(build.SOURCES)
    chosen = [(name, own) for name, own in objects if f"-DVF_ISA={isa}" in own or not (own or isa)]
    assert chosen
    for name, own in chosen:
        command = [*build.find_compiler(), *flags, *own, str(build.SOURCES / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_folders_share_only_what_lies_beside_them() -> None:
    """What is compiled once knows nothing of an instruction set, and the kernels nothing of plans."""
    for path in build.source_files():
        own = path.parent
        beside = {p.name for p in (*build.SOURCES.glob("*.h"), *own.glob("*.h"))} | {"numbers.h", "layout.h"}
        included = set(re.findall(r'#include "([^"]+)"', path.read_text(encoding="utf-8")))
        assert included <= beside, path.name
        once = own.name != "isa"
        assert not (once and "VF_SPACE" in path.read_text(encoding="utf-8")), path.name


# ---------------------------------------------------------------- what is in it


def disassembly() -> dict[str, tuple[str, list[str]]]:
    """Name and instructions of each function, by address: clones in several objects share a name."""
    if library.unavailable():
        pytest.skip(library.unavailable())
    if not shutil.which("objdump"):
        pytest.skip("needs objdump of binutils")
    command = ["objdump", "-d", "--no-show-raw-insn", str(library.load().path)]
    functions: dict[str, tuple[str, list[str]]] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        if head := re.fullmatch(r"0*([0-9a-f]+) <(.+)>:", line):
            _, body = functions.setdefault(head[1], (head[2], []))
        elif "\t" in line:
            body.append(line.partition("\t")[2])
    return functions


@pytest.mark.skipif(not build.X86, reason="instruction sets are chosen at run time on x86-64 only")
def test_no_instruction_outside_its_set() -> None:
    """A function that the objects share (of the standard library) is not that of a newer instruction set."""
    functions = disassembly()

    def level(name: str) -> int:
        return 2 if "isa_avx512" in name else 1 if "isa_avx2" in name else 0

    needs = {
        address: 2 if re.search(r"%zmm|%k[0-7]|mm(1[6-9]|2\d|3[01])\b", "\n".join(body)) else 1
        for address, (_, body) in functions.items()
        if any(i.startswith("v") and not i.startswith(("verr", "verw")) for i in body)
    }
    levels = {address: level(name) for address, (name, _) in functions.items()}
    assert any(levels[address] == 2 for address in needs)
    assert not [functions[a][0] for a in needs if 0 < levels[a] < needs[a]]
    for address, (caller, body) in functions.items():
        called = {found for i in body for found in re.findall(r"\b([0-9a-f]+) <[^>+]+>", i)}
        shared = {found for found in called & needs.keys() if levels[found] == 0}
        wrong = [functions[a][0] for a in shared if max(levels[address], needs.get(address, 0)) < needs[a]]
        assert not wrong, f"{caller} calls {wrong}"


def test_only_the_interface_is_exported() -> None:
    if library.unavailable():
        pytest.skip(library.unavailable())
    if library.load().sanitize or sys.platform != "linux":
        pytest.skip("a sanitized library exports what its sanitizers look for; elsewhere linkers differ")
    if not shutil.which("nm"):
        pytest.skip("needs nm of binutils")
    command = ["nm", "-D", "--defined-only", str(library.load().path)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line.split()[-1] for line in listed.splitlines()} == set(abi.FUNCTIONS)
