"""Compiles the native kernels when a wheel is built, which every `pip install` of the sources does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

PLACE = "videoeff/kernels/cpp"


class NativeBuildHook(BuildHookInterface):
    """Puts the native library into the wheel; without a compiler the wheel is pure."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the library in the tree is of these sources already."""
        build = _load(Path(self.root) / PLACE / "build.py")
        try:
            if not build.is_current(build.LIBRARY):
                info = build.build()
                self.app.display_info(f"videoeff: native kernels compiled with {info.compiler}")
        except (build.BuildError, OSError) as error:
            self.app.display_warning(
                f"videoeff: the native kernels are left out, the slow reference will compute: {error}"
            )
            return
        if version == "standard":  # an editable install finds the library in the tree
            build_data["artifacts"].append(f"/{PLACE}/{build.LIBRARY.name}")
            build_data["pure_python"] = False
            build_data["tag"] = (
                f"py3-none-{_platform()}"  # loaded by ctypes: any Python, this kind of machine
            )


def _load(path: Path) -> ModuleType:
    """The module at a path; videoeff itself cannot be imported where its dependencies are not installed."""
    spec = importlib.util.spec_from_file_location("videoeff_native_build", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _platform() -> str:
    """The platform's own tag; manylinux and musllinux promise more than was checked."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
