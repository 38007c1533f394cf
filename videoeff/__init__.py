"""videoeff: run trained CNNs on video at the cost of what changed.

::

    import videoeff

    stream = videoeff.convert(model, example)
    for frame in clip:
        out = stream(frame)
    print(stream.report())

Importing the package imports neither PyTorch nor anything heavy; attributes do.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from videoeff.version import __version__

if TYPE_CHECKING:
    from videoeff.calibration.calibrate import calibrate
    from videoeff.conversion import convert
    from videoeff.fleet.fleet import Fleet
    from videoeff.runtime.streaming_module import StreamingModule
    from videoeff.serialize.load import load

_LAZY = {
    "Fleet": "videoeff.fleet.fleet",
    "calibrate": "videoeff.calibration.calibrate",
    "convert": "videoeff.conversion",
    "load": "videoeff.serialize.load",
    "StreamingModule": "videoeff.runtime.streaming_module",
}

__all__ = ["Fleet", "StreamingModule", "__version__", "calibrate", "convert", "load"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'videoeff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
