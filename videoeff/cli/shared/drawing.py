"""The overlay video: change masks as a heat map, and the user's own drawing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videoeff.errors import VideoError
from videoeff.serialize.functions import failure, load_function
from videoeff.video.preprocess import Preprocess

Frame = NDArray[np.uint8]
Draw = Callable[[Frame, Any, Preprocess], Any]


def load_draw(reference: str) -> Draw:
    """The function ``file.py:function`` names. Runs the file.

    It is given the frame and the outputs, and the preprocessing if it has a parameter ``preprocess``.

    Raises:
        VideoError: there is no such file or function, or the file fails.
    """
    function, path = load_function(reference, "--draw", VideoError)
    return _checked(function, path, reference.rpartition(":")[2])


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
            raise VideoError(f"--draw: {name} failed at {failure(error, path)}") from error
        if made is None:  # it drew into the frame
            made = frame
        if not isinstance(made, np.ndarray) or made.dtype != np.uint8 or made.shape != frame.shape:
            found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise VideoError(
                f"--draw: {path}: {name} returned {found}; it must return the frame, uint8 {frame.shape}"
            )
        return made

    return draw
