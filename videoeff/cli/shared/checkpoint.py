"""Weights out of a checkpoint: found where the training program put them, and put into the model they fit."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videoeff.cli.shared.checkpoint_file import as_tensor, few, read_file, top_keys
from videoeff.cli.shared.checkpoint_fit import BESIDE, COUNTER, Weights, does_not_fit, problems, short
from videoeff.errors import ArtifactError, first_line

if TYPE_CHECKING:
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
    tensors = {_new_name(k, own): v for k, v in tensors.items()}
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
        fits = sum(k in own and own[k].shape == v.shape for k, v in inside.items() if not k.endswith(COUNTER))
        noted = {k.removeprefix(prefix): v for k, v in versions.items() if k.startswith(prefix)}
        noted |= {"": versions[prefix[:-1]]} if prefix and prefix[:-1] in versions else {}
        yield Weights(keys, prefix, inside, beside, noted, fits)


def _new_name(name: str, own: Mapping[str, Tensor]) -> str:
    """Torchvision's files of DenseNet have a dot more than its models: ``denselayer1.norm.1.weight``."""
    new = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", name)
    return new if new != name and any(k.endswith(new) or new.endswith(k) for k in own) else name


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
    whole = [w for w in named if not problems(w, own)]
    if not whole:
        raise ArtifactError(does_not_fit(best, own, path, value, reference))
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
    parts = [] if averages or key is not None else [w for w in found if w.fits and _AVERAGE.search(w.label)]
    return pool[0], _reason(pool[0], others, key) or _not_taken(parts, own)


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


def _not_taken(averages: Sequence[Weights], own: Mapping[str, Tensor]) -> str:
    """What an average lacks that was not taken."""
    if not averages:
        return ""
    best = max(averages, key=lambda w: w.fits)
    return f"the averaged weights under {best.label!r} were not taken: {'; '.join(problems(best, own))}"


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
        if not BESIDE.fullmatch(n) and not n.startswith(copies) and not _AVERAGE.search(n.partition(".")[0])
    ]


def _equal(one: Weights, other: Weights) -> bool:
    import torch

    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(v, other.tensors[k]) for k, v in one.tensors.items()
    )


def _set_precision(model: nn.Module, weights: Weights, path: Path) -> list[str]:
    """Compute in float64 where the weights are, else in float32; a note where they were in half precision."""
    import torch

    floats = {v.dtype for v in weights.tensors.values() if v.is_floating_point()}
    own = {v.dtype for v in model.state_dict().values()}
    if floats == {torch.float64}:
        model.double()
    elif own & {torch.float16, torch.bfloat16}:
        model.float()
    halves = sorted(short(d) for d in floats & {torch.float16, torch.bfloat16})
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
        first = first_line(error)
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
