"""Write a stream as one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videoeff.errors import ArtifactError
from videoeff.passes.pipeline import passes_hash
from videoeff.runtime.body import StreamBody, Surroundings
from videoeff.runtime.engine import Engine
from videoeff.runtime.options import AuditOptions, Options
from videoeff.runtime.signature import Parameters
from videoeff.serialize.files import write_atomic
from videoeff.serialize.format import (
    BFLOAT16_KEY,
    CALLS_KEY,
    CARRIED_KEY,
    CONVOLUTION_MACS_KEY,
    FORMAT,
    FORMAT_VERSION,
    FRAME_SPECS_KEY,
    LEFT_KEY,
    METADATA_DIGEST,
    METADATA_KEY,
    MODEL_KEY,
    SURROUNDINGS_KEY,
    WEIGHTS_PREFIX,
    digest_of,
    digest_of_text,
)
from videoeff.serialize.structure import literals_to_json, spec_to_json
from videoeff.version import __version__


@dataclass(frozen=True)
class Contents:
    """What of a stream is written.

    Attributes:
        name: the model's name in reports.
        body: what the stream runs.
        parameters: of the model's forward.
        options: the stream's options.
        extra: what whoever converted it recorded beside it.
        zones: its zones as JSON, None for none.
    """

    name: str
    body: StreamBody
    parameters: Parameters
    options: Options
    extra: Mapping[str, Any]
    zones: Mapping[str, Any] | None = None


def save(stream: Contents, path: str | Path) -> None:
    """Write a stream; its state is not written, a loaded stream begins with frame 1.

    Raises:
        ArtifactError: the file cannot be written, or a part has no file form (named).
    """
    tensors: dict[str, Tensor] = {}
    engines = []
    for index, (name, engine) in enumerate(stream.body.engines.items()):
        engines.append(_engine_to_json(name, engine))
        for key, tensor in engine.network.named_buffers(remove_duplicate=False):
            tensors[f"{index}:{key}"] = tensor
    around = stream.body.surroundings()
    if around is not None:
        tensors |= {f"{WEIGHTS_PREFIX}{key}": tensor for key, tensor in around.weights.items()}
    unique, aliases = _unshare(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {"videoeff": __version__, "torch": torch.__version__},
        "name": stream.name,
        "options": _options_to_json(stream),
        "parameters": stream.parameters.to_json(),
        "engines": engines,
        SURROUNDINGS_KEY: None if around is None else _surroundings_to_json(stream, around),
        "aliases": aliases,
        "extra": dict(stream.extra),
        "digest": digest_of(unique),
    }
    try:
        text = json.dumps(document)
    except TypeError as error:
        raise ArtifactError(f"{stream.name}: something to be saved has no JSON form: {error}") from error
    from safetensors.torch import save_file

    metadata = {METADATA_KEY: text, METADATA_DIGEST: digest_of_text(text)}
    write_atomic(path, lambda temporary: save_file(unique, temporary, metadata=metadata))


def _options_to_json(stream: Contents) -> dict[str, Any]:
    """The options that a file keeps; of those that 0.1.0 did not have, only what was set."""
    options = stream.options
    found: dict[str, Any] = {"alias_outputs": options.alias_outputs, "nan_policy": options.nan_policy}
    if options.every > 1:
        found["every"] = options.every
    if options.audit != AuditOptions():
        found["audit"] = options.audit.to_json()
    if stream.zones is not None:
        found["zones"] = dict(stream.zones)
    return found


def _unshare(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    unique: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            continue
        seen[key] = name
        unique[name] = tensor.detach().cpu().contiguous().clone()
    return unique, aliases


def _engine_to_json(name: str, engine: Engine) -> dict[str, Any]:
    program = engine.program
    passes = ",".join(r.text for r in program.history)
    carried = [{"name": c.name, "initial": c.initial, "shared": c.shared} for c in program.carried]
    return {
        "name": name,
        "backend": engine.backend,
        "graph": str(program),
        "in_spec": spec_to_json(program.in_spec, program.name),
        "out_spec": spec_to_json(program.out_spec, program.name),
        "literals": literals_to_json(program.literals, program.name),
        "history": [r.to_json() for r in program.history],
        "passes": passes,
        "passes_hash": passes_hash(passes),
        "state": [s.to_json() for s in engine.plan.state],
        **({CARRIED_KEY: carried} if carried else {}),
    }


def _surroundings_to_json(stream: Contents, around: Surroundings) -> dict[str, Any]:
    signature = around.signature
    specs = [{"shape": list(s), "dtype": str(d).removeprefix("torch.")} for s, d in signature.frame_specs]
    return {
        MODEL_KEY: stream.extra.get(MODEL_KEY),
        CALLS_KEY: dict(around.calls),
        "in_spec": spec_to_json(signature.in_spec, stream.name),
        "literals": literals_to_json(signature.literals, stream.name),
        FRAME_SPECS_KEY: specs,
        LEFT_KEY: [list(x) for x in around.left],
        CONVOLUTION_MACS_KEY: around.convolution_macs,
        **({CARRIED_KEY: list(around.outside)} if around.outside else {}),
        **({BFLOAT16_KEY: True} if around.bfloat16 else {}),
    }
