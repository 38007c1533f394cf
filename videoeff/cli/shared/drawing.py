"""The overlay video: change masks as a heat map, and the user's own drawing."""

from __future__ import annotations

import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError
from videoeff.video.preprocess import Preprocess

Frame = NDArray[np.uint8]
Draw = Callable[[Frame, Any, Preprocess], Any]


def load_draw(reference: str) -> Draw:
    """The function ``file.py:function`` names. Runs the file.

    It is given the frame and the outputs, and the preprocessing if it has a parameter ``preprocess``.

    Raises:
        VideoError: there is no such file or function, or the file fails.
    """
    name, colon, function_name = reference.rpartition(":")
    path = Path(name)
    if not colon or path.suffix != ".py" or not function_name:
        raise VideoError(f"--draw {reference!r}: write file.py:function")
    if not path.is_file():
        raise VideoError(f"--draw {reference!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"videoeff_draw_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise VideoError(f"--draw {reference!r}: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise VideoError(f"--draw {reference!r}: {_where(error, path)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise VideoError(f"--draw {reference!r}: {path} has no function {function_name!r}")
    return _checked(function, path, function_name)


def _takes(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that tells nothing
        return False


def _checked(function: Callable[..., Any], path: Path, name: str) -> Draw:
    takes_preprocess = _takes(function, "preprocess")

    def draw(frame: Frame, outputs: Any, preprocess: Preprocess) -> Frame:
        extra = {"preprocess": preprocess} if takes_preprocess else {}
        try:
            made = function(frame, outputs, **extra)
        except Exception as error:
            raise VideoError(f"--draw: {name} failed at {_where(error, path)}") from error
        if made is None:  # it drew into the frame
            made = frame
        if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.shape != frame.shape:
            found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise VideoError(
                f"--draw: {path}: {name} returned {found}; it must return the frame, uint8 {frame.shape}"
            )
        return made

    return draw


def _where(error: BaseException, path: Path) -> str:
    """``file.py:12: KeyError: ...``, at the last line inside the user's file."""
    line = None
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).name == path.name:
        line = error.lineno
    for entry in traceback.extract_tb(error.__traceback__):
        if Path(entry.filename).resolve() == path.resolve():
            line = entry.lineno
    place = f"{path}:{line}" if line is not None else str(path)
    return f"{place}: {type(error).__name__}: {error}"
