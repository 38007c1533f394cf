"""Reading ``.pt2`` files without running what a stranger wrote into them.

``torch.export.load`` unpickles in places, evaluates expressions for sizes, compiles guards and resolves
operators by dotted name. So the archive is looked through first, and whatever is not tensors, sizes and
operators is refused: pickles are read with ``weights_only`` alone, compiled libraries are not loaded.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.errors import ArtifactError, first_line
from videoeff.serialize.operators import import_operators

if TYPE_CHECKING:
    import torch

_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|torchvision)\.\w+\.\w+|torch\.ops\.higher_order\.\w+|_operator\.\w+|math\.\w+"
    r"|torch\.ops\.quantized_decomposed\.(?:de)?quantize_per_(?:tensor|channel)\.default"
    r"|torch\.sym_\w+|torch\._sym_\w+|torch\._C\._set_grad_enabled|torch\.utils\._sympy\.functions\.\w+"
)
_STRUCTURES = ("in_spec", "out_spec", "context")  # JSON inside JSON
_FILE_OPERATORS = ("aten.from_file", "aten.set_.", "aten._print")
_SYMBOL = re.compile(r"[a-z_]*\d+")
_GUARD_CALLS = {"size", "stride", "dim", "storage_offset", "numel", "ndimension", "is_contiguous"}
_GUARD_NAMES = {"L", "max", "min", "abs", "True", "False", "None", "Max", "Min", "Mod", "Eq", "Ne", "math"}
_GUARD_ATTRIBUTES = _GUARD_CALLS | {
    "shape",
    "ndim",
    "floor",
    "ceil",
    "trunc",
    "sqrt",
    "pow",
    "device",
    "dtype",
}


def is_export(path: Path) -> bool:
    """Whether a file is an archive of ``torch.export.save``, whatever its name."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(n.endswith(("archive_format", "serialized_exported_program.json")) for n in names)


def load_export(path: Path) -> torch.export.ExportedProgram:
    """Read an exported program.

    Raises:
        ArtifactError: it is missing, no such file, damaged, or holds more than tensors and operators.
    """
    if not is_export(path):
        raise ArtifactError(
            f"{path}: is no exported program, or only part of one; write it with torch.export.save, "
            "or copy it again"
        )
    screen(path)
    import_operators(path)
    import torch

    with _weights_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with path.open("rb") as file:
                return torch.export.load(file)
        except Exception as error:
            first = first_line(error)
            raise ArtifactError(
                f"{path}: cannot be read as an exported program ({first}); export it again with PyTorch "
                f"{torch.__version__.partition('+')[0]} or the version it was written with"
            ) from error


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Let every ``torch.load`` inside read tensors only; PyTorch itself would fall back to full pickles."""
    key, other = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {k: os.environ.pop(k, None) for k in (key, other)}
    os.environ[key] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def screen(path: Path) -> None:
    """Look through an archive without reading a pickle.

    Raises:
        ArtifactError: it is damaged, or something in it could run code; what is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if "/aotinductor/" in entry.filename or entry.filename.endswith((".so", ".pyd", ".dll")):
                    _refuse(path, f"it holds compiled code ({entry.filename})")
                if entry.filename.endswith(".json"):
                    document = json.loads(archive.read(entry))
                    _walk(path, document)
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: the archive is damaged ({error}); copy it again") from error


def _refuse(path: Path, what: str) -> None:
    raise ArtifactError(
        f"{path}: is not loaded, because {what} and reading it could run code; export the model again, "
        "to ATen operators and tensors only"
    )


def _walk(path: Path, value: Any) -> None:
    stack = [value]
    while stack:
        current = stack.pop()
        if isinstance(current, list):
            stack.extend(current)
        elif isinstance(current, dict):
            stack.extend(current.values())
            if "__enum__" in current or "default_factory_module" in current:
                _refuse(path, "the structure of its arguments names a Python module to import")
            stack.extend(_nested(current[key]) for key in _STRUCTURES if key in current)
            target, expression = current.get("target"), current.get("expr_str")
            if isinstance(target, str) and "inputs" in current and not _known_target(target):
                _refuse(path, f"it calls {target[:80]!r}")
            if isinstance(expression, str) and not _plain_size(expression):
                _refuse(path, f"a size is written as {expression[:80]!r}")
            for guard in current.get("guards_code") or ():
                if isinstance(guard, str) and not _plain_guard(guard):
                    _refuse(path, f"it checks sizes by {guard[:80]!r}")


def _nested(value: Any) -> Any:
    """What a structure written as JSON inside JSON holds; None for plain text."""
    if not isinstance(value, str):
        return None
    try:
        return json.loads(value)
    except ValueError:
        return None


def _known_target(target: str) -> bool:
    return _TARGET.fullmatch(target) is not None and not any(n in target for n in _FILE_OPERATORS)


def _parsed(text: str) -> list[ast.AST] | None:
    try:
        return list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop, ast.cmpop,
    ast.boolop, ast.keyword, ast.Load,
)  # fmt: skip


def _plain_size(text: str) -> bool:
    """Whether a size is arithmetic over symbols: ``Mul(Integer(32), Symbol('s39', integer=True))``."""
    nodes = _parsed(text)
    if nodes is None:
        return False
    symbols: set[ast.AST] = set()
    for node in nodes:
        if isinstance(node, ast.Call):
            if not (isinstance(node.func, ast.Name) and re.fullmatch(r"[A-Z][A-Za-z]*", node.func.id)):
                return False
            if node.func.id in ("Symbol", "Integer", "Float"):
                symbols.update(node.args)
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                number = re.fullmatch(r"[-+.\deE]+", node.value) is not None
                if node not in symbols or not (number or _SYMBOL.fullmatch(node.value)):
                    return False
            elif not isinstance(node.value, (bool, int, float)):
                return False
        elif isinstance(node, ast.Name):
            if re.fullmatch(r"[A-Za-z]+\d*|oo|zoo|int_oo", node.id) is None:
                return False
        elif not isinstance(node, _ARITHMETIC):
            return False
    return True


def _plain_guard(text: str) -> bool:
    """Whether a guard is arithmetic over sizes: ``L['x'].size()[2] % 32 == 0``."""
    nodes = _parsed(text)
    if nodes is None:
        return False
    for node in nodes:
        if isinstance(node, ast.Call):
            named = isinstance(node.func, ast.Name) and node.func.id in _GUARD_NAMES - {"L", "math"}
            method = isinstance(node.func, ast.Attribute)  # its name is checked below
            if not (named or method):
                return False
        elif isinstance(node, ast.Attribute):
            if node.attr not in _GUARD_ATTRIBUTES:
                return False
        elif isinstance(node, ast.Name):
            if node.id not in _GUARD_NAMES and not _SYMBOL.fullmatch(node.id):
                return False
        elif isinstance(node, ast.Constant):
            if not isinstance(node.value, (bool, int, float, str, type(None))):
                return False
        elif not isinstance(node, (*_ARITHMETIC, ast.Subscript, ast.Tuple, ast.IfExp)):
            return False
    return True
