"""What a model and an example call must be to be captured; each refusal says what to give instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.analysis import is_convolution
from videoeff.errors import CaptureError
from videoeff.ir.layout import info
from videoeff.ir.program import Program
from videoeff.ops.base import bind, op_name

#: Values of a call that are constants of the stream: another one is another call.
_LITERALS = (
    type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.memory_format,
    torch.layout, torch.Size, torch.Generator,
)  # fmt: skip

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def require_model(model: nn.Module, name: str) -> None:
    """Raise unless a module is of a kind that can be captured.

    Raises:
        CaptureError: it, or a submodule, is TorchScript or quantised, or has no weights yet.
    """
    for path, module in model.named_modules():
        where = f"{name}: {f'its submodule {path!r}' if path else 'it'}"
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{where} is TorchScript, which torch.export does not take; give the Python module that was "
                "scripted or traced, or what torch.export.export makes of it"
            )
        kind = type(module)
        if (
            kind.__module__.startswith(_QUANTIZED)
            and "dynamic" not in kind.__module__
            and "Packed" not in kind.__name__
        ):
            raise CaptureError(
                f"{where} is quantised ({kind.__name__} of torch.ao), which a stream does not compute; give "
                "the float model (a stream of it may be cast: stream.to(torch.bfloat16))"
            )
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
                raise CaptureError(
                    f"{where} ({kind.__name__}) is lazy and has no {key!r} yet; call the model once before "
                    "converting"
                )
            if isinstance(tensor, Tensor) and tensor.is_meta:
                raise CaptureError(
                    f"{where} ({kind.__name__}) has no values in {key!r}: it lies on the meta device; load "
                    "the weights first (to_empty, then load_state_dict)"
                )


def require_call(args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> None:
    """Raise unless an example call holds tensors and constants alone.

    Raises:
        CaptureError: it holds an object of another class.
    """
    for path, leaf in pytree.tree_leaves_with_path((tuple(args), dict(kwargs))):
        if isinstance(leaf, (Tensor, *_LITERALS)):
            continue
        kind = type(leaf)
        place = pytree.keystr(path[1:])
        what = f"argument {place}" if path[0] == pytree.SequenceKey(0) else f"keyword argument {place}"
        raise CaptureError(
            f"{name}: {what} is a {kind.__module__}.{kind.__qualname__}, whose tensors cannot be seen; "
            f"register the class: torch.export.register_dataclass({kind.__qualname__}) for a dataclass, else "
            f"torch.utils._pytree.register_pytree_node({kind.__qualname__}, flatten, unflatten)"
        )


def require_inference(exported: torch.export.ExportedProgram, name: str) -> None:
    """Raise if a model was exported in training mode.

    Raises:
        CaptureError: a batch norm that has running statistics normalises by those of the frame, or a dropout
            drops.
    """
    for node in exported.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        given, kind = bind(node), op_name(node)
        trains = True in (given.get("training"), given.get("train"), given.get("use_input_stats"))
        statistics = kind == "_native_batch_norm_legit_functional" or given.get("running_mean") is not None
        drops = "dropout" in kind and given.get("p", 1) != 0
        if trains and (drops or ("norm" in kind and statistics)):
            what = "drops values at random" if drops else "normalises by the frame's own statistics"
            raise CaptureError(
                f"{name}: it was exported in training mode: {node.name} ({kind}) {what}; call model.eval() "
                "before torch.export.export"
            )


def require_batch(program: Program) -> None:
    """Raise if a picture without a batch leaves nothing to follow.

    Raises:
        CaptureError: no input has four dimensions, one has three, and no two-dimensional convolution's pixels
            are followed.
    """
    shapes = [tuple(info(node).shape or ()) for node in program.placeholders]
    convolutions = [n for n in program.nodes if is_convolution(n) and len(info(n).shape or ()) in (3, 4)]
    flat = [n for n in convolutions if op_name(n) in ("conv2d", "conv_transpose2d")]
    if not flat or any(len(s) >= 4 for s in shapes) or not any(len(s) == 3 for s in shapes):
        return
    if all(info(node).dense for node in convolutions):
        shape = list(next(s for s in shapes if len(s) == 3))
        raise CaptureError(
            f"{program.name}: the example is {shape}, a picture without a batch, and no pixel of it can "
            f"be followed; give a batch, {[1, *shape]} (frame[None]), to a model that takes one; where the "
            "model's own code adds it, convert the module that is called with the batch"
        )
