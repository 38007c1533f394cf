"""What may be converted: everything else is refused by its kind, before anything is traced."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from videoeff.capture.reachable import fields
from videoeff.errors import CaptureError
from videoeff.ops.base import bind

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_PREPARED = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize")


def unwrapped(model: Any) -> Any:
    """The module inside ``torch.compile`` or (distributed) ``DataParallel``; else the model itself."""
    while True:
        if type(model).__name__ == "OptimizedModule" and isinstance(model, nn.Module):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def require_model(model: Any, planning: bool = False) -> None:
    """Raise :class:`CaptureError` where a model is of a kind that cannot be captured, with what to give."""
    if isinstance(model, torch.export.ExportedProgram):
        _require_inference(model.graph_module, "the exported program")
        return
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise CaptureError(
            f"the model is TorchScript (a {type(model).__name__}), which cannot be captured; give the "
            "torch.nn.Module that was scripted or traced (its weights: "
            "module.load_state_dict(scripted.state_dict())), or torch.export.export of it"
        )
    if not isinstance(model, nn.Module):
        raise CaptureError(_no_model(model))
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CaptureError(
                f"{type(model).__name__}: {path} (a {type(module).__name__}) is TorchScript, which cannot be "
                "captured; put the torch.nn.Module that was scripted or traced in its place"
            )
    _require_weights(model, planning)
    _require_not_quantized(model)
    if isinstance(model, fx.GraphModule):
        _require_inference(model, type(model).__name__)


def require_example(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise :class:`CaptureError` where an argument is neither a tensor to stream nor a plain constant.

    Args:
        name: what to call the model.
        args: positional arguments of the example call.
        kwargs: its keyword arguments.
    """
    for index, value in enumerate(pytree.tree_leaves((args, dict(kwargs)))):
        where = f"{name}: argument {index}"
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        if isinstance(value, Tensor):
            if value.ndim > 3 and not value.numel():
                raise CaptureError(f"{where} is {list(value.shape)}, which holds no pixel; give a picture")
            if value.layout is not torch.strided or value.is_nested or value.is_quantized:
                raise CaptureError(
                    f"{where} is a sparse, nested or quantized tensor, which has no pixels to follow; "
                    "give a dense one (.to_dense(), .to_padded_tensor(0.0) or .dequantize())"
                )
        elif kind == "numpy.ndarray":
            raise CaptureError(f"{where} is a {kind}, which would stay as it is; use torch.from_numpy")
        elif _holds_tensors(value):
            raise CaptureError(
                f"{where} is a {kind}, whose tensors cannot be seen; register the class before "
                "converting: torch.utils._pytree.register_pytree_node(cls, lambda v: ([v.a, v.b], None), "
                "lambda leaves, _: cls(*leaves)), or torch.export.register_dataclass(cls) for a dataclass"
            )


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(v, Tensor) for v in pytree.tree_leaves(fields(value) or {}))


def _no_model(model: Any) -> str:
    give = "give a torch.nn.Module or an ExportedProgram"
    if inspect.isclass(model):
        return f"the model is the class {model.__name__}, not an instance of it; give {model.__name__}(...)"
    kind = f"the model is a {type(model).__name__}; {give}"
    if isinstance(model, Mapping):
        return f"{kind} (for a state dict, build the module and load it there: module.load_state_dict(...))"
    if isinstance(model, str) or hasattr(model, "__fspath__"):
        return (
            f"{kind} (for a file: torch.export.load of a .pt2, or build the module and load the file's state "
            "dict there; `videoeff convert FILE --model ...` does both)"
        )
    if callable(model):
        return (
            f"{kind} (for a function, write a module whose forward calls it, with its weights as parameters)"
        )
    return f"{kind} (for a state dict, build the module and load it there)"


def _require_weights(model: nn.Module, planning: bool) -> None:
    name = type(model).__name__
    for path, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise CaptureError(
                f"{name}: {path} of a lazy layer has no size yet; call the model once on an example before "
                "converting"
            )
        if tensor.is_meta and not planning:
            raise CaptureError(
                f"{name}: {path} is on the meta device and has no values; load the weights before "
                "converting: model.load_state_dict(..., assign=True)"
            )
        if tensor.layout is not torch.strided:
            raise CaptureError(
                f"{name}: {path} is sparse ({tensor.layout}), which streams cannot compute with; make it "
                "dense before converting: .to_dense()"
            )


def _require_not_quantized(model: nn.Module) -> None:
    name = type(model).__name__
    give = "give the float model it was made from; a stream computes in the floating dtype of its weights"
    # A fake quantizer switches the observer inside it.
    switched = {child for m in model.modules() if hasattr(m, "observer_enabled") for child in m.children()}
    for path, module in model.named_modules():
        kind, source = type(module).__name__, type(module).__module__
        where = f"{path} ({kind})" if path else kind
        if source.startswith(_QUANTIZED) and ".dynamic" not in source and "Conv" in kind:
            raise CaptureError(
                f"{name}: {where} is an int8 layer of torch.ao.quantization, which cannot be captured; {give}"
            )
        if source.startswith(_PREPARED) and module not in switched and _observes(module):
            raise CaptureError(
                f"{name}: {where} observes values to quantize the model and changes with every frame; "
                f"{give}, or stop it: model.apply(torch.ao.quantization.disable_observer)"
            )


def _require_inference(model: nn.Module, name: str) -> None:
    graphs = [m.graph for m in model.modules() if isinstance(m, fx.GraphModule)]
    for node in (n for g in graphs for n in g.nodes if isinstance(n.target, torch._ops.OpOverload)):
        given = bind(node)
        # Without running statistics a norm has no other mode.
        normed = "running_mean" not in given or given["running_mean"] is not None
        trains = any(given.get(key) is True for key in ("training", "train", "use_input_stats"))
        if trains and normed:
            raise CaptureError(
                f"{name} was made in training mode: {node.name} ({node.target}) takes statistics of the "
                "batch, or random numbers; call model.eval() and export it again"
            )


def _observes(module: nn.Module) -> bool:
    enabled = getattr(module, "observer_enabled", None)
    if isinstance(enabled, Tensor):  # a fake quantizer, whose observer can be switched off
        return bool(enabled.any())
    return type(module).__module__.startswith(_PREPARED[0])


@contextmanager
def ordinary_tensors(model: Any) -> Iterator[None]:
    """Within the block, a module's inference tensors stand as ordinary ones in the same memory.

    What is made under ``torch.inference_mode`` cannot be traced outside it.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    made: dict[int, Tensor] = {}
    for module in model.modules() if isinstance(model, nn.Module) else ():
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers, module.__dict__)
        for held in places:
            for key, value in held.items():
                if isinstance(value, Tensor) and value.is_inference():
                    replaced.append((held, key, value))
                    made.setdefault(id(value), _ordinary(value))
    for held, key, value in replaced:
        held[key] = made[id(value)]
    try:
        yield
    finally:
        for held, key, value in replaced:
            if held.get(key) is made[id(value)]:
                held[key] = value


def _ordinary(value: Tensor) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        twin = torch.empty(0, dtype=value.dtype, device=value.device)
        twin.set_(value.untyped_storage(), value.storage_offset(), value.shape, value.stride())
        return nn.Parameter(twin, requires_grad=False) if isinstance(value, nn.Parameter) else twin
