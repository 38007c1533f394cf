"""Whether weights fit a model: every name, shape and kind of number, and what to do where they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.cli.shared.checkpoint_file import few, top_keys

if TYPE_CHECKING:
    import torch
    from torch import Tensor

#: Tensors that no layer computes with: losses, metrics, counters of profilers, tables that newer versions
#: of the libraries make themselves.
BESIDE = re.compile(
    r"(.*\.)?(criterion|criteria|loss(es)?(_\w+)?|\w+_(loss|criterion)|((train|val|valid|test)_)?(metrics?|acc|accuracy))"
    r"(\..*)?|(.*\.)?(total_ops|total_params|num_batches_tracked|n_averaged|relative_position_index|attn_mask|position_ids)"
)

COUNTER = "num_batches_tracked"  # of batch norms in training; inference does not read it


@dataclass(frozen=True)
class Weights:
    """The tensors of one place in a checkpoint, as far as their names begin alike.

    Attributes:
        keys: that lead to them, from the outermost mapping.
        prefix: what stands before every name, with its dot; taken off.
        tensors: by name without the prefix.
        beside: names at the same place that begin otherwise.
        versions: what ``state_dict`` noted of its modules, by their path.
        fits: how many of the model's tensors have their name and shape here.
    """

    keys: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]
    beside: tuple[str, ...] = ()
    versions: dict[str, Any] = field(default_factory=dict)
    fits: int = 0

    @property
    def label(self) -> str:
        """How ``--key`` names it."""
        return ".".join((*self.keys, *filter(None, self.prefix.split("."))))

    def where(self) -> str:
        """For messages, after the path of the file."""
        place = "".join(f"[{k!r}]" for k in self.keys)
        return f"{place}, names that begin with {self.prefix!r}" if self.prefix else place


def problems(weights: Weights, own: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, in words; empty where every tensor of the model has its value here."""
    tensors = weights.tensors
    tied = _tied(own)
    missing = [
        k for k in own if not k.endswith(COUNTER) and not any(n in tensors for n in (k, *tied.get(k, ())))
    ]
    unexpected = [k for k in tensors if k not in own and not BESIDE.fullmatch(k)]
    both = [(k, v, own[k]) for k, v in tensors.items() if k in own and not k.endswith(COUNTER)]
    shapes = [
        f"{k} is {list(v.shape)}, the model's is {list(o.shape)}" for k, v, o in both if v.shape != o.shape
    ]
    kinds = [
        f"{k} is {short(v.dtype)}, the model's is {short(o.dtype)}"
        for k, v, o in both
        if v.shape == o.shape and not _same_kind(v, o)
    ]
    unequal = [
        f"{k} and {n}"
        for k, names in tied.items()
        for n in names
        if k < n and k in tensors and n in tensors and not _same(tensors[k], tensors[n])
    ]
    words = (
        (missing, "missing", 4),
        (unexpected, "unexpected", 4),
        (shapes, "of another shape", 2),
        (kinds, "of another kind", 2),
        (unequal, "pairs that the model shares and the file does not", 2),
    )
    return [f"{len(names)} {word} ({few(names, limit)})" for names, word, limit in words if names]


def does_not_fit(best: Weights, own: Mapping[str, Tensor], path: Path, value: Any, reference: str) -> str:
    """The whole message: what was looked at, what does not fit, what else is in the file, and the fix."""
    total = sum(not k.endswith(COUNTER) for k in own)
    nested = best.keys or best.prefix
    return (
        f"{path}{best.where()}: its tensors do not fit {reference}, which has {total}, of which {best.fits} "
        f"are there: {'; '.join(problems(best, own))}"
        f"{f'. The file has {top_keys(value)}' if nested else ''}; {_fix(best, own, path)}"
    )


def _fix(best: Weights, own: Mapping[str, Tensor], path: Path) -> str:
    """What to do about weights that do not fit."""
    if re.search(r"\d+-of-\d+", path.name):
        return "this is one of several files: give their index (….index.json)"
    if any(_quantised(k, v, own) for k, v in best.tensors.items()):
        return (
            "it holds quantised weights, which a float model cannot take: give the float checkpoint they "
            "were made from, or export the quantised model to a .pt2"
        )
    both = [(v.shape, own[k].shape) for k, v in best.tensors.items() if k in own]
    sizes = {(a[0], b[0]) for a, b in both if a != b and len(a) == len(b) and a[1:] == b[1:]}
    if len(sizes) == 1 and best.fits:
        theirs, ours = sizes.pop()
        return (
            f"it seems trained for {theirs} classes where the model has {ours}: give a --model that builds "
            "it so (file.py:callable)"
        )
    return "give the --model this checkpoint was trained with"


def _quantised(name: str, tensor: Tensor, own: Mapping[str, Tensor]) -> bool:
    if tensor.is_quantized or name.endswith(
        ("_packed_params._packed_params", ".zero_point", ".weight_scale")
    ):
        return True
    return name in own and own[name].is_floating_point() and not tensor.is_floating_point()


def _same_kind(tensor: Tensor, own: Tensor) -> bool:
    """Whether copying loses nothing: floats into floats, whole numbers into whole numbers."""
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        return False
    if tensor.is_complex() or own.is_complex():
        return tensor.dtype == own.dtype
    return tensor.is_floating_point() == own.is_floating_point()


def short(dtype: torch.dtype) -> str:
    """A kind of number as people write it."""
    return str(dtype).removeprefix("torch.")


def _same(one: Tensor, other: Tensor) -> bool:
    import torch

    return torch.equal(one, other)


def _tied(own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """For every name of a tensor that has several, the others."""
    groups: dict[Any, list[str]] = {}
    for name, tensor in own.items():
        if tensor.numel():
            groups.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), []).append(name)
    return {n: [o for o in names if o != n] for names in groups.values() if len(names) > 1 for n in names}
