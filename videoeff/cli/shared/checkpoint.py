"""Reading state dicts: tensors only, unwrapped as people save them, and put into the model they fit."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Where training programs keep the state dict inside a checkpoint, the likeliest first.
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_state",
    "net",
    "network",
    "module",
    "weights",
    "params",
)

#: What wrappers around a model put in front of every name: DataParallel, torch.compile, Lightning and others.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")

SUFFIXES = (".pth", ".pt", ".safetensors")


#: What a state dict of tensors asks for.
_TENSORS = ("collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Nothing in the file is executed.

    Raises:
        ArtifactError: no tensors can be read from it; why, and what to do.
    """
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    return _unwrapped(path, _tensors_only(path))


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read as safetensors ({error}); copy it again") from error


def _tensors_only(path: Path) -> Any:
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(n.endswith("constants.pkl") for n in names):
            raise ArtifactError(
                f"{path}: is a TorchScript program, which carries code; load it with torch.jit.load and save "
                "its state_dict(), or export the model with torch.export.save to a .pt2"
            )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        unsafe = _unsafe(path)
        if any(n.startswith("torch.nn.") or _is_module(n) for n in unsafe):
            raise ArtifactError(
                f"{path}: holds a whole pickled model ({_few(unsafe)}), and unpickling one runs code from "
                "the file; where you trust it, save torch.save(model.state_dict(), ...) and give --model, "
                "or export it with torch.export.save to a .pt2"
            ) from error
        if unsafe:
            raise ArtifactError(
                f"{path}: asks for {_few(unsafe)}, which is no tensor and could run code; it was not loaded. "
                "Save the state dict alone: torch.save(model.state_dict(), ...)"
            ) from error
        raise ArtifactError(
            f"{path}: cannot be read as a PyTorch checkpoint of tensors ({_first_line(error)}); it was not "
            "loaded. Copy it again, or save torch.save(model.state_dict(), ...)"
        ) from error


def _first_line(error: Exception) -> str:
    """What went wrong, without PyTorch's advice to unpickle it all the same."""
    text = str(error).strip()
    _, found, detail = text.partition("WeightsUnpickler error:")
    lines = (detail if found else text).strip().splitlines() or [type(error).__name__]
    advice = lines[0].startswith("Weights only load failed") or lines[0].isdecimal()
    return "it is no pickle of tensors" if advice else lines[0][:160]


def _unsafe(path: Path) -> list[str]:
    """What a pickle asks for beyond tensors, read without running it; empty where that cannot be told."""
    import torch

    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001  any damage: the caller reports the first error
        return _globals_of_pickle(path)


def _globals_of_pickle(path: Path) -> list[str]:
    """The names that bare pickles, one behind the other as PyTorch once wrote them, ask for; none is run."""
    import io
    import pickletools

    found: list[str] = []
    strings: list[str] = []
    file = io.BytesIO(path.read_bytes())
    try:
        while file.tell() < len(file.getbuffer()):
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    found.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    found.append(".".join(strings[-2:]))
                elif isinstance(argument, str):
                    strings.append(argument)
    except Exception:  # noqa: BLE001  the tensors' bytes, or no pickle at all: nothing more to say about it
        return [n for n in found if n not in _TENSORS]
    return [n for n in found if n not in _TENSORS]


def _is_module(name: str) -> bool:
    return name.startswith(("torchvision.models.", "timm."))


def _few(names: Sequence[str], limit: int = 4) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _unwrapped(path: Path, value: Any) -> dict[str, Tensor]:
    """The state dict inside whatever a training program saved around it."""
    import torch

    where: list[str] = []
    for _ in range(3):
        if not isinstance(value, Mapping):
            break
        tensors = {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}
        inner = next((w for w in WRAPPERS if isinstance(value.get(w), Mapping)), None)
        if tensors and (inner is None or len(tensors) > 1):
            return tensors
        if inner is None:
            break
        where.append(inner)
        value = value[inner]
    keys = f" with the keys {_few([str(k) for k in value])}" if isinstance(value, Mapping) else ""
    raise ArtifactError(
        f"{path}{''.join(f'[{w!r}]' for w in where)}: holds no state dict but a "
        f"{type(value).__name__}{keys}; save "
        f"torch.save(model.state_dict(), ...), or a dict with it under {WRAPPERS[0]!r}"
    )


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, reference: str) -> str:
    """Put a state dict into the model; the prefix that was taken off the names, "" for none.

    Raises:
        ArtifactError: names or shapes do not match; the first few, and how many.
    """
    own = model.state_dict()
    best, prefix = dict(tensors), ""
    for stripped, taken in _stripped(tensors):
        if len(set(stripped) & set(own)) > len(set(best) & set(own)):
            best, prefix = stripped, taken
    missing = [k for k in own if k not in best and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in best if k not in own]
    shapes = [
        f"{k} is {list(v.shape)}, the model's is {list(own[k].shape)}"
        for k, v in best.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({_few(missing)})")
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({_few(unexpected)})")
    if shapes:
        problems.append(f"{len(shapes)} of another shape ({_few(shapes, 2)})")
    if problems:
        raise ArtifactError(
            f"{path}: its tensors do not fit {reference}, which has {len(own)}: {'; '.join(problems)}; give "
            "the --model this checkpoint was trained with"
        )
    model.load_state_dict(best, strict=False)
    return prefix


def _stripped(tensors: Mapping[str, Tensor]) -> list[tuple[dict[str, Tensor], str]]:
    found: list[tuple[dict[str, Tensor], str]] = []
    current, taken = dict(tensors), ""
    for _ in PREFIXES:
        prefix = next((p for p in PREFIXES if current and all(k.startswith(p) for k in current)), None)
        if prefix is None:
            break
        current = {k.removeprefix(prefix): v for k, v in current.items()}
        taken += prefix
        found.append((current, taken))
    return found


def is_artifact(path: Path) -> bool:
    """Whether a file is a converted stream already."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= 1 << 28:
                return False
            header = json.loads(file.read(size))
    except (OSError, ValueError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and "videoeff" in metadata
