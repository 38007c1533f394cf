"""``videoeff doctor``: what is here, and which backends serve."""

from __future__ import annotations

from typing import Any

import click

from videoeff.cli.shared.output import Command, emit, json_option, show

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "av",
    "pillow",
    "safetensors",
    "networkx",
    "rich",
    "click",
)
OPTIONAL = ("timm", "onnxruntime", "openvino")
FEATURES = (
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
)
#: How the native kernels multiply where values are not float32 or float64.
PRODUCTS = {
    "plain": "no instructions of their own for products",
    "dot": "dot products (AVX-512 VNNI and BF16, AVX-VNNI)",
    "tile": "matrix tiles (AMX)",
}


@click.command(cls=Command, short_help="Show versions, processor, GPU and backends.")
@json_option
def doctor(as_json: bool) -> None:
    """Show versions, the processor's features, the GPU, the compiler, and which backends serve."""
    facts = gather()
    if as_json:
        emit(facts)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _lines(facts):
        table.add_row(Text(name), Text(value))
    show(table)


def gather() -> dict[str, Any]:
    """All facts as plain values."""
    import os
    import platform

    import torch

    from videoeff.kernels import BACKENDS
    from videoeff.version import __version__

    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "videoeff": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in (*PACKAGES, *OPTIONAL)},
        "cpu": {
            "name": _cpu_name(),
            "cores": len(available) or os.cpu_count(),
            "threads": torch.get_num_threads(),
            "features": _cpu_features(),
            "torch": torch.backends.cpu.get_cpu_capability(),
        },
        "gpu": _gpus(),
        **{name: facts for backend in BACKENDS for name, facts in backend.host.facts().items()},
        "backends": _backends(),
    }


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    cpu = facts["cpu"]
    lines = [
        ("videoeff", f"{facts['videoeff']}, Python {facts['python']}, {facts['system']}"),
        ("packages", ", ".join(f"{k} {v}" for k, v in facts["packages"].items() if v and k not in OPTIONAL)),
        ("optional", ", ".join(f"{k} {facts['packages'][k] or '(not installed)'}" for k in OPTIONAL)),
        ("processor", f"{cpu['name']}, {cpu['cores']} core(s), {cpu['threads']} thread(s)"),
        ("features", f"{', '.join(cpu['features']) or 'none known'}; PyTorch uses {cpu['torch']}"),
    ]
    gpu = facts["gpu"]
    found = "; ".join(f"{d['name']}, sm_{d['capability']}, {d['memory_gb']} GB" for d in gpu["devices"])
    lines.append(("GPU", found or gpu["why_none"]))
    compiler = facts["compiler"]
    lines.append(("C++ compiler", compiler["version"] or compiler["why_none"]))
    native = facts["native"]
    usable = f"{', '.join(native['instruction_sets'])} work here; compiled with {native['compiler']}"
    lines.append(("native library", native["why_none"] or usable))
    if not native["why_none"]:
        lines.append(("8-bit and bfloat16", PRODUCTS[native["products"]]))
        lines.append(("kernels' costs", _costs(native)))
    for backend in facts["backends"]:
        word = "serves" if backend["serves"] else f"does not serve: {backend['reason']}"
        lines.append((f"backend {backend['name']}", word))
    return lines


def _costs(native: dict[str, Any]) -> str:
    """Whose table of costs serves."""
    notes = native["costs_notes"]
    if native["tuned"]:
        by = "at the first use" if notes.get("by") == "first use" else "by `videoeff tune`"
        day = f" on {notes['date']}" if "date" in notes else ""
        return f"measured here {by}{day}: {native['tuned']}"
    if native["costs_fit"]:
        return "shipped, of this processor"
    return "shipped, of another processor; the first stream measures this one, or `videoeff tune`"


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.partition(":")[0].strip() == key:
                    return line.partition(":")[2].strip()
    except OSError:
        return ""  # not Linux
    return ""


def _cpu_name() -> str:
    import platform

    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpu_features() -> list[str]:
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return [f for f in FEATURES if f in flags]


def _gpus() -> dict[str, Any]:
    import torch

    if torch.cuda.is_available():
        devices = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                {
                    "name": properties.name,
                    "capability": f"{properties.major}{properties.minor}",
                    "memory_gb": round(properties.total_memory / 1e9),
                }
            )
        return {"devices": devices, "why_none": ""}
    built = torch.version.cuda
    why = (
        f"PyTorch is built for CUDA {built} but finds no device or driver"
        if built
        else "PyTorch is built without CUDA"
    )
    return {"devices": [], "why_none": why}


def _backends() -> list[dict[str, Any]]:
    """Every backend in the order ``auto`` tries them, and why one does not serve."""
    from videoeff.kernels import BACKENDS

    found = [(backend.name, backend.unavailable()) for backend in BACKENDS]
    return [{"name": name, "serves": not reason, "reason": reason} for name, reason in found]
