"""Checkpoints as people have them: what is taken and why, and what is refused with the fix."""

from __future__ import annotations

import argparse
import gzip
import json
import pathlib
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import videoeff
from tests.cli.conftest import REFERENCE, call_json
from tests.support import tiny_models as tiny
from videoeff.cli.shared.checkpoint import load_into
from videoeff.errors import ArtifactError

State = OrderedDict[str, Tensor]


def state(factor: float = 1.0, model: nn.Module | None = None) -> State:
    """A state dict of the tiny model, its floats scaled to tell one from another."""
    own = (model or tiny.build()).state_dict()
    return OrderedDict((k, v * factor if v.is_floating_point() else v.clone()) for k, v in own.items())


def under(prefix: str, values: Mapping[str, Tensor]) -> State:
    return OrderedDict((f"{prefix}{k}", v) for k, v in values.items())


def saved(value: object, path: Path) -> Path:
    torch.save(value, path)
    return path


def loaded(path: Path, key: str | None = None, model: nn.Module | None = None) -> tuple[float, str]:
    """(factor of the weights that were taken, the notes)."""
    model = model or tiny.build()
    before = state(model=model)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 7.0)
    notes = load_into(model, path, "REF", key)
    factors = {
        round(float((v.double().sum() / before[k].double().sum()).item()), 3)
        for k, v in model.state_dict().items()
        if v.is_floating_point() and before[k].abs().sum() > 0
    }
    assert len(factors) == 1, "weights of several sets in one model"
    return factors.pop(), "\n".join(notes)


def refused(path: Path, key: str | None = None, model: nn.Module | None = None) -> str:
    model = model or tiny.build()
    before = state(model=model)
    with pytest.raises(ArtifactError) as caught:
        load_into(model, path, "REF", key)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was loaded all the same"
    return str(caught.value)


# ---------------------------------------------------------------- averages over training


AVERAGES: dict[str, Callable[[State, State], Any]] = {
    "ema": lambda last, mean: {"model": last, "ema": mean},
    "state_dict_ema": lambda last, mean: {"state_dict": last, "state_dict_ema": mean},
    "model_ema": lambda last, mean: {"model": last, "model_ema": mean, "epoch": 3},
    "params_ema": lambda last, mean: {"params": last, "params_ema": mean},
    "ema_state_dict": lambda last, mean: {"net": last, "ema_state_dict": mean},
    "ema.module": lambda last, mean: {"model": last, "ema": {"module": mean, "updates": 9, "decay": 0.99}},
    "g_ema": lambda last, mean: {"g": last, "g_ema": mean, "d": {"w": torch.zeros(3)}},
    "swa_model": lambda last, mean: {"model": last, "swa_model": under("module.", mean)},
    "state_dict.ema_model": lambda last, mean: {
        "state_dict": {**under("model.", last), **under("ema_model.", mean)}
    },
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_over_training_is_taken_and_noted(name: str, tmp_path: Path) -> None:
    source = saved(AVERAGES[name](state(2), state(3)), tmp_path / "c.pth")
    factor, notes = loaded(source)
    assert factor == 3
    assert f"took the weights under '{name}" in notes
    assert "averaged over training" in notes
    other = notes.partition("the last ones: --key ")[2].partition("\n")[0].split()[0]
    assert loaded(source, other)[0] == 2
    assert loaded(source, name)[0] == 3


def test_an_average_alone_is_taken(tmp_path: Path) -> None:
    factor, notes = loaded(saved({"ema": state(3), "epoch": 1}, tmp_path / "c.pth"))
    assert factor == 3
    assert "'ema'" in notes


def test_an_average_of_parameters_alone_is_left_out_and_noted(tmp_path: Path) -> None:
    means = {k: v * 3 for k, v in tiny.build().named_parameters()}
    factor, notes = loaded(saved({"model": state(2), "ema": means}, tmp_path / "c.pth"))
    assert factor == 2
    assert "the averaged weights under 'ema' were not taken: 2 missing (stem.1.running_mean" in notes


def test_a_key_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    source = saved({"model": state(2), "ema": state(3)}, tmp_path / "c.pth")
    assert "--key 'best' names no weights in it; it has model, ema" in refused(source, "best")


def test_equal_sets_are_no_choice(tmp_path: Path) -> None:
    assert loaded(saved({"model": state(2), "best": state(2)}, tmp_path / "c.pth"))[0] == 2


# ---------------------------------------------------------------- names


PREFIXES = (
    "module.",
    "model.",
    "_orig_mod.",
    "net.",
    "backbone.",
    "module.module.",
    "model._orig_mod.",
    "m.n.o.",
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("beside", ["nothing", "losses", "counters"])
def test_prefixes_are_taken_off_whatever_stands_beside(prefix: str, beside: str, tmp_path: Path) -> None:
    values = under(prefix, state(2))
    if beside == "losses":
        values |= {
            "criterion.weight": torch.ones(5),
            "loss_fn.pos_weight": torch.ones(1),
            "val_acc.total": torch.ones(1),
        }
    if beside == "counters":
        values |= {f"{prefix}stem.total_ops": torch.ones(1), "total_params": torch.ones(1)}
    factor, notes = loaded(saved({"state_dict": values}, tmp_path / "c.pth"))
    assert factor == 2
    assert f"took the prefix {prefix!r} off" in notes
    assert ("left out" in notes) == (beside != "nothing")


def test_batch_norms_from_before_they_counted(tmp_path: Path) -> None:
    values = {k: v for k, v in state(2).items() if not k.endswith("num_batches_tracked")}
    assert loaded(saved(values, tmp_path / "c.pth"))[0] == 2


def test_a_part_of_a_larger_model_is_taken_by_name_only(tmp_path: Path) -> None:
    values = {**under("generator.", state(2)), "discriminator.w": torch.ones(3)}
    source = saved(values, tmp_path / "c.pth")
    message = refused(source)
    assert "has more: 1 tensor(s) (discriminator.w)" in message
    assert "--key generator" in message
    assert loaded(source, "generator")[0] == 2


def test_a_normalisation_around_the_model_is_no_detail(tmp_path: Path) -> None:
    values = {**under("model.", state(2)), "mean": torch.ones(3), "std": torch.ones(3)}
    assert "2 tensor(s) (mean, std)" in refused(saved(values, tmp_path / "c.pth"))


@pytest.mark.parametrize("nested", [True, False])
def test_student_and_teacher_are_the_users_choice(nested: bool, tmp_path: Path) -> None:
    both = {"student": state(2), "teacher": state(3)}
    flat = {**under("student.", both["student"]), **under("teacher.", both["teacher"])}
    source = saved(both if nested else flat, tmp_path / "c.pth")
    message = refused(source)
    assert "2 sets of weights in it fit REF" in message
    assert "--key student, --key teacher" in message
    assert loaded(source, "teacher")[0] == 3


def test_the_best_match_is_named_with_the_top_level_keys(tmp_path: Path) -> None:
    values = state(2)
    lost = values.popitem()[0]
    source = saved(
        {"encoder": values, "decoder": {"w": torch.ones(2)}, "optimizer": {}, "epoch": 2}, tmp_path / "c.pth"
    )
    message = refused(source)
    total = sum(not k.endswith("num_batches_tracked") for k in tiny.build().state_dict())
    assert (
        f"c.pth['encoder']: its tensors do not fit REF, which has {total}, of which {total - 1} are there"
        in message
    )
    assert f"1 missing ({lost})" in message
    assert "'encoder', 'decoder', 'optimizer', 'epoch'" in message


def test_another_number_of_classes(tmp_path: Path) -> None:
    values = state()
    values["head.weight"] = torch.zeros(7, *values["head.weight"].shape[1:])
    message = refused(saved(values, tmp_path / "c.pth"))
    assert "1 of another shape (head.weight is [7, " in message
    assert "trained for 7 classes where the model has 5" in message


# ---------------------------------------------------------------- what stands beside the weights


class HistoryBuffer:
    """Stands for the class of that name in mmengine, which pickles a function of itself."""

    def __init__(self) -> None:
        self.history, self.kept = np.zeros(3), [type(self).mean]

    def mean(self) -> float:
        return 0.0


def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What well-known training programs save."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]  # a module made for the test
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    args = argparse.Namespace(lr=0.1, out=pathlib.Path("runs"), betas=[0.9, 0.99])
    optimizer = torch.optim.SGD(tiny.build().parameters(), lr=0.1)
    return {
        "timm": {
            "epoch": 3, "arch": "tiny", "state_dict": state(2), "optimizer": optimizer.state_dict(),
            "version": 2, "args": args, "metric": np.float64(81.2),
        },
        "Lightning": {
            "epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.4.0",
            "callbacks": {"best": torch.ones(1)},
            "state_dict": {**under("model.", state(2)), "criterion.weight": torch.ones(5)},
            "loops": {}, "optimizer_states": [optimizer.state_dict()],
            "hyper_parameters": {"path": pathlib.Path("x"), "n": np.int64(1)},
        },
        "mmdet": {
            "meta": {"epoch": 3, "dataset": defaultdict(list, a=[1])}, "state_dict": state(2),
            "message_hub": {"log_scalars": OrderedDict(loss=HistoryBuffer())},
            "optimizer": optimizer.state_dict(),
        },
        "numpy": {"model": {k: v.numpy() for k, v in state(2).items()}, "best": np.array([0.5])},
    }  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", ["timm", "Lightning", "mmdet", "numpy"])
def test_what_training_programs_save(
    name: str, old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "c.ckpt"
    torch.save(programs(monkeypatch)[name], source, _use_new_zipfile_serialization=not old)
    assert loaded(source)[0] == 2


def test_an_unknown_class_beside_the_weights_is_refused_by_name(tmp_path: Path) -> None:
    message = refused(saved({"state_dict": state(), "config": HistoryBuffer()}, tmp_path / "c.pth"))
    assert "HistoryBuffer, which is no tensor and could run code" in message


class Reach:
    """Asks for a function through names that are known to do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (pathlib.Path, "mkdir")


def test_a_known_name_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(argparse.Namespace, "__setattr__", lambda *a: called.append(a))
    source = saved({"state_dict": state(2), "x": Reach(), "args": argparse.Namespace()}, tmp_path / "c.pth")
    assert loaded(source)[0] == 2
    assert not called


# ---------------------------------------------------------------- kinds of file


def test_safetensors_with_metadata(tmp_path: Path) -> None:
    save_file(under("model.", state(2)), tmp_path / "c.safetensors", {"format": "pt", "ema": "no"})
    assert loaded(tmp_path / "c.safetensors")[0] == 2


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_and_its_files(kind: str, tmp_path: Path) -> None:
    values = list(state(2).items())
    halves = dict(values[::2]), dict(values[1::2])
    places: dict[str, str] = {}
    for position, half in enumerate(halves, start=1):
        name = f"model-{position:05}-of-00002.{kind}"
        save_file(half, tmp_path / name) if kind == "safetensors" else torch.save(half, tmp_path / name)
        places |= dict.fromkeys(half, name)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert loaded(index)[0] == 2
    assert "give their index" in refused(tmp_path / f"model-00001-of-00002.{kind}")
    (tmp_path / f"model-00002-of-00002.{kind}").unlink()
    assert "model-00002-of-00002" in refused(index)
    index.write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    assert "does not lie beside it" in refused(index)
    index.write_text("{}")
    assert "is no index of weights" in refused(index)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (gzip.compress(b"x", mtime=0), "is compressed"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "Keras"),
    ],
)
def test_files_that_are_something_else(content: bytes, words: str, tmp_path: Path) -> None:
    for name in ("c.pth", "c.safetensors") if content[0] != 0x1F and content[0] != 0x89 else ("c.pth",):
        (tmp_path / name).write_bytes(content)
        assert words in refused(tmp_path / name)


def test_a_zip_around_a_checkpoint(tmp_path: Path) -> None:
    inner = saved(state(), tmp_path / "inner.pth")
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.write(inner, "inner.pth")
    assert "is a zip archive with inner.pth" in refused(tmp_path / "c.pth")


def test_a_bare_pickle_of_arrays_is_explained(tmp_path: Path) -> None:
    (tmp_path / "c.pkl").write_bytes(pickle.dumps({k: v.numpy() for k, v in state().items()}))
    assert "not loaded" in refused(tmp_path / "c.pkl")


# ---------------------------------------------------------------- values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_with_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    values = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state().items()}
    model = tiny.build()
    notes = load_into(model, saved(values, tmp_path / "c.pth"), "REF", None)
    assert str(dtype).removeprefix("torch.") in notes[0]
    assert "float32" in notes[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name].to(value.dtype))
        assert value.dtype in (torch.float32, torch.int64)


def test_double_precision_stays(tmp_path: Path) -> None:
    model = tiny.build()
    load_into(model, saved(tiny.build().double().state_dict(), tmp_path / "c.pth"), "REF", None)
    assert {p.dtype for p in model.parameters()} == {torch.float64}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # PyTorch: deprecated; people have such files
@pytest.mark.parametrize("kind", ["int8", "quantised", "float8"])
def test_quantised_weights_are_not_copied_as_numbers(kind: str, tmp_path: Path) -> None:
    quantize: Callable[..., Tensor] = torch.quantize_per_tensor
    made: dict[str, Callable[[Tensor], Tensor]] = {
        "int8": lambda v: (v * 100).to(torch.int8),
        "quantised": lambda v: quantize(v, 0.1, 0, torch.qint8),
        "float8": lambda v: v.to(torch.float8_e4m3fn),
    }
    values = OrderedDict((k, made[kind](v) if v.ndim == 4 else v) for k, v in state().items())
    message = refused(saved(values, tmp_path / "c.pth"))
    assert "of another kind" in message
    assert kind == "float8" or "quantised weights" in message


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1, bias=False), nn.Conv2d(3, 3, 1, bias=False)
        self.two.weight = self.one.weight


def test_tied_weights(tmp_path: Path) -> None:
    values = state(2, Tied())
    for number, kept in enumerate(
        (values, {"one.weight": values["one.weight"]}, {"two.weight": values["two.weight"]})
    ):
        model = Tied()
        load_into(model, saved(kept, tmp_path / f"{number}.pth"), "REF", None)
        assert torch.equal(model.two.weight, values["two.weight"])
    values["two.weight"] = values["two.weight"] + 1
    assert "shares" in refused(saved(values, tmp_path / "c.pth"), model=Tied())


def test_modules_that_ask_for_the_version_of_their_state(tmp_path: Path) -> None:
    from torchvision.models import mnasnet0_5

    model = mnasnet0_5(weights=None)
    for prefix in ("", "module."):
        load_into(
            model,
            saved(under(prefix, mnasnet0_5(weights=None).state_dict()), tmp_path / "c.pth"),
            "REF",
            None,
        )
    kept = mnasnet0_5(weights=None).state_dict()
    load_into(model, saved(kept, tmp_path / "c.pth"), "REF", None)
    assert torch.equal(model.state_dict()["layers.0.weight"], kept["layers.0.weight"])


def test_names_of_densenet_files(tmp_path: Path) -> None:
    from torchvision.models import densenet121

    with torch.device("meta"):
        names = list(densenet121(weights=None).state_dict())
    assert "features.denseblock1.denselayer1.norm1.weight" in names
    model = nn.Sequential(OrderedDict(denselayer1=nn.Sequential(OrderedDict(conv1=nn.Conv2d(3, 3, 1)))))
    values = {k.replace("conv1", "conv.1"): v for k, v in state(2, model).items()}
    assert loaded(saved(values, tmp_path / "c.pth"), model=model)[0] == 2


def test_convert_says_what_it_took(tmp_path: Path) -> None:
    source, out = saved({"model": state(), "ema": state(2)}, tmp_path / "c.pth"), tmp_path / "a.veff"
    arguments = ("convert", source, "--model", REFERENCE, "--input-size", *tiny.SIZE, "-o", out)
    assert "averaged over training" in " ".join(call_json(*arguments)["notes"])
    found = call_json(*arguments, "--key", "model")
    assert "as --key says" in " ".join(found["notes"])
    frame = torch.rand(1, 3, *tiny.SIZE)
    with torch.no_grad():
        assert torch.allclose(videoeff.load(out)(frame), tiny.build()(frame), atol=1e-5)
