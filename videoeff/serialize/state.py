"""The state of a stream as a file: what a camera goes on from after a pause, or on another machine.

A safetensors file. Its metadata hold the version, which engines' streams are before their first frame, and a
digest of the network's weights, so that no state is taken for that of another network. What is *not* in it:
the outputs that ``stream.every(n)`` hands out between two looks (a restored stream looks at its next frame),
reports, and settings such as thresholds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from videoeff.errors import ArtifactError, StateError
from videoeff.runtime.engine_state import EngineState
from videoeff.runtime.freezing import FrozenState
from videoeff.runtime.streaming_module import StreamingModule, StreamState
from videoeff.serialize.files import write_atomic
from videoeff.serialize.format import digest_of

FORMAT = "videoeff state 1"
_PARTS = ("tensors", "carried")
_OUTSIDE, _FROZEN = "outside", "frozen"


def digest_of_network(stream: StreamingModule) -> str:
    """A digest of the network's weights, the same for all twins; takes a tenth of a second for 100 MB."""
    return digest_of(
        {
            f"{name}/{path}": tensor.detach().to("cpu")
            for name, engine in stream.engines.items()
            for path, tensor in engine.network.named_buffers(remove_duplicate=False)
        }
    )


def save_state(state: StreamState, network: str, path: str | Path) -> None:
    """Write a snapshot as one file, whole or not at all.

    Args:
        state: of ``stream.snapshot()``.
        network: the digest of the network, by :func:`digest_of_network`.
        path: of the file.

    Raises:
        ArtifactError: it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {f"{_OUTSIDE}/{n}": _plain(t) for n, t in state.outside.items()}
    if state.frozen is not None:
        tensors |= {f"{_FROZEN}/{n}": _plain(t) for n, t in state.frozen.frames.items()}
    engines = sorted(state.engines)
    for number, name in enumerate(engines):
        for part in _PARTS:
            held: Mapping[str, Tensor] = getattr(state.engines[name], part)
            tensors |= {f"{number}/{part}/{n}": _plain(t) for n, t in held.items()}
    about = {
        "format": FORMAT,
        "network": network,
        "tensors": digest_of(tensors),
        "frozen": None if state.frozen is None else list(state.frozen.fresh),
        "engines": [{"name": n, "fresh": list(state.engines[n].fresh)} for n in engines],
    }

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary, metadata={"videoeff": json.dumps(about)})
        except SafetensorError as error:
            raise OSError(str(error)) from error

    write_atomic(path, write)


def load_state(path: str | Path, network: str) -> StreamState:
    """Read what :func:`save_state` wrote, for ``stream.restore``.

    Args:
        path: of the file.
        network: the digest of the network that the state is for.

    Raises:
        ArtifactError: the file is missing, damaged, or no state.
        StateError: it is the state of another network.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("videoeff", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dictionary
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read as a stream's state ({error})") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ArtifactError(f"{path}: is not a stream's state, or of another version ({FORMAT} is read here)")
    if about.get("tensors") != digest_of(tensors):
        raise ArtifactError(f"{path}: is damaged: its values are not those that were saved; begin afresh")
    if about.get("network") != network:
        raise StateError(
            f"{path}: is the state of a network with other weights; restore it into the network that it was "
            "saved from, or begin afresh without it"
        )
    try:
        return _state_of(about, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: is damaged ({error!r}); begin afresh without it") from error


def _state_of(about: dict[str, Any], tensors: Mapping[str, Tensor]) -> StreamState:
    parted: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = 1 if name.startswith((_OUTSIDE, _FROZEN)) else 2
        *part, key = name.split("/", parts)
        parted.setdefault("/".join(part), {})[key] = tensor
    engines = {}
    for number, entry in enumerate(about["engines"]):
        held, carried = (parted.get(f"{number}/{part}", {}) for part in _PARTS)
        engines[entry["name"]] = EngineState(held, tuple(map(bool, entry["fresh"])), carried)
    frozen = None
    if about["frozen"] is not None:
        frames = {int(index): tensor for index, tensor in parted.get(_FROZEN, {}).items()}
        frozen = FrozenState(frames, tuple(map(bool, about["frozen"])))
    return StreamState(engines, parted.get(_OUTSIDE, {}), frozen=frozen)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu").contiguous()
