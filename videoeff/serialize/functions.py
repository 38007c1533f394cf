"""Functions of the user's by reference: ``file.py:function``."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videoeff.errors import VideoEffError


def load_function(
    reference: str, what: str, error_type: type[VideoEffError]
) -> tuple[Callable[..., Any], Path]:
    """The function that ``file.py:function`` names, and its file. Runs the file.

    Args:
        reference: the file and the function.
        what: who asks, for messages, such as ``--draw``.
        error_type: what is raised.

    Raises:
        VideoEffError: of ``error_type``: there is no such file or function, or the file fails.
    """
    name, colon, function_name = reference.rpartition(":")
    path = Path(name)
    if not colon or path.suffix != ".py" or not function_name:
        raise error_type(f"{what} {reference!r}: write file.py:function")
    if not path.is_file():
        raise error_type(f"{what} {reference!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"videoeff_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise error_type(f"{what} {reference!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise error_type(f"{what} {reference!r}: {failure(error, path)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise error_type(f"{what} {reference!r}: {path} has no function {function_name!r}")
    return function, path


def failure(error: BaseException, path: Path) -> str:
    """``file.py:12: KeyError: ...``, at the last line inside the user's file."""
    line = None
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).name == path.name:
        line = error.lineno
    for entry in traceback.extract_tb(error.__traceback__):
        if Path(entry.filename).resolve() == path.resolve():
            line = entry.lineno
    place = f"{path}:{line}" if line is not None else str(path)
    return f"{place}: {type(error).__name__}: {error}"
