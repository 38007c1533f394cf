"""Compiles the native kernels into one shared library.

Only the standard library is used and nothing of videoeff, so that the installation can load this file by its
path. By hand::

    python -m videoeff.kernels.cpp.build

``src/isa`` is compiled once for each instruction set, ``src/plan`` once; what both share lies beside these
folders. Two headers are written into the build folder: ``numbers.h`` from the Python files that hold the
numbers of the interface, ``layout.h`` from the structures in ``videoeff.h``.

A library names what it was built from: one of other sources or flags is noticed without being loaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import runpy
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "src"
#: The source that is compiled for each instruction set, and the folder of those that are compiled once.
KERNELS, ONCE = "isa/kernels.cpp", "plan"
#: Where the numbers are written that Python and C++ share. These files need nothing but the standard library.
NUMBERS = (FOLDER.parent / "region_spec" / "codes.py", FOLDER / "numbers.py")
#: What comes between ``VF_`` and a member's name, by class; nothing where a class is not named.
PREFIXES = {
    "ChangeTest": "TEST_",
    "Isa": "ISA_",
    "Flag": "FLAG_",
    "Answer": "ANSWER_",
    "MaskPart": "MASK_",
    "Held": "HELD_",
    "GridRow": "GRID_",
    "Products": "PRODUCTS_",
}
LIBRARY = FOLDER / "_native.so"
COMMAND = "python -m videoeff.kernels.cpp.build"
SANITIZERS = ("address", "undefined")

X86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32

COMMON = (
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",  # vectors are passed between our own functions only
    "-pthread",
    f"-DVF_X86={int(X86)}",
)

# By the numbers of `numbers.Isa`, and linked in this order. An inline function of the standard library may be
# compiled into several objects, and the linker keeps the first: none for a newer instruction set may come
# before one for an older.
ISA_FLAGS: tuple[tuple[str, ...], ...] = (
    (),
    ("-mavx2", "-mfma"),
    ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
)

# GNU linkers. No compiler flag hides templates of the standard library, and a process may hold an older
# libstdc++ already (a conda environment's), so this library brings its own and shows nothing of it.
EXPORTS = "{ global: vf_*; local: *; };\n"
LINK = ("-Wl,--no-undefined", "-Wl,--version-script={exports}")
OWN_RUNTIME = ("-static-libstdc++", "-static-libgcc")

_MARK = b"videoeff native library: "


class BuildError(Exception):
    """The library could not be built. This file stands alone, so the error is not in `videoeff.errors`."""


class NoCompilerError(BuildError):
    """There is no C++ compiler."""


class BuildInfo(NamedTuple):
    """What a library was built from and by."""

    digest: str
    compiler: str
    sanitize: tuple[str, ...]


def find_compiler() -> list[str]:
    """The compiler's command: ``CXX`` if it is set, else the first of c++, g++ and clang++.

    Raises:
        NoCompilerError: it is not there.
    """
    chosen = os.environ.get("CXX", "").strip()
    for candidate in [chosen] if chosen else ["c++", "g++", "clang++"]:
        command = shlex.split(candidate)
        path = shutil.which(command[0])
        if path is not None:
            return [path, *command[1:]]
    if chosen:
        raise NoCompilerError(f"CXX names {chosen!r}, which was not found; correct or unset it")
    raise NoCompilerError(
        "no C++ compiler was found (c++, g++, clang++); install one (Debian: apt install g++) or set CXX"
    )


def compiler_version(command: Sequence[str]) -> str:
    """The first line a compiler says about itself.

    Raises:
        BuildError: it does not run, or says nothing.
    """
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, errors="replace", timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{shlex.join(command)} does not run: {error}") from error
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise BuildError(f"{shlex.join(command)} --version says nothing; set CXX to a C++ compiler")
    return lines[0]


def source_files(sources: Path = SOURCES) -> list[Path]:
    """All C++ sources and headers, in a fixed order."""
    return sorted(p for p in sources.rglob("*") if p.suffix in (".h", ".cpp"))


def numbers_header(files: Sequence[Path]) -> str:
    """The header of the numbers in some Python files: the members of their enums, and their constants.

    Raises:
        BuildError: two of them have one name.
    """
    lines: list[str] = []
    taken: set[str] = set()
    for path in files:
        lines.append(f"// {path.name}")
        for name, value in runpy.run_path(str(path)).items():
            if isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum:
                numbers = {f"{PREFIXES.get(name, '')}{m}": int(v) for m, v in value.__members__.items()}
            elif name.isupper() and isinstance(value, int):
                numbers = {name: value}
            else:
                continue
            if twice := sorted(taken & numbers.keys()):
                raise BuildError(f"{path}: {name}: VF_{twice[0]} is another number's name; give a prefix")
            taken |= numbers.keys()
            lines += [f"#define VF_{word} {number}" for word, number in numbers.items()]
    return "\n".join(["#pragma once", *lines, ""])


def layout_header(sources: Path = SOURCES) -> str:
    """Two macros, of the structures in ``videoeff.h`` and of their fields."""
    text = re.sub(r"//[^\n]*", "", (sources / "videoeff.h").read_text(encoding="utf-8"))
    structures, fields = [], []
    for body, name in re.findall(r"typedef struct \{([^}]*)\} (\w+);", text):
        structures.append(f"VF_STRUCTURE({name})")
        for declared in re.findall(r"[^;,]+", body):
            if field := re.search(r"(\w+)\s*(?:\[\w+\])?\s*$", declared.rstrip()):
                fields.append(f"VF_FIELD({name}, {field[1]})")
    macros = (f"#define VF_STRUCTURES {' '.join(structures)}", f"#define VF_FIELDS {' '.join(fields)}")
    return "\n".join(["#pragma once", *macros, ""])


def write_headers(folder: Path, sources: Path = SOURCES) -> None:
    """Write the headers that are made, where the compiler is told to look."""
    (folder / "numbers.h").write_text(numbers_header(NUMBERS), encoding="utf-8")
    (folder / "layout.h").write_text(layout_header(sources), encoding="utf-8")


def digest(sanitize: Sequence[str] = (), sources: Path = SOURCES) -> str:
    """A hash of what the result follows from, the compiler apart: sources, flags and kind of machine."""
    flags = (_objects(sources), _flags(sanitize), EXPORTS, LINK, OWN_RUNTIME)
    found = hashlib.sha256(repr((flags, sys.platform, platform.machine())).encode())
    found.update(numbers_header(NUMBERS).encode())
    for path in source_files(sources):
        found.update(f"\n{path.relative_to(sources).as_posix()} {path.stat().st_size}\n".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:24]


def read_info(library: Path) -> BuildInfo | None:
    """What a library says it was built from, read from its file; None if there is none or it says nothing.

    Raises:
        OSError: it is there and cannot be read.
    """
    try:
        text = library.read_bytes()
    except FileNotFoundError:
        return None
    start = text.find(_MARK)
    end = text.find(b"\0", start)
    if start < 0 or end < 0:
        return None
    try:
        facts = json.loads(text[start + len(_MARK) : end])
        return BuildInfo(str(facts["digest"]), str(facts["compiler"]), tuple(facts["sanitize"]))
    except (ValueError, KeyError, TypeError):  # a file that was cut short
        return None


def is_current(library: Path, sanitize: Sequence[str] = (), sources: Path = SOURCES) -> bool:
    """Whether a library is there and was built from these sources with these flags."""
    info = read_info(library)
    return info is not None and info.digest == digest(sanitize, sources)


def build(library: Path = LIBRARY, sanitize: Sequence[str] = (), sources: Path = SOURCES) -> BuildInfo:
    """Compile and link. An existing library is replaced at the end, in one step.

    Raises:
        NoCompilerError: there is no compiler.
        BuildError: the compiler failed, or the library could not be written.
    """
    unknown = sorted(set(sanitize) - set(SANITIZERS))
    if unknown:
        raise BuildError(f"no sanitizer {', '.join(unknown)}; there are {', '.join(SANITIZERS)}")
    compiler = find_compiler()
    info = BuildInfo(digest(sanitize, sources), compiler_version(compiler), tuple(sanitize))
    partial = library.with_name(f".{library.stem}-{os.getpid()}-{secrets.token_hex(4)}{library.suffix}")
    try:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="videoeff-build-") as name:
            objects = _compile(compiler, sources, info, Path(name))
            _link(compiler, objects, sanitize, partial)
        os.replace(partial, library)
    except OSError as error:
        raise BuildError(f"{library} could not be built: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return info


def preloaded_libraries(sanitize: Sequence[str]) -> tuple[Path, ...]:
    """The libraries to load before everything else (LD_PRELOAD): that of the sanitizer, and that of C++.

    AddressSanitizer looks up the function that throws C++ exceptions as it starts, in what is loaded by
    then. Python itself is C: without the C++ library, the first exception of any extension module ends the
    process.

    Raises:
        BuildError: the compiler has none.
    """
    compiler = find_compiler()
    names = [f"libclang_rt.asan-{platform.machine()}.so", "libclang_rt.asan.so"]
    if "address" not in sanitize:
        names = [f"libclang_rt.ubsan_standalone-{platform.machine()}.so", "libclang_rt.ubsan_standalone.so"]
    gnu = "libasan.so" if "address" in sanitize else "libubsan.so"
    runtime = _compiler_file(compiler, (*names, gnu) if _is_clang(compiler) else (gnu,))
    if runtime is None:
        raise BuildError(f"{shlex.join(compiler)} has no library for its sanitizers; install it, or use g++")
    standard = _compiler_file(compiler, ("libstdc++.so.6", "libstdc++.so"))
    return (runtime,) if standard is None else (runtime, standard)


def _compiler_file(compiler: Sequence[str], names: Sequence[str]) -> Path | None:
    for name in names:
        done = subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=False
        )
        path = Path(done.stdout.strip())
        if path.is_absolute() and path.is_file():  # the bare name comes back where there is none
            return path.resolve()
    return None


def _objects(sources: Path) -> list[tuple[str, tuple[str, ...]]]:
    """Source and own flags of each object, in the order they are linked."""
    sets = ISA_FLAGS if X86 else ISA_FLAGS[:1]
    kernels = [(KERNELS, (f"-DVF_ISA={isa}", *flags)) for isa, flags in enumerate(sets)]
    others = sorted(path.relative_to(sources).as_posix() for path in (sources / ONCE).glob("*.cpp"))
    return [*((name, ()) for name in others), *kernels]


def _flags(sanitize: Sequence[str]) -> tuple[str, ...]:
    if not sanitize:
        return (*COMMON, "-O2")
    chosen = f"-fsanitize={','.join(sanitize)}"
    checks = (
        chosen,
        "-fno-sanitize=null,object-size,vptr",
        "-fno-sanitize-recover=all",
    )  # null: address finds it
    return (*COMMON, "-O1", "-g1", "-fno-omit-frame-pointer", *checks)


def _compile(compiler: list[str], sources: Path, info: BuildInfo, folder: Path) -> list[Path]:
    """Compile every object, several at a time."""
    write_headers(folder, sources)
    facts = json.dumps(info._asdict())
    stamp = folder / "stamp.cpp"
    stamp.write_text(
        'extern "C" __attribute__((used)) const char vf_build[]; '
        f"const char vf_build[] = {json.dumps(_MARK.decode() + facts)};\n",
        encoding="utf-8",
    )
    jobs = [(sources / name, own) for name, own in _objects(sources)]
    jobs.append((stamp, ()))
    results = [folder / f"{number}-{source.stem}.o" for number, (source, _) in enumerate(jobs)]
    common = [*_flags(info.sanitize), f"-I{sources}", f"-I{folder}"]
    if info.sanitize and not _is_clang(
        compiler
    ):  # checks as calls: slower to run, but compiled in half the time
        common.append("--param=asan-instrumentation-with-call-threshold=0")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(available, len(jobs))) as pool:
        running = [
            pool.submit(_run, [*compiler, *common, *own, "-c", str(source), "-o", str(result)], source.name)
            for (source, own), result in reversed([*zip(jobs, results, strict=True)])  # the slowest first
        ]
    for done in running:
        done.result()
    return results


def _link(compiler: list[str], objects: list[Path], sanitize: Sequence[str], to: Path) -> None:
    command = [*compiler, "-shared", "-pthread", *map(str, objects), "-o", str(to)]
    if sanitize:
        shared = ["-shared-libasan"] if _is_clang(compiler) and "address" in sanitize else []
        _run([*command, f"-fsanitize={','.join(sanitize)}", *shared], to.name)
        return
    if sys.platform != "linux":
        _run(command, to.name)
        return
    exports = objects[0].with_name("exports")
    exports.write_text(EXPORTS, encoding="utf-8")
    command += [flag.format(exports=exports) for flag in LINK]
    try:
        _run([*command, *OWN_RUNTIME], to.name)
    except BuildError:  # some distributions package the static libstdc++ apart
        _run(command, to.name)


def _is_clang(compiler: list[str]) -> bool:
    return "clang" in compiler_version(compiler)


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        errors = [line for line in said if "error" in line.lower()][:5]
        last = [line for line in said[-15:] if line not in errors]
        raise BuildError("\n".join([f"{what} was not built by: {shlex.join(command)}", *errors, *last]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Compile the native kernels of videoeff.")
    parser.add_argument("--out", type=Path, default=LIBRARY, metavar="PATH", help="where the library goes")
    parser.add_argument("--sanitize", default="", metavar="LIST", help="address,undefined")
    parser.add_argument("--if-changed", action="store_true", help="do nothing where the library is current")
    parser.add_argument("--optional", action="store_true", help="no compiler is not an error")
    parser.add_argument("--runtime", action="store_true", help="print what --sanitize has to preload")
    chosen = parser.parse_args(arguments)
    sanitize = tuple(word for word in chosen.sanitize.split(",") if word)
    try:
        if chosen.runtime:
            print(*preloaded_libraries(sanitize), sep=":")
        elif not (chosen.if_changed and is_current(chosen.out, sanitize)):
            info = build(chosen.out, sanitize)
            print(f"videoeff: compiled {chosen.out.name} with {info.compiler}")
    except NoCompilerError as error:
        if not chosen.optional:
            print(f"videoeff: {error}", file=sys.stderr)
            return 1
        print(f"videoeff: {error}. Until then the reference computes", file=sys.stderr)
    except (BuildError, OSError) as error:
        print(f"videoeff: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
