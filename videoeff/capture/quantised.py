"""A network with 8-bit weights and values, made of one in floating point and some frames."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.capture.export import quiet
from videoeff.capture.quantise_worker import NETWORK, QUANTISED
from videoeff.capture.workers import run_worker
from videoeff.errors import BackendError, CaptureError, first_line
from videoeff.ops.base import op_name
from videoeff.ops.quantize import REGISTERED_BY

#: Precisions that ``convert`` makes of a network in floating point.
PRECISIONS = ("bf16", "int8")
PACKAGES = ("nncf", "torchao")
#: Frames to calibrate on, at most; further ones are left.
MOST = 300


def check_precision(precision: str | None, calibration: Any) -> None:
    """Whether a precision can be made.

    Raises:
        BackendError: it is unknown, has no frames, or lacks its packages.
    """
    if precision is None:
        if calibration is not None:
            raise BackendError("calibration frames without a precision; give precision='int8' too")
        return
    if precision not in PRECISIONS:
        raise BackendError(f"no precision {precision!r}; there is {', '.join(PRECISIONS)}, and None")
    if precision == "bf16":
        if calibration is not None:
            raise BackendError("precision='bf16' needs no frames to calibrate on; drop calibration")
        return
    if calibration is None:
        raise BackendError(
            "precision='int8' needs frames to calibrate on: calibration=frames, 20 to 300 calls like the "
            "example, spread over a clip"
        )
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise BackendError(
            f"precision='int8' quantises by NNCF: {' and '.join(absent)} not installed; "
            "pip install 'videoeff[int8]'"
        )


def quantised(
    model: nn.Module | torch.export.ExportedProgram,
    args: tuple[Any, ...],
    frames: Iterable[Any],
    name: str,
) -> torch.export.ExportedProgram:
    """The network after NNCF's post-training quantisation (min-max, with fast bias correction).

    Weights are symmetric; values have a zero of their own (NNCF's preset "mixed"), which costs SiLU
    networks less: on YOLOX-Nano the error falls by a fifth to a third.

    NNCF rather than torchao: its quantisation is OpenVINO's, which a stream is compared with; a scale for
    each channel of what depthwise convolutions read and corrected biases leave YOLOX-Nano half of the error.

    Args:
        model: in evaluation mode, on the CPU, in float32.
        args: of a call, all of them positional.
        frames: to calibrate on: each one call's argument, or a tuple of its positional arguments.
        name: of the model, for messages.

    Raises:
        CaptureError: it cannot be exported whole, or a frame is no call of it.
        BackendError: quantising failed.
    """
    _require_float32(args, name)
    whole = model.module() if isinstance(model, torch.export.ExportedProgram) else model
    try:
        with torch.no_grad(), quiet():
            exported = torch.export.export(whole, args, strict=False)  # of the example's size alone
    except Exception as error:
        raise CaptureError(
            f"{name}: it cannot be exported whole, and only such a network can be quantised here: "
            f"{first_line(error)}; quantise the parts that can be, and convert the model with them"
        ) from error
    if any(op_name(n).startswith("quantized_decomposed") for n in exported.graph.nodes):
        raise CaptureError(
            f"{name}: it is quantised already, and streams in integers as it is; drop precision"
        )
    with tempfile.TemporaryDirectory(prefix="videoeff-int8-") as name_of_folder:
        folder = Path(name_of_folder)
        torch.export.save(exported, folder / NETWORK)
        _write_calls(folder, args, frames, name)
        run_worker("videoeff.capture.quantise_worker", folder, torch.get_num_threads(), f"{name}: ")
        importlib.import_module(REGISTERED_BY)
        return torch.export.load(folder / QUANTISED)


def _write_calls(folder: Path, args: tuple[Any, ...], frames: Iterable[Any], name: str) -> None:
    """One file for each call."""
    if isinstance(frames, str | bytes | Tensor) or not isinstance(frames, Iterable):
        raise CaptureError(
            f"{name}: calibration is a {type(frames).__name__}; give a list of calls like the example"
        )
    wanted, shown = pytree.tree_flatten(args)[1], _form(args)
    count = 0
    for frame in frames:
        call = frame if isinstance(frame, tuple) else (frame,)
        leaves, structure = pytree.tree_flatten(call)
        odd = structure != wanted or _form(call) != shown
        if odd:
            raise CaptureError(
                f"{name}: calibration frame {count} is {_form(call)}, the example {shown}; give such calls"
            )
        if not all(bool(torch.isfinite(v).all()) for v in leaves if isinstance(v, Tensor)):
            raise CaptureError(f"{name}: calibration frame {count} holds NaN or infinity; leave it out")
        torch.save(call, folder / f"{count}.pt")
        count += 1
        if count == MOST:
            break
    if not count:
        raise BackendError(f"{name}: calibration holds no frame; give at least one, better 100")


def _require_float32(args: tuple[Any, ...], name: str) -> None:
    """Whether NNCF can quantise a network that is called so."""
    for value in pytree.tree_leaves(args):
        other = isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32
        if other or (isinstance(value, Tensor) and value.device.type != "cpu"):
            raise CaptureError(
                f"{name}: its example is {value.dtype} on {value.device}; a network is quantised in float32 "
                "on the CPU: give model and example so"
            )


def _form(call: tuple[Any, ...]) -> str:
    """What a call is made of, for messages and to compare."""

    def one(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"{value.dtype} {list(value.shape)}".removeprefix("torch.")
        return f"{type(value).__name__} {value!r}" if isinstance(value, int | float) else type(value).__name__

    return str(pytree.tree_map(one, call[0] if len(call) == 1 else call))
