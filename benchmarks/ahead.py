"""Compile a launch for a GPU that is not there: registers, spills, shared memory and matrix instructions."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from videoeff.kernels.triton.binding import Launch

TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32",
    torch.int64: "*i64", torch.uint8: "*u8",
}  # fmt: skip


@dataclass(frozen=True)
class Compiled:
    """What became of a kernel.

    Attributes:
        registers: of a thread.
        spilled: bytes of registers that went to memory, stores and loads.
        shared: bytes of shared memory of a block.
        warpgroup, warp: whether the code multiplies matrices by warp groups (wgmma) or by warps (mma).
    """

    registers: int
    spilled: int
    shared: int
    warpgroup: bool
    warp: bool


class Pretended:
    """Triton's driver of a GPU that is not touched: enough to compile as a launch would, into its cache."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_device(self) -> int:
        """Its number."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The stream of the launch."""
        return 0

    def get_current_target(self) -> Any:
        """What is compiled for."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)


def compile_ahead(launch: Launch, capability: int) -> Compiled:
    """Compile a launch for compute capability 80, 90, ... as the launcher would at run time.

    Tensors need no memory: those of a plan on the "meta" device do.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    given = dict(launch.arguments) | dict.fromkeys(launch.told, 2)
    names = launch.kernel.arg_names
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    free = {
        n
        for i, n in enumerate(names)
        if i in launch.kernel.do_not_specialize or n in launch.kernel.do_not_specialize
    }
    fixed = {p.name for p in launch.kernel.params if p.is_constexpr}
    for i, name in enumerate(names):
        if name in fixed:
            signature[name], constants[(i,)] = "constexpr", given[name]
        else:
            signature[name] = _type(given[name], (i,), constants, attributes, name in free)
    target = GPUTarget("cuda", capability, 32)
    source = ASTSource(launch.kernel, signature, constants, attributes)
    made = triton.compile(source, target=target, options=dict(launch.options))
    ptx = made.asm["ptx"]
    registers, spilled = _resources(made.asm["cubin"])
    return Compiled(registers, spilled, int(made.metadata.shared), "wgmma.mma" in ptx, "mma.sync" in ptx)


def _type(
    value: Any,
    path: tuple[int, ...],
    constants: dict[tuple[int, ...], Any],
    attributes: dict[tuple[int, ...], Any],
    free: bool = False,
) -> Any:
    if isinstance(value, tuple):
        types = [_type(v, (*path, i), constants, attributes) for i, v in enumerate(value)]
        return type(value)(*types) if hasattr(value, "_fields") else tuple(types)
    if isinstance(value, Tensor):
        if value.storage_offset() * value.element_size() % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return TYPES[value.dtype]
    if isinstance(value, tl.constexpr):
        value = value.value
        constants[path] = value
        return "constexpr"
    if value is None or (value == 1 and not free and isinstance(value, int)):
        constants[path] = value
        return "constexpr"
    if isinstance(value, float):
        return "fp32"
    if value % 16 == 0 and not free:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes spilled, as ``cuobjdump`` reads them off a binary.

    Triton 3.8 reserves eight bytes in some kernels that no instruction ever loads or stores: no spill.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [tool("cuobjdump"), "-res-usage", str(path)], capture_output=True, text=True, check=True
        )
        code = subprocess.run([tool("nvdisasm"), "-c", str(path)], capture_output=True, text=True, check=True)
    found = dict(_numbers(text.stdout + text.stderr))
    used = re.search(r"\b(?:LDL|STL)\b", code.stdout) is not None
    return found["REG"], found.get("STACK", 0) + found.get("LOCAL", 0) if used else 0


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text):
        yield name, int(number)


def tool(name: str) -> str:
    """The path of one of the tools that come with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
