"""Weights out of a checkpoint: found where the training program put them, and put into the model they fit."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.cli.shared.checkpoint_file import as_tensor, few, read_file, top_keys
from videoeff.errors import ArtifactError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Where training programs keep the state dict inside a checkpoint; other places get a note.
_USUAL = (
    "state_dict", "model_state_dict", "model", "model_state", "net", "network", "module", "weights", "params",
)  # fmt: skip

#: Entries of a checkpoint that hold tensors and no weights.
_NO_WEIGHTS = re.compile(
    r"(optim|.*optimizer|.*sched|scaler|amp|callback|loop|hyper_param|rng|meta$|args$).*", re.I
)

#: Averages over training: exponential (EMA) or stochastic (SWA).
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?|shadow)([._]|$)", re.I)

#: Tensors that no layer computes with: losses, metrics, counters of profilers, tables that newer versions
#: of the libraries make themselves.
_BESIDE = re.compile(
    r"(.*\.)?(criterion|criteria|loss(es)?(_\w+)?|\w+_(loss|criterion)|((train|val|valid|test)_)?(metrics?|acc|accuracy))"
    r"(\..*)?|(.*\.)?(total_ops|total_params|num_batches_tracked|n_averaged|relative_position_index|attn_mask|position_ids)"
)

_COUNTER = "num_batches_tracked"  # of batch norms in training; inference does not read it


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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's likeliest state dict, the largest. Nothing in the file is executed.

    Raises:
        ArtifactError: no tensors can be read from it; why, and what to do.
    """
    places = _places(path, read_file(path))
    return max((tensors for _, tensors, _ in places), key=len)


def load_into(model: nn.Module, path: Path, reference: str, key: str | None) -> tuple[str, ...]:
    """Put the weights of a checkpoint into a model, all of them or none.

    Args:
        model: in evaluation mode.
        path: the checkpoint.
        reference: what built the model, for messages.
        key: which of several sets of weights to take, None to choose.

    Returns:
        Which weights were taken and why, what was taken off the names, and what was left out.

    Raises:
        ArtifactError: the file cannot be read, several sets fit, or none fits in every name, shape and kind.
    """
    value = read_file(path)
    own = model.state_dict()
    found = [w for place in _places(path, value) for w in _read_as(place, own)]
    chosen, why = _choose(found, own, path, value, reference, key)
    notes = [f"{path.name}: {why}"] if why else []
    notes += _set_precision(model, chosen, path)
    _load(model, chosen, path, reference)
    if chosen.prefix:
        notes.append(f"{path.name}: took the prefix {chosen.prefix!r} off the names")
    left = [n for n in chosen.tensors if n not in own] + list(chosen.beside)
    if left:
        notes.append(f"{path.name}: left out {len(left)} tensor(s) that no layer reads ({few(left)})")
    return tuple(notes)


# ---------------------------------------------------------------- finding


def _places(path: Path, value: Any) -> list[tuple[tuple[str, ...], dict[str, Tensor], dict[str, Any]]]:
    """(keys, tensors, versions of modules) of every mapping with tensors in it.

    Raises:
        ArtifactError: there is none.
    """
    places = list(_walk((), value))
    if not places:
        keys = f" with the keys {top_keys(value)}" if isinstance(value, Mapping) else ""
        raise ArtifactError(
            f"{path}: holds no state dict but a {type(value).__name__}{keys}; save "
            "torch.save(model.state_dict(), ...), or a dict with it under 'state_dict'"
        )
    return places


def _walk(
    keys: tuple[str, ...], value: Any
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor], dict[str, Any]]]:
    if not isinstance(value, Mapping) or len(keys) > 4:
        return
    tensors = {str(k): t for k, v in value.items() if (t := as_tensor(v)) is not None}
    if tensors:
        versions = getattr(value, "_metadata", None)
        yield keys, tensors, dict(versions) if isinstance(versions, Mapping) else {}
    for k, v in value.items():
        if isinstance(v, Mapping) and not _NO_WEIGHTS.fullmatch(str(k)):
            yield from _walk((*keys, str(k)), v)


def _read_as(
    place: tuple[tuple[str, ...], dict[str, Tensor], dict[str, Any]], own: Mapping[str, Tensor]
) -> Iterator[Weights]:
    """The tensors of a place under every prefix with which some of them are the model's."""
    keys, tensors, versions = place
    prefixes: Counter[str] = Counter()
    for name in tensors:
        start = 0
        while True:
            if name[start:] in own:
                prefixes[name[:start]] += 1
            dot = name.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    for prefix, _ in prefixes.most_common(16) or [("", 0)]:
        inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        beside = tuple(k for k in tensors if not k.startswith(prefix))
        fits = sum(
            k in own and own[k].shape == v.shape for k, v in inside.items() if not k.endswith(_COUNTER)
        )
        noted = {k.removeprefix(prefix): v for k, v in versions.items() if k.startswith(prefix)}
        noted |= {"": versions[prefix[:-1]]} if prefix and prefix[:-1] in versions else {}
        yield Weights(keys, prefix, inside, beside, noted, fits)


# ---------------------------------------------------------------- choosing


def _choose(
    found: Sequence[Weights],
    own: Mapping[str, Tensor],
    path: Path,
    value: Any,
    reference: str,
    key: str | None,
) -> tuple[Weights, str]:
    """The weights to take, and why these where there was a choice.

    Raises:
        ArtifactError: ``key`` names none, none fits, or several do.
    """
    named = [w for w in found if key is None or _names(key, w.label)]
    if not named:
        labels = few(dict.fromkeys(w.label or "(the outermost names)" for w in found), 8)
        raise ArtifactError(f"{path}: --key {key!r} names no weights in it; it has {labels}")
    best = max(named, key=lambda w: (w.fits, not w.prefix))
    whole = [w for w in named if not _problems(w, own)]
    if not whole:
        raise ArtifactError(_does_not_fit(best, own, path, value, reference))
    alone = [w for w in whole if not _more(w, whole, key)]
    if not alone:
        more = _more(whole[0], whole, key)
        raise ArtifactError(
            f"{path}{whole[0].where()}: these fill {reference}, but the checkpoint's model has more: "
            f"{len(more)} tensor(s) ({few(more)}); give the --model it was trained with, or take this part "
            f"alone: --key {whole[0].label}"
        )
    averages = [w for w in alone if _AVERAGE.search(w.label)]
    pool = averages or alone
    if any(not _equal(pool[0], other) for other in pool[1:]):
        raise ArtifactError(
            f"{path}: {len(pool)} sets of weights in it fit {reference}; choose one: "
            + ", ".join(f"--key {w.label}" for w in pool)
        )
    others = [w for w in alone if w is not pool[0] and not _equal(pool[0], w)]
    return pool[0], _reason(pool[0], others, key)


def _reason(chosen: Weights, others: Sequence[Weights], key: str | None) -> str:
    if key is not None:
        return f"took the weights under {chosen.label!r}, as --key says"
    if others and _AVERAGE.search(chosen.label):
        instead = " or ".join(f"--key {w.label}" for w in others if w.label)
        return (
            f"took the weights under {chosen.label!r}, which are averaged over training and meant for "
            f"inference{f'; the last ones: {instead}' if instead else ''}"
        )
    usual = all(k in _USUAL for k in chosen.keys)
    return "" if usual and not others else f"took the weights under {'.'.join(chosen.keys)!r}"


def _names(key: str, label: str) -> bool:
    """Whether a key names a place: parts of its label, in their order."""
    return f".{key.strip('.')}." in f".{label}."


def _more(weights: Weights, whole: Sequence[Weights], key: str | None) -> list[str]:
    """Names beside some weights that belong to the model they are only a part of."""
    if key is not None and weights.prefix and _names(weights.prefix.split(".")[0], key):
        return []
    if key is not None and _names(key, ".".join(filter(None, weights.prefix.split(".")))):
        return []
    copies = tuple(w.prefix for w in whole if w.keys == weights.keys and w.prefix)
    return [
        n
        for n in weights.beside
        if not _BESIDE.fullmatch(n) and not n.startswith(copies) and not _AVERAGE.search(n.partition(".")[0])
    ]


def _equal(one: Weights, other: Weights) -> bool:
    import torch

    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(v, other.tensors[k]) for k, v in one.tensors.items()
    )


# ---------------------------------------------------------------- fitting


def _problems(weights: Weights, own: Mapping[str, Tensor]) -> list[str]:
    """What does not fit, in words; empty where every tensor of the model has its value here."""
    tensors = weights.tensors
    tied = _tied(own)
    missing = [
        k for k in own if not k.endswith(_COUNTER) and not any(n in tensors for n in (k, *tied.get(k, ())))
    ]
    unexpected = [k for k in tensors if k not in own and not _BESIDE.fullmatch(k)]
    both = [(k, v, own[k]) for k, v in tensors.items() if k in own and not k.endswith(_COUNTER)]
    shapes = [
        f"{k} is {list(v.shape)}, the model's is {list(o.shape)}" for k, v, o in both if v.shape != o.shape
    ]
    kinds = [
        f"{k} is {_short(v.dtype)}, the model's is {_short(o.dtype)}"
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


def _does_not_fit(best: Weights, own: Mapping[str, Tensor], path: Path, value: Any, reference: str) -> str:
    total = sum(not k.endswith(_COUNTER) for k in own)
    nested = best.keys or best.prefix
    return (
        f"{path}{best.where()}: its tensors do not fit {reference}, which has {total}, of which {best.fits} "
        f"are there: {'; '.join(_problems(best, own))}"
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


def _short(dtype: torch.dtype) -> str:
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


def _set_precision(model: nn.Module, weights: Weights, path: Path) -> list[str]:
    """Compute in float64 where the weights are, else in float32; a note where they were in half precision."""
    import torch

    floats = {v.dtype for v in weights.tensors.values() if v.is_floating_point()}
    model.to(torch.float64 if floats == {torch.float64} else torch.float32)
    halves = sorted(_short(d) for d in floats & {torch.float16, torch.bfloat16})
    if not halves:
        return []
    return [
        f"{path.name}: its {' and '.join(halves)} weights are computed with in float32, which a CPU does "
        "many times faster; their values are the same"
    ]


def _load(model: nn.Module, weights: Weights, path: Path, reference: str) -> None:
    """Copy what fits; that all of it does is known."""
    from collections import OrderedDict

    own = model.state_dict()
    state: OrderedDict[str, Tensor] = OrderedDict(
        (k, v) for k, v in weights.tensors.items() if k in own and v.shape == own[k].shape
    )
    # Some modules ask which version of theirs wrote the state; a file that does not tell is of this one.
    state._metadata = weights.versions or getattr(own, "_metadata", {})  # type: ignore[attr-defined]  # as torch does
    try:
        model.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ArtifactError(
            f"{path}: {reference} does not take its tensors ({first}); give the --model it was trained with"
        ) from error


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
