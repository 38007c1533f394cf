"""Finds and loads the native library; says why there is none.

Nothing is compiled here: the library is built by the installation, by ``make`` or by hand
(``python -m videoeff.kernels.cpp.build``).

One environment variable is read, ``VIDEOEFF_NATIVE``: the path of another build of the library, so that the
tests can run against one with sanitizers.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from videoeff.errors import BackendError
from videoeff.kernels.cpp import abi, build

VARIABLE = "VIDEOEFF_NATIVE"

#: Names of the instruction sets, in the order of their numbers.
ISA_NAMES = tuple(isa.name.lower() for isa in abi.Isa)


class Library:
    """The loaded library.

    The functions of ``videoeff.h`` are attributes under their own names. Other Python threads run meanwhile.

    Attributes:
        path: the file.
        best_isa: number of the best instruction set this processor has, an index into `ISA_NAMES`.
        products: the best way to compute products of 8-bit numbers and bfloat16 that it has here.
        compiler: what compiled it.
        sanitize: the sanitizers in it.
    """

    vf_use_openmp: Callable[[int | None], None]
    vf_use_products: Callable[[int], int]
    vf_plan_create: Callable[..., int | None]
    vf_plan_destroy: Callable[[int], None]
    vf_plan_run: Callable[..., int]
    vf_plan_invalidate: Callable[[int], None]
    vf_plan_counts: Callable[[int], Any]
    vf_plan_row_blocks: Callable[[int], int]
    vf_plan_seen: Callable[[int, int], Any]
    vf_common_bytes: Callable[[], int]
    vf_plan_bytes: Callable[[int, int], int]
    vf_mask_read: Callable[[int, int, int, Any], int]
    vf_mask_write: Callable[[int, int, Any], int]
    vf_magnitude_read: Callable[[int, int, Any], int]
    vf_magnitude_write: Callable[[int, int, Any], int]
    vf_all_finite: Callable[[Any, int, int], int]
    vf_planes: Callable[..., None]
    vf_plan_times: Callable[[int, int], Any]

    def __init__(self, path: Path, info: build.BuildInfo) -> None:
        self.path = path
        self.compiler = info.compiler
        self.sanitize = info.sanitize
        try:
            self._library = ctypes.CDLL(str(path))
            self._bind()
        except (OSError, AttributeError) as error:
            raise BackendError(
                f"{path} could not be loaded ({error}); rebuild it: `{build.COMMAND}`"
            ) from error
        self.best_isa = int(self._library.vf_best_isa())
        self.products = abi.Products(self._library.vf_use_products(-1))
        self.use_openmp(True)

    def use_openmp(self, wanted: bool) -> bool:
        """Whether plans work on PyTorch's own OpenMP threads from now on.

        These spin for a while after an operator of PyTorch: other threads would fight them for their cores.

        Args:
            wanted: False: on threads of each plan's own.

        Returns:
            Whether they do: not every build of PyTorch uses OpenMP.
        """
        found = _parallel_of_torch() if wanted else None
        self.vf_use_openmp(found)
        return found is not None

    def _bind(self) -> None:
        for name, (result, arguments) in abi.FUNCTIONS.items():
            function = getattr(self._library, name)
            function.restype = result
            function.argtypes = arguments
            setattr(self, name, function)
        if self._library.vf_abi() != abi.ABI:
            raise OSError(f"its interface is number {self._library.vf_abi()}, wanted is {abi.ABI}")
        for structure in abi.STRUCTURES:
            name = f"vf_{structure.__name__.lower()}"
            self._compare(name, ctypes.sizeof(structure), "has {} bytes, wanted are {}")
            for field, *_ in structure._fields_:
                where = getattr(structure, field).offset
                self._compare(f"{name}.{field.rstrip('_')}", where, "lies at {}, wanted is {}")

    def _compare(self, what: str, here: int, words: str) -> None:
        there = self._library.vf_layout(what.encode())
        if there < 0:
            raise OSError(f"it has no {what}")
        if there != here:
            raise OSError(f"its {what} {words.format(there, here)}")


def open_library(path: Path, sources: Path | None = None) -> Library:
    """Load the library at `path`, without any memory of it.

    Args:
        path: the file.
        sources: the sources it has to be built from; None: any.

    Raises:
        BackendError: it is not there, of other sources, or does not load.
    """
    try:
        info = build.read_info(path)
    except OSError as error:
        raise BackendError(f"{path} could not be read: {error}") from error
    if info is None and not path.exists():
        raise BackendError(f"{path} is not there")
    if info is None:
        raise BackendError(
            f"{path} was not built by videoeff, or is cut short; rebuild it: `{build.COMMAND}`"
        )
    if sources is not None and info.digest != build.digest(info.sanitize, sources):
        raise BackendError(
            f"{path.name} was compiled from other sources than those of this checkout; "
            f"run `make` or `{build.COMMAND}`"
        )
    return Library(path, info)


def load() -> Library:
    """The native library, loaded once.

    Raises:
        BackendError: there is none, with the reason.
    """
    found = _find()
    if isinstance(found, str):
        raise BackendError(f"no native library: {found}")
    return found


def unavailable() -> str:
    """Why there is no native library, "" if there is."""
    found = _find()
    return found if isinstance(found, str) else ""


def isa_names() -> tuple[str, ...]:
    """The instruction sets the native library can use on this processor; their indices are their numbers."""
    found = _find()
    return () if isinstance(found, str) else ISA_NAMES[: found.best_isa + 1]


@cache
def _parallel_of_torch() -> int | None:
    """The address of ``GOMP_parallel`` in PyTorch's OpenMP runtime; LLVM's has it as well."""
    if not torch.backends.openmp.is_available():  # type: ignore[no-untyped-call]
        return None
    path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        # looked up in the libraries that this one was linked with
        function = ctypes.CDLL(str(path)).GOMP_parallel
    except (OSError, AttributeError):
        return None
    return ctypes.cast(function, ctypes.c_void_p).value


@cache
def _find() -> Library | str:
    chosen = os.environ.get(VARIABLE, "")
    try:
        if chosen:
            return open_library(Path(chosen), _own_sources())
        if not build.LIBRARY.exists():
            return missing()
        return open_library(build.LIBRARY, _own_sources())
    except BackendError as error:
        return f"{error} ({VARIABLE} names it)" if chosen else str(error)


def missing() -> str:
    """Why no library lies in the package."""
    if sys.platform == "win32":
        return "the native kernels are not built on Windows in this version"
    try:
        build.find_compiler()
    except build.NoCompilerError as error:
        return f"not compiled: {error}, then run `{build.COMMAND}`"
    return f"not compiled when videoeff was installed; run `{build.COMMAND}`"


def _own_sources() -> Path | None:
    """The sources of a checkout, which may change under the library; None for an installed package."""
    checkout = Path(__file__).resolve().parents[3]
    return build.SOURCES if (checkout / "pyproject.toml").is_file() else None


_warned = threading.Event()


def warn_if_missing() -> None:
    """Warn, once a process, that a stream on a CPU will run without the native library.

    To be called when a stream for a CPU is lowered with ``backend="auto"``.
    """
    reason = unavailable()
    if reason and not _warned.is_set():
        _warned.set()
        warnings.warn(
            f"videoeff computes with the slow reference backend: no native library, {reason}",
            UserWarning,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """How many calls up from the caller of this function the first one outside videoeff is."""
    package = str(Path(__file__).resolve().parents[2]) + os.sep
    frame = sys._getframe(1)
    level = 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame = frame.f_back
        level += 1
    return level
