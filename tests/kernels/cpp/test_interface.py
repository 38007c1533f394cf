"""The interface of the native library: numbers, structures and functions are the same in both languages."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from tests.support.native_interface import declarations, header
from videoeff.kernels.cpp import abi, build, library, numbers


def defined() -> dict[str, int]:
    """The numbers of the header that is made."""
    lines = build.numbers_header(build.NUMBERS).splitlines()
    return {m[1]: int(m[2]) for line in lines if (m := re.fullmatch(r"#define VF_(\w+) (\d+)", line))}


def groups(found: re.Match[str] | None) -> tuple[str, ...]:
    """The groups of a match; what did not match fails."""
    assert found is not None
    return found.groups()


def test_every_number_is_in_the_header_that_is_made() -> None:
    enums = {
        abi.Dtype: "", abi.Kind: "", abi.EpiOp: "", abi.ReachKind: "", abi.ChangeTest: "TEST_",
        abi.Isa: "ISA_", abi.Flag: "FLAG_", abi.Answer: "ANSWER_", abi.MaskPart: "MASK_", abi.Held: "HELD_",
        abi.GridRow: "GRID_", abi.Products: "PRODUCTS_",
    }  # fmt: skip
    limits = {name: value for name, value in vars(numbers).items() if name.isupper()}
    members = {f"{prefix}{m.name}": int(m) for enum, prefix in enums.items() for m in enum}
    assert defined() == members | limits
    assert limits.keys() >= {"ABI", "ARG", "MAX_ARGS", "MAX_WINOGRAD_INPUTS"}


def test_no_number_is_written_a_second_time() -> None:
    """The sources define none of these names, and each instruction set has its flags."""
    for path in build.source_files():
        text = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        own = set(re.findall(r"#define VF_(\w+)", text)) | set(re.findall(r"\bVF_(\w+) *= *\d", text))
        assert not own & defined().keys(), path.name
        assert not re.search(r"\benum vf_", text), path.name
    assert len(build.ISA_FLAGS) == len(abi.Isa)


def test_two_numbers_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "more.py"
    path.write_text("from enum import IntEnum\nclass Other(IntEnum):\n    CONV = 7\n")
    with pytest.raises(build.BuildError, match=r"more\.py: Other: VF_CONV is another number's name"):
        build.numbers_header((*build.NUMBERS, path))


def test_every_field_is_compared() -> None:
    fields = {f"vf_{s.__name__.lower()}, {f[0].rstrip('_')}" for s in abi.STRUCTURES for f in s._fields_}
    assert set(re.findall(r"VF_FIELD\(([^)]*)\)", build.layout_header())) == fields


def test_structures_are_those_of_the_header() -> None:
    plain = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "double": ctypes.c_double}
    structures = {f"vf_{s.__name__.lower()}": s for s in abi.STRUCTURES}
    there = re.findall(r"typedef struct \{([^}]*)\} (\w+);", header())
    assert {name for _, name in there} == structures.keys()
    for body, name in there:
        wanted = []
        for statement in filter(None, map(str.strip, body.split(";"))):
            kind, names = groups(re.fullmatch(r"(?:const )?(\w+) (.*)", statement, re.DOTALL))
            for field in names.split(","):
                word, size = groups(re.fullmatch(r"\s*\*?(\w+)(?:\[VF_(\w+)\])?", field))
                element = ctypes.c_void_p if "*" in field else plain.get(kind) or structures[kind]
                wanted.append(
                    (
                        "in_" if word == "in" else word,
                        element * getattr(abi, size) if size else element,
                    )
                )
        assert [tuple(f) for f in structures[name]._fields_] == wanted, name


def test_functions_are_those_of_the_header() -> None:
    scalars = {
        "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "void": None, "vf_parallel": ctypes.c_void_p
    }  # fmt: skip
    pointers = {
        "vf_op": ctypes.POINTER(abi.Op),
        "vf_mask": ctypes.POINTER(abi.Mask),
        "vf_frame": ctypes.POINTER(abi.Frame),
        "char": ctypes.c_char_p,
        "int64_t": ctypes.POINTER(ctypes.c_int64),
    }

    def kind(text: str) -> object:
        (word,) = groups(re.match(r"(?:const )?(\w+)", text))
        return pointers.get(word, ctypes.c_void_p) if "*" in text else scalars[word]

    wanted = {
        name: (kind(result), tuple(kind(a.strip()) for a in arguments.split(",") if arguments != "void"))
        for name, (result, arguments) in declarations().items()
    }
    assert wanted == abi.FUNCTIONS
    assert set(abi.FUNCTIONS) - {"vf_abi", "vf_layout", "vf_best_isa"} <= set(library.Library.__annotations__)


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
    assert found._library.vf_layout(b"vf_op") == ctypes.sizeof(abi.Op)
    assert found._library.vf_layout(b"vf_op.epi") == abi.Op.epi.offset
    assert found._library.vf_layout(b"vf_op.nothing") == found._library.vf_layout(b"") == -1
