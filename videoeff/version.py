"""The package's version, which stands in pyproject.toml alone."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("videoeff")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "unknown"
