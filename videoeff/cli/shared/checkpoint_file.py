"""Reading the file of a checkpoint: tensors, numbers and text. Nothing in it is executed."""

from __future__ import annotations

import importlib
import json
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

#: How files with weights are called; what they are is judged by their content.
SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".ckpt", ".tar", ".pkl", ".index.json")

#: What tensors themselves, and plain values beside them, ask for.
_PLAIN = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(bytearray|complex|set)"
    r"|torch\._utils\._rebuild_\w+|torch\.(\w+Storage|\w*float\d+\w*|u?int\d+|bool|device|Size)"
    r"|torch\.(serialization\._get_layout|storage\.\w+Storage|nn\.parameter\.Parameter|Tensor)"
)

#: What training programs save beside the weights. It is not needed, so a stand-in that does nothing is read
#: instead: ``_Inert`` is called in place of the name, whatever the file wants to call it with.
_BESIDE_WEIGHTS = re.compile(
    r"(argparse|pathlib|datetime|omegaconf|easydict|yacs|mmengine|mmcv|addict|pytorch_lightning"
    r"|lightning|lightning_fabric|transformers\.training_args|transformers\.trainer_utils)\..+"
    r"|types\.SimpleNamespace|collections\.defaultdict|typing\.Any"
    r"|(builtins|__builtin__)\.(dict|list|tuple|set|int|float|str|bool|object|getattr)"
    r"|torch\.optim\.(\w+\.)+\w+|torch\.(torch_)?version\.TorchVersion"
)

#: numpy's scalars and arrays, under the names that its versions 1 and 2 give them.
_NUMPY = re.compile(r"numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|ndarray|dtype|dtypes\.\w+DType)")


class _Inert:
    """Stands in for a class of which no object is needed: it keeps nothing of what it is made with."""

    def __new__(cls, *_arguments: object, **_keywords: object) -> Any:
        return OrderedDict()  # a type that entries and attributes can be read into


def read_file(path: Path) -> Any:
    """What a checkpoint holds: tensors by name, or what a training program saved around them.

    Raises:
        ArtifactError: it cannot be read as tensors; why, and what to do.
    """
    if path.name.endswith(".index.json"):
        return _sharded(path)
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    _refuse_others(path)
    return _tensors_only(path)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as safetensors ({error}){_download(path)}; copy it again"
        ) from error


def _sharded(path: Path) -> dict[str, Tensor]:
    """All files that an index names, which lie beside it."""
    try:
        index = json.loads(path.read_text())
        places = {str(k): str(v) for k, v in index["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: is no index of weights, which has the names and their files under 'weight_map'; copy "
            "it again"
        ) from error
    found: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise ArtifactError(f"{path}: names the file {name!r}, which does not lie beside it; not read")
        shard = path.parent / name
        if not shard.is_file():
            raise ArtifactError(f"{path}: the file {name} that it names is not beside it; copy it there")
        found.update(_safetensors(shard) if shard.suffix == ".safetensors" else _tensors_only(shard))
    lost = [k for k in places if k not in found]
    if lost:
        raise ArtifactError(
            f"{path}: its files lack {len(lost)} of its tensors ({few(lost)}); copy them again"
        )
    return found


def _download(path: Path) -> str:
    """What a file is that was meant to be weights: a pointer of Git LFS, or a web page; "" for neither."""
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(b"version https://git-lfs"):
        return ": it is a pointer of Git LFS, not the file itself; run git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return ": it is a web page, not the file that was to be downloaded"
    return ""


def _refuse_others(path: Path) -> None:
    """Name what a file is, where it is plainly something else.

    Raises:
        ArtifactError: it is a pointer, a web page, compressed, an archive of files, or TorchScript.
    """
    other = _download(path)
    if other:
        raise ArtifactError(f"{path}: cannot be read{other}")
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        raise ArtifactError(
            f"{path}: cannot be read: it is compressed; decompress it and give the file inside"
        )
    if head.startswith(b"\x89HDF"):
        raise ArtifactError(f"{path}: cannot be read: it holds weights of Keras (HDF5), not of PyTorch")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(n.endswith("constants.pkl") for n in names):
        raise ArtifactError(
            f"{path}: is a TorchScript program, which carries code; load it with torch.jit.load and save "
            "its state_dict(), or export the model with torch.export.save to a .pt2"
        )
    if not any(n.endswith("data.pkl") for n in names):
        inside = [n for n in names if not n.endswith("/")]
        raise ArtifactError(
            f"{path}: cannot be read: it is a zip archive with {few(inside) or 'nothing in it'}, not a "
            "checkpoint; unpack it and give the file inside"
        )


def _tensors_only(path: Path) -> Any:
    try:
        return _load(path)
    except Exception as error:
        names = _unsafe(path)
        unsafe = [n for n in names if not (_BESIDE_WEIGHTS.fullmatch(n) or _NUMPY.fullmatch(n))]
        if names and not unsafe:
            return _with_stand_ins(path, names)
        raise _refusal(path, unsafe, error) from error


def _load(path: Path) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, to those who wrote the file
        return torch.load(path, map_location="cpu", weights_only=True)


def _with_stand_ins(path: Path, names: Iterable[str]) -> Any:
    """Read a file that asks for known names beyond tensors: numpy's are its own, the others do nothing."""
    import numpy as np
    import torch

    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    known: dict[str, Any] = {"scalar": multiarray.scalar, "_reconstruct": multiarray._reconstruct}
    known |= {"ndarray": np.ndarray, "dtype": np.dtype}
    allowed: list[Any] = [(getattr(np.dtypes, n), f"numpy.dtypes.{n}") for n in np.dtypes.__all__]
    for name in names:
        last = name.rpartition(".")[2]
        numpy = known.get(last) if _NUMPY.fullmatch(name) else None
        if numpy is not None:
            allowed.append((numpy, name))
        elif not _NUMPY.fullmatch(name):
            allowed.append((_Inert, name.replace("__builtin__.", "builtins.")))
    try:
        with torch.serialization.safe_globals(allowed):
            return _load(path)
    except Exception as error:
        raise _refusal(path, list(names), error) from error


def _refusal(path: Path, unsafe: Sequence[str], error: Exception) -> ArtifactError:
    """Why a file was not loaded, and the fix."""
    if any(n.startswith("torch.nn.") or _is_module(n) for n in unsafe):
        return ArtifactError(
            f"{path}: holds a whole pickled model ({few(unsafe)}), and unpickling one runs code from "
            "the file; where you trust it, save torch.save(model.state_dict(), ...) and give --model, "
            "or export it with torch.export.save to a .pt2"
        )
    if unsafe:
        return ArtifactError(
            f"{path}: asks for {few(unsafe)}, which is no tensor and could run code; it was not loaded. "
            "Save the state dict alone: torch.save(model.state_dict(), ...)"
        )
    return ArtifactError(
        f"{path}: cannot be read as a PyTorch checkpoint of tensors ({_first_line(error)}); it was not "
        "loaded. Copy it again, or save torch.save(model.state_dict(), ...)"
    )


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
        return _not_tensors(found)
    return _not_tensors(found)


def _not_tensors(names: Iterable[str]) -> list[str]:
    return [n for n in dict.fromkeys(names) if not _PLAIN.fullmatch(n)]


def _is_module(name: str) -> bool:
    return name.startswith(("torchvision.models.", "timm.", "ultralytics.", "models."))


def few(names: Iterable[str], limit: int = 4) -> str:
    """The first of some names, and how many more there are."""
    listed = list(dict.fromkeys(names))
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, or a numpy array as one; None for anything else."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.ndim:
        return torch.from_numpy(np.ascontiguousarray(value))
    return None


def top_keys(value: Any, limit: int = 8) -> str:
    """The keys of the outermost mapping, for a message; those of a flat state dict by their first part."""
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    heads = [str(k).partition(".")[0] if as_tensor(v) is not None else str(k) for k, v in value.items()]
    return few(map(repr, heads), limit)
