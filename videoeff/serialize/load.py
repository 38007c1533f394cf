"""Read a stream from an artifact.

Loading unpickles nothing and needs no source of the model, except for models that were captured in parts:
their outer code is not in the file, only the name it can be built by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.analysis import annotate
from videoeff.analysis.verify import verify
from videoeff.capture.canonical import batch_of
from videoeff.capture.export import as_module
from videoeff.errors import ArtifactError, BackendError, VerifyError, VideoEffError
from videoeff.ir.parser import text_to_program
from videoeff.ir.program import Argument, Carried, PassRecord, Program, set_tensor
from videoeff.lowering.choose import choose_backends
from videoeff.passes.pipeline import passes_hash
from videoeff.runtime.bfloat16 import cast_to_bfloat16
from videoeff.runtime.body import StreamBody
from videoeff.runtime.copying import copy_with_shared_weights
from videoeff.runtime.engine import Engine
from videoeff.runtime.options import AuditOptions, Options
from videoeff.runtime.partitioned import PartitionedModel
from videoeff.runtime.signature import FrameSpec, Parameters, Signature
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.runtime.zoning import Zoned
from videoeff.serialize.format import (
    BFLOAT16_KEY,
    CALLS_KEY,
    CARRIED_KEY,
    CONVOLUTION_MACS_KEY,
    FRAME_SPECS_KEY,
    LEFT_KEY,
    MODEL_KEY,
    SURROUNDINGS_KEY,
    WEIGHTS_PREFIX,
    read,
)
from videoeff.serialize.structure import literals_from_json, spec_from_json


def load(
    path: str | Path,
    *,
    model: nn.Module | torch.export.ExportedProgram | None = None,
    backend: str | None = None,
) -> StreamingModule:
    """Read a stream from an artifact.

    Args:
        path: a file that :func:`save` wrote.
        model: for a model captured in parts, the model itself, or what was exported of it; where the file
            names a torchvision or timm model it is built by that name.
        backend: another backend than the one it was converted for.

    Raises:
        ArtifactError: the file is missing, truncated, corrupted, foreign or of a future version.
    """
    document, tensors = read(path)
    if backend is not None:
        choose_backends(backend)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return _rebuild(Path(path), document, tensors, model, backend)
    except ArtifactError as error:
        raise ArtifactError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    except BackendError:
        if backend is not None:
            raise
        raise ArtifactError(
            f"{path}: was converted for a backend that does not serve here; load it with backend='auto'"
        ) from None
    except VideoEffError as error:
        raise ArtifactError(
            f"{path}: its graph is not legal ({error}); the file was changed; convert the model again"
        ) from error
    except Exception as error:
        raise ArtifactError(
            f"{path}: its description is not what videoeff writes ({type(error).__name__}: {error}); "
            "the file was changed or written by another program; convert the model again"
        ) from error


def _rebuild(
    path: Path,
    document: dict[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module | torch.export.ExportedProgram | None,
    backend: str | None,
) -> StreamingModule:
    engines: dict[str, Engine] = {}
    for index, entry in enumerate(document["engines"]):
        prefix = f"{index}:"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        engines[entry["name"]] = Engine(_program(path, entry, own), backend or entry["backend"])
    around = document[SURROUNDINGS_KEY]
    body: StreamBody = engines[""] if around is None else _partitioned(path, around, engines, tensors, model)
    options = document["options"]
    return StreamingModule(
        body,
        Options(
            alias_outputs=options["alias_outputs"],
            nan_policy=options["nan_policy"],
            every=options.get("every", 1),  # kept where they were set
            audit=AuditOptions.from_json(options.get("audit", {})),
        ),
        name=_text(document["name"]),
        forward_parameters=Parameters.from_json(document["parameters"]),
        extra=dict(document["extra"]),
        zoned=Zoned.from_json(options["zones"], body) if "zones" in options else None,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _program(path: Path, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Program:
    if passes_hash(entry["passes"]) != entry["passes_hash"]:
        raise ArtifactError(
            f"{path}: its passes are not those that were saved: the file was changed; convert anew"
        )
    program = text_to_program(
        entry["graph"],
        tensors,
        spec_from_json(entry["in_spec"]),
        spec_from_json(entry["out_spec"]),
        literals_from_json(entry["literals"]),
    )
    history = tuple(
        PassRecord(h["name"], h["text"], h["changed"], tuple(h["notes"])) for h in entry["history"]
    )
    carried = tuple(_carried(path, c, program, tensors) for c in entry.get(CARRIED_KEY, ()))
    program = replace(program, history=history, carried=carried)
    _check_call(program)
    verify(annotate(program))
    return program


def _carried(
    path: Path, entry: Mapping[str, Any], program: Program, tensors: Mapping[str, Tensor]
) -> Carried:
    """A buffer that the network changes; the value it begins with becomes a constant of the Program."""
    initial = entry["initial"]
    if initial not in tensors or not str(initial).isidentifier():
        raise ArtifactError(f"{path}: holds no first value of the buffer {entry['name']!r}; convert anew")
    set_tensor(program.module, initial, tensors[initial])
    return Carried(_text(entry["name"]), initial, bool(entry["shared"]))


def _check_call(program: Program) -> None:
    """Do the graph's inputs and outputs fit the call's structure?"""
    inputs = sum(value is Argument.TENSOR for value in program.literals)
    outputs = program.output.args[0]
    call = pytree.tree_unflatten(list(program.literals), program.in_spec)
    nodes = program.placeholders
    shapes = [node.meta["input"][0] for node in nodes[:inputs]]
    carried = [node.meta["input"] for node in nodes[inputs:]]
    fits = (
        isinstance(call, tuple)
        and [type(v) for v in call] == [tuple, dict]
        and program.streams in _batches(shapes)
        and carried == [(tuple(t.shape), t.dtype) for t in program.initial()]
        and program.in_spec.num_leaves == len(program.literals)
        and isinstance(outputs, tuple)
        and program.out_spec.num_leaves == len(outputs) - len(carried)
    )
    if not fits:
        raise VerifyError(f"{program.name}: its inputs or outputs are not those of its call")


def _batches(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """How many streams inputs of these shapes may be; pictures without a batch dimension are one."""
    batch = batch_of([torch.empty(shape, device="meta") for shape in shapes])
    return (batch,) if any(len(shape) in (4, 5) for shape in shapes) else (batch, 1)


def _partitioned(
    path: Path,
    entry: Mapping[str, Any],
    engines: Mapping[str, Engine],
    tensors: Mapping[str, Tensor],
    model: nn.Module | torch.export.ExportedProgram | None,
) -> PartitionedModel:
    if model is None:
        from videoeff.serialize.models import build_trusted

        reference = entry[MODEL_KEY]
        if not reference:
            raise ArtifactError(
                f"{path}: holds parts of a model whose outer code is not in the file; pass the model itself: "
                "videoeff.load(path, model=model.eval())"
            )
        model = build_trusted(reference, f"{path}")
    if isinstance(model, torch.export.ExportedProgram):
        model = as_module(model, f"{path}")
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"{path}: model is a {type(model).__name__}; give the torch.nn.Module itself")
    weights = {k.removeprefix(WEIGHTS_PREFIX): v for k, v in tensors.items() if k.startswith(WEIGHTS_PREFIX)}
    model = copy_with_shared_weights(model).eval()
    if entry.get(BFLOAT16_KEY):
        model = cast_to_bfloat16(model)
    missing = _put_weights(model, weights)
    missing += [module for module in entry[CALLS_KEY] if module not in dict(model.named_modules())]
    if missing:
        raise ArtifactError(
            f"{path}: the model given is not the one that was converted: {missing[0]!r} does not fit "
            f"({len(missing)} such); build the model as it was built for the conversion"
        )
    found: dict[str, list[Engine]] = {}
    for module, count in entry[CALLS_KEY].items():
        names = [module] if count == 1 else [f"{module}#{i + 1}" for i in range(count)]
        found[module] = [engines[n] for n in names]
    signature = Signature(
        spec_from_json(entry["in_spec"]),
        literals_from_json(entry["literals"]),
        tuple(FrameSpec(tuple(f["shape"]), getattr(torch, f["dtype"])) for f in entry[FRAME_SPECS_KEY]),
    )
    left = tuple((p, r) for p, r in entry[LEFT_KEY])
    outside = [_text(name) for name in entry.get(CARRIED_KEY, ())]
    return PartitionedModel(model, found, signature, left, entry[CONVOLUTION_MACS_KEY], outside)


def _put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Give a model its weights; the names that do not fit."""
    wanted = model.state_dict()
    odd = [n for n, t in weights.items() if n not in wanted or wanted[n].shape != t.shape]
    odd += [n for n in wanted if n not in weights]
    if not odd:
        model.load_state_dict(dict(weights), strict=True, assign=True)
    return odd
