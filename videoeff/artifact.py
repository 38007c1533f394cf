"""Artefacts: a converted stream as one file.

The file is a safetensors file. Its tensors are the constants of the rewritten graphs; its metadata holds
one JSON text with the graphs (as text that parses back), the passes and their hash, thresholds (they
stand in the graphs), the state schema, preprocessing and versions. Loading unpickles nothing and needs no
source of the model, except for models that were captured in parts: their outer code is not in the file,
only the name it can be built by.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from videoeff.analysis import annotate
from videoeff.capture import batch_of
from videoeff.engine import Engine
from videoeff.errors import ArtifactError, BackendError, VerifyError, VideoEffError
from videoeff.files import write_atomic
from videoeff.lower import choose_implementations
from videoeff.passes.pipeline import passes_hash
from videoeff.program import Argument, PassRecord, Program
from videoeff.runtime import StreamingModule
from videoeff.shell import Shell, copy_with_shared_weights
from videoeff.signature import Parameters
from videoeff.structure import literals_from_json, literals_to_json, spec_from_json, spec_to_json
from videoeff.text import program_to_text, text_to_program
from videoeff.verify import verify
from videoeff.version import __version__

FORMAT = "videoeff"
FORMAT_VERSION = 1
_KEY = "videoeff"
_DIGEST = "videoeff_sha256"
_REFERENCE = "model"  # the key of stream.extra that names the model


def save(stream: StreamingModule, path: str | Path) -> None:
    """Write a stream; its state is not written, a loaded stream begins with frame 1.

    Raises:
        ArtifactError: the file cannot be written, or a part has no file form (named).
    """
    tensors: dict[str, Tensor] = {}
    engines = []
    for index, (name, engine) in enumerate(stream.engines.items()):
        engines.append(_engine_to_json(name, engine))
        for key, tensor in engine.network.named_buffers(remove_duplicate=False):
            tensors[f"{index}:{key}"] = tensor
    shell = None
    if stream.shell is not None:
        shell = _shell_to_json(stream)
        tensors |= {f"shell:{key}": tensor for key, tensor in stream.shell.weights().items()}
    unique, aliases = _unshare(tensors)
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "versions": {"videoeff": __version__, "torch": torch.__version__},
        "name": stream.name,
        "options": {"alias_outputs": stream.alias_outputs, "nan_policy": stream.nan_policy},
        "parameters": stream.forward_parameters.to_json(),
        "engines": engines,
        "shell": shell,
        "aliases": aliases,
        "extra": stream.extra,
        "digest": _digest(unique),
    }
    try:
        text = json.dumps(document)
    except TypeError as error:
        raise ArtifactError(f"{stream.name}: something to be saved has no JSON form: {error}") from error
    from safetensors.torch import save_file

    metadata = {_KEY: text, _DIGEST: _digest_of_text(text)}
    write_atomic(path, lambda temporary: save_file(unique, temporary, metadata=metadata))


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


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _engine_to_json(name: str, engine: Engine) -> dict[str, Any]:
    program = engine.program
    passes = ",".join(r.text for r in program.history)
    return {
        "name": name,
        "backend": engine.backend,
        "graph": program_to_text(program),
        "in_spec": spec_to_json(program.in_spec, program.name),
        "out_spec": spec_to_json(program.out_spec, program.name),
        "literals": literals_to_json(program.literals, program.name),
        "history": [r.to_json() for r in program.history],
        "passes": passes,
        "passes_hash": passes_hash(passes),
        "state": [s.to_json() for s in engine.plan.state],
    }


def _shell_to_json(stream: StreamingModule) -> dict[str, Any]:
    shell = stream.shell
    assert shell is not None  # asked by the caller
    leaves = [{"shape": list(s), "dtype": str(d).removeprefix("torch.")} for s, d in shell.frames]
    return {
        "model": stream.extra.get(_REFERENCE),
        "sites": {path: len(site.engines) for path, site in shell.sites.items()},
        "in_spec": spec_to_json(shell.in_spec, stream.name),
        "literals": literals_to_json(shell.literals, stream.name),
        "frames": leaves,
        "left": [list(x) for x in shell.left],
        "convolution_macs": shell.convolution_macs,
    }


def load(path: str | Path, *, model: nn.Module | None = None, backend: str | None = None) -> StreamingModule:
    """Read a stream.

    Args:
        path: a file that :func:`save` wrote.
        model: for a model captured in parts, the model itself; where the file names a torchvision or timm
            model it is built by that name.
        backend: another backend than the one it was converted for.

    Raises:
        ArtifactError: the file is missing, truncated, corrupted, foreign or of a future version.
    """
    document, tensors = read(path)
    if backend is not None:
        choose_implementations(backend)
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


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of an artefact, checked.

    Raises:
        ArtifactError: see :func:`load`.
    """
    document = read_document(path)
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    except Exception as error:
        raise ArtifactError(f"{path}: its tensors cannot be read ({error}); the file is damaged") from error
    if _digest(tensors) != document.get("digest"):
        raise ArtifactError(
            f"{path}: its tensors are not those that were saved: the file is damaged; copy it again"
        )
    aliases = document.get("aliases")
    if not isinstance(aliases, dict) or any(name not in tensors for name in aliases.values()):
        raise ArtifactError(f"{path}: it names tensors that it does not hold; convert the model again")
    tensors |= {alias: tensors[name] for alias, name in aliases.items()}
    return document, tensors


def read_document(path: str | Path) -> dict[str, Any]:
    """The JSON description alone, which is quick.

    Raises:
        ArtifactError: see :func:`load`.
    """
    from safetensors import SafetensorError, safe_open

    source = Path(path)
    if not source.is_file():
        raise ArtifactError(
            f"{source}: no such file; write one with videoeff convert -o or stream.save(path)"
        )
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{source}: is no artefact of videoeff, or only part of one ({error}); copy it again or convert "
            "the model anew"
        ) from error
    if _KEY not in metadata:
        raise ArtifactError(
            f"{source}: is a safetensors file, but no artefact of videoeff; for a state dict use "
            "videoeff convert with --model"
        )
    if metadata.get(_DIGEST) != _digest_of_text(metadata[_KEY]):
        raise ArtifactError(
            f"{source}: its description is not the one that was saved: the file is damaged; copy it again"
        )
    try:
        document = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source}: its description is damaged ({error}); copy the file again") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ArtifactError(f"{source}: its description is not videoeff's; convert the model anew")
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ArtifactError(
            f"{source}: has format version {version}, this videoeff ({__version__}) reads up to "
            f"{FORMAT_VERSION}; it was written by videoeff "
            f"{document.get('versions', {}).get('videoeff')}: upgrade"
        )
    return document


def _rebuild(
    path: Path,
    document: dict[str, Any],
    tensors: Mapping[str, Tensor],
    model: nn.Module | None,
    backend: str | None,
) -> StreamingModule:
    engines: dict[str, Engine] = {}
    for index, entry in enumerate(document["engines"]):
        prefix = f"{index}:"
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        engines[entry["name"]] = Engine(_program(path, entry, own), backend or entry["backend"])
    options, shell = document["options"], None
    parameters = Parameters.from_json(document["parameters"])
    if document["shell"] is not None:
        shell = _shell(path, document["shell"], engines, tensors, model)
    stream = StreamingModule(
        None if shell is not None else engines[""],
        shell=shell,
        name=_text(document["name"]),
        alias_outputs=options["alias_outputs"],
        nan_policy=options["nan_policy"],
        forward_parameters=parameters,
    )
    stream.extra = dict(document["extra"])
    return stream


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
    program.history = tuple(
        PassRecord(h["name"], h["text"], h["changed"], tuple(h["notes"])) for h in entry["history"]
    )
    _check_call(program)
    verify(annotate(program))
    return program


def _check_call(program: Program) -> None:
    """Do the graph's inputs and outputs fit the call's structure?"""
    inputs = sum(value is Argument.TENSOR for value in program.literals)
    outputs = program.output.args[0]
    call = pytree.tree_unflatten(list(program.literals), program.in_spec)
    shapes = [node.meta["input"][0] for node in program.placeholders]
    fits = (
        isinstance(call, tuple)
        and [type(part) for part in call] == [tuple, dict]
        and program.streams == batch_of([torch.empty(shape, device="meta") for shape in shapes])
        and len(program.placeholders) == inputs
        and program.in_spec.num_leaves == len(program.literals)
        and isinstance(outputs, tuple)
        and program.out_spec.num_leaves == len(outputs)
    )
    if not fits:
        raise VerifyError(f"{program.name}: its inputs or outputs are not those of its call")


def _shell(
    path: Path,
    entry: Mapping[str, Any],
    engines: Mapping[str, Engine],
    tensors: Mapping[str, Tensor],
    model: nn.Module | None,
) -> Shell:
    if model is None:
        from videoeff.models import build_trusted

        reference = entry["model"]
        if not reference:
            raise ArtifactError(
                f"{path}: holds parts of a model whose outer code is not in the file; pass the model itself: "
                "videoeff.load(path, model=model.eval())"
            )
        model = build_trusted(reference, f"{path}")
    if not isinstance(model, nn.Module):
        raise ArtifactError(f"{path}: model is a {type(model).__name__}; give the torch.nn.Module itself")
    weights = {k.removeprefix("shell:"): v for k, v in tensors.items() if k.startswith("shell:")}
    model = copy_with_shared_weights(model).eval()
    missing = _put_weights(model, weights)
    missing += [site for site in entry["sites"] if site not in dict(model.named_modules())]
    if missing:
        raise ArtifactError(
            f"{path}: the model given is not the one that was converted: {missing[0]!r} does not fit "
            f"({len(missing)} such); build the model as it was built for the conversion"
        )
    found: dict[str, list[Engine]] = {}
    for site, count in entry["sites"].items():
        names = [site] if count == 1 else [f"{site}#{i + 1}" for i in range(count)]
        found[site] = [engines[n] for n in names]
    shell = Shell(model, found, ((), {}), tuple((p, r) for p, r in entry["left"]), entry["convolution_macs"])
    shell.in_spec = spec_from_json(entry["in_spec"])
    shell.literals = literals_from_json(entry["literals"])
    shell.set_frames([(tuple(f["shape"]), getattr(torch, f["dtype"])) for f in entry["frames"]])
    return shell


def _put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Give a model its weights; the names that do not fit."""
    wanted = model.state_dict()
    odd = [n for n, t in weights.items() if n not in wanted or wanted[n].shape != t.shape]
    odd += [n for n in wanted if n not in weights]
    if not odd:
        model.load_state_dict(dict(weights), strict=True, assign=True)
    return odd
