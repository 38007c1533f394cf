"""The native library: built, described, found, refused, packed."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from videoeff.errors import BackendError
from videoeff.kernels.cpp import abi, build, library

ROOT = Path(__file__).resolve().parents[2]
HEADER = build.SOURCES / "videoeff.h"
IN_TREE = Path("videoeff/kernels/cpp")

# Every function of the header over nothing, which compiles in a second.
PLAN = """
#include "videoeff.h"
#include <vector>
struct vf_plan { std::vector<vf_op> ops; };
extern "C" {
int32_t vf_abi(void) { return VF_ABI; }
int64_t vf_sizeof(int32_t what) {
  const int64_t sizes[] = {sizeof(vf_op),   sizeof(vf_view),  sizeof(vf_epi),
                           sizeof(vf_mask), sizeof(vf_frame), sizeof(vf_stage)};
  return sizes[what];
}
int32_t vf_best_isa(void) { return VF_X86; }
"""

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


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder of small sources that give a whole library."""
    folder = tmp_path / "src"
    folder.mkdir()
    shutil.copy(HEADER, folder)
    (folder / "kernels.cpp").write_text(
        "#define JOIN(a, b) a##b\n#define NAME(b) JOIN(kernels_, b)\nint NAME(VF_ISA)() { return VF_ISA; }\n"
    )
    rest = [
        f"{result} {name}({arguments}) {{ {'' if result == 'void' else 'return 0;'} }}\n"
        for name, (result, arguments) in declarations().items()
        if name not in ("vf_abi", "vf_sizeof", "vf_best_isa")
    ]
    (folder / "plan.cpp").write_text(f"{PLAN}{''.join(rest)}}}\n")
    return folder


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question looks for the library anew, and the warning was not given yet."""
    monkeypatch.setattr(library, "_find", library._find.__wrapped__)
    monkeypatch.setattr(library, "_warned", type(library._warned)())


# ---------------------------------------------------------------- the interface


def test_numbers_are_those_of_the_header() -> None:
    for word in ("ABI", "MAX_ARGS", "MAX_EPI", "MAX_REGS", "MAX_REACH", "MAX_TERMS"):
        assert re.search(rf"#define VF_{word} {getattr(abi, word)}\n", header()), word
    enums = {
        "vf_dtype": abi.Dtype,
        "vf_kind": abi.Kind,
        "vf_epi_op": abi.EpiOp,
        "vf_reach_kind": abi.ReachKind,
        "vf_test": abi.ChangeTest,
        "vf_flags": abi.Flag,
        "vf_answer": abi.Answer,
    }
    there = dict(re.findall(r"enum (\w+) \{([^}]*)\}", header()))
    assert there.keys() == enums.keys()
    for name, enum in enums.items():
        values = {word: int(value) for word, value in re.findall(r"VF_(\w+) = (\d+)", there[name])}
        prefix = "TEST_" if enum is abi.ChangeTest else ""
        assert values == {f"{prefix}{member.name}": member.value for member in enum}
    assert f"VF_ARG = {abi.ARG} " in header()


def test_structures_are_those_of_the_header() -> None:
    plain = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "double": ctypes.c_double}
    structures = {
        f"vf_{s.__name__.lower()}": s
        for s in (abi.Epi, abi.View, abi.Reach, abi.Term, abi.Stage, abi.Op, abi.Mask, abi.Frame)
    }
    there = re.findall(r"typedef struct \{([^}]*)\} (\w+);", header())
    assert {name for _, name in there} == structures.keys()
    for body, name in there:
        wanted = []
        for statement in filter(None, map(str.strip, body.split(";"))):
            kind, names = re.fullmatch(r"(?:const )?(\w+) (.*)", statement, re.DOTALL).groups()
            for field in names.split(","):
                word, size = re.fullmatch(r"\s*\*?(\w+)(?:\[VF_(\w+)\])?", field).groups()
                element = ctypes.c_void_p if "*" in field else plain.get(kind) or structures[kind]
                wanted.append(
                    (
                        "in_" if word == "in" else word,
                        element * getattr(abi, size) if size else element,
                    )
                )
        assert [tuple(f) for f in structures[name]._fields_] == wanted, name


def test_functions_are_those_of_the_header() -> None:
    scalars = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "void": None}
    scalars["vf_parallel"] = ctypes.c_void_p
    pointers = {
        "vf_op": ctypes.POINTER(abi.Op),
        "vf_mask": ctypes.POINTER(abi.Mask),
        "vf_frame": ctypes.POINTER(abi.Frame),
        "char": ctypes.c_char_p,
        "int64_t": ctypes.POINTER(ctypes.c_int64),
    }

    def kind(text: str) -> object:
        (word,) = re.match(r"(?:const )?(\w+)", text).groups()
        return pointers.get(word, ctypes.c_void_p) if "*" in text else scalars[word]

    wanted = {
        name: (kind(result), tuple(kind(a.strip()) for a in arguments.split(",") if arguments != "void"))
        for name, (result, arguments) in declarations().items()
    }
    assert wanted == abi.FUNCTIONS
    assert set(abi.FUNCTIONS) - {"vf_abi", "vf_sizeof", "vf_best_isa"} <= set(library.Library.__annotations__)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(AttributeError):
        abi.Op().strides = 1


def test_the_library_loads_here() -> None:
    if library.unavailable():
        pytest.skip(library.unavailable())
    found = library.load()
    assert found is library.load()
    assert found.compiler
    assert library.isa_names() == library.ISA_NAMES[: found.best_isa + 1]
    sizes = [found._library.vf_sizeof(what) for what in range(len(abi.MEASURED))]
    assert sizes == [ctypes.sizeof(s) for s in abi.MEASURED]


# ---------------------------------------------------------------- building


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
def test_stale_library_is_noticed(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    build.build(path, sources=sources)
    assert build.is_current(path, sources=sources)
    assert not build.is_current(path, ("address",), sources)
    (sources / "plan.cpp").write_text((sources / "plan.cpp").read_text() + "// changed\n")
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
        patch.setattr(build.os, "replace", replace)
        with pytest.raises(build.BuildError, match="no room"):
            build.build(path, sources=sources)
    assert seen == [(True, b"the old one", True)]
    assert [p.read_bytes() for p in path.parent.iterdir()] == [b"the old one"]


@needs_compiler
def test_what_the_compiler_said(sources: Path, tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    (sources / "plan.cpp").write_text("int broken() { return missing_name; }\n")
    with pytest.raises(build.BuildError, match=r"(?s)plan\.cpp was not built by.*missing_name"):
        build.build(path, sources=sources)
    (sources / "plan.cpp").write_text("extern void nowhere(); void call() { nowhere(); }\n")
    with pytest.raises(build.BuildError, match=r"(?s)_native.* was not built by.*nowhere"):
        build.build(path, sources=sources)
    assert not path.exists()


@needs_compiler
def test_a_library_of_other_sizes_is_refused(sources: Path, tmp_path: Path) -> None:
    text = (sources / "plan.cpp").read_text()
    for old, new, message in (
        ("sizeof(vf_view)", "sizeof(vf_view) + 8", "its vf_view has 80 bytes, wanted are 72"),
        ("return VF_ABI", "return VF_ABI + 1", f"its interface is number {abi.ABI + 1}"),
        ("vf_best_isa(void)", "vf_no_isa(void)", "vf_best_isa"),
    ):
        (sources / "plan.cpp").write_text(text.replace(old, new))
        path = tmp_path / f"{abs(hash(new))}.so"
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
def test_sources_give_no_warning(isa: int) -> None:
    """All of them, whatever the compiler's words for it."""
    flags = [*build.COMMON, "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    objects = build._objects(build.SOURCES)
    chosen = [(name, own) for name, own in objects if f"-DVF_ISA={isa}" in own or not (own or isa)]
    assert chosen
    for name, own in chosen:
        command = [*build.find_compiler(), *flags, *own, str(build.SOURCES / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


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


# ---------------------------------------------------------------- where there is none


def without_compiler(tmp_path: Path) -> dict[str, str]:
    """An environment whose PATH has no compiler."""
    empty = tmp_path / "empty"
    empty.mkdir(exist_ok=True)
    kept = {k: v for k, v in os.environ.items() if k not in ("CXX", "LD_PRELOAD", library.VARIABLE)}
    return {**kept, "PATH": str(empty)}


def copy_of_the_tree(to: Path) -> Path:
    """The sources as they are, without anything that was built."""
    leave = shutil.ignore_patterns(
        ".*cache", ".git", ".venv", ".hypothesis", "*.so", "__pycache__", "dist", "build"
    )
    shutil.copytree(ROOT, to, ignore=leave)
    return to


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


# ---------------------------------------------------------------- packed


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
    assert f"{IN_TREE}/src/videoeff.h" in names  # to be compiled later
    assert not [name for name in names if name.endswith(".so")]


def test_sdist_carries_the_sources(tmp_path: Path) -> None:
    path, _ = pack(copy_of_the_tree(tmp_path / "tree"), "sdist")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "hatch_build.py" in names
    assert {f"{IN_TREE}/src/{p.name}" for p in build.SOURCES.iterdir()} <= names
    assert not [name for name in names if name.endswith(".so")]
