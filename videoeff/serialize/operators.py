"""The operators that an exported program calls: those of other packages are there once these are imported."""

from __future__ import annotations

import contextlib
import re
import zipfile
from pathlib import Path

from videoeff.errors import ArtifactError

#: Namespaces of operators, and the module whose import registers them.
_REGISTERED_BY = {"torchvision": "torchvision", "quantized_decomposed": "videoeff.ops.quantize"}

_OPERATOR = re.compile(rb"torch\.ops\.([A-Za-z_]\w*)\.([A-Za-z_]\w*)")


def import_operators(path: Path) -> None:
    """Import the packages whose operators an exported program calls.

    Args:
        path: an archive of ``torch.export.save``. Nothing of it is read but names.

    Raises:
        ArtifactError: it calls an operator that nothing here registers; named, with what to do.
    """
    import importlib

    import torch

    found: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(".json"):
                for space, name in _OPERATOR.findall(archive.read(entry)):
                    found.setdefault(space.decode(), name.decode())
    for space, name in found.items():
        if space in _REGISTERED_BY:
            with contextlib.suppress(ImportError):
                importlib.import_module(_REGISTERED_BY[space])
        if space == "higher_order" or hasattr(getattr(torch.ops, space), name):
            continue
        fix = (
            "pip install torchvision"
            if space == "torchvision"
            else "import the package that registers it, and convert in that Python program: "
            "videoeff.convert(torch.export.load(path), example)"
        )
        raise ArtifactError(
            f"{path}: it calls the operator {space}::{name}, which nothing here registers; {fix}"
        )
