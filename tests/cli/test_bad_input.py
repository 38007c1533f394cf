"""Input that cannot be used: status 2, one message with what, where and the fix, and no file left."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import videoeff
from tests.cli.conftest import REFERENCE, call, refused
from tests.support import tiny_models as tiny
from videoeff.cli.shared.exported import _known_target, _plain_guard, _plain_size

SIZE = ("--input-size", *tiny.SIZE)


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def convert(source: Path, out: Path, *options: object) -> str:
    message = refused("convert", source, "-o", out, *options)
    assert not out.exists()
    return message


# ---------------------------------------------------------------- checkpoints


def test_missing_empty_and_unknown_sources(tmp_path: Path) -> None:
    out = tmp_path / "a.veff"
    assert "no such file" in convert(tmp_path / "none.pt2", out, *SIZE)
    (tmp_path / "empty.pth").touch()
    assert "the file is empty" in convert(tmp_path / "empty.pth", out, *SIZE)
    (tmp_path / "m.h5").write_text("x")
    assert "unknown kind of file" in convert(tmp_path / "m.h5", out, *SIZE)
    assert "is a folder" in convert(tmp_path, out, *SIZE)


def test_an_artifact_is_no_source(artifact: Path, tmp_path: Path) -> None:
    assert "is a converted stream already" in convert(artifact, tmp_path / "a.veff", *SIZE)


def test_a_state_dict_needs_a_model(checkpoint: Path, tmp_path: Path) -> None:
    message = convert(checkpoint, tmp_path / "a.veff", *SIZE)
    assert "--model torchvision:NAME" in message
    assert "tiny.pth" in message
    assert "--input-size HEIGHT WIDTH" in convert(checkpoint, tmp_path / "a.veff", "--model", REFERENCE)


def test_keys_that_do_not_match(tmp_path: Path) -> None:
    state = OrderedDict(tiny.build().state_dict())
    state["stern.0.weight"] = state.pop("stem.0.weight")
    state["head.weight"] = torch.zeros(7, 8, 1, 1)
    source = tmp_path / "c.pth"
    torch.save(state, source)
    message = convert(source, tmp_path / "a.veff", "--model", REFERENCE, *SIZE)
    assert "1 missing (stem.0.weight)" in message
    assert "1 unexpected (stern.0.weight)" in message
    assert "head.weight is [7, 8, 1, 1], the model's is [5, 8, 1, 1]" in message


def test_another_models_checkpoint_names_a_few(checkpoint: Path, tmp_path: Path) -> None:
    reference = "torchvision:shufflenet_v2_x0_5"
    message = convert(checkpoint, tmp_path / "a.veff", "--model", reference, *SIZE)
    assert "conv1.0.weight" in message
    assert " more)" in message
    assert len(message) < 800


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: {"state_dict": tiny.build().state_dict(), "x": b}])
@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_pickle_that_runs_code_is_never_loaded(how: str, wrap: Any, tmp_path: Path) -> None:
    marker, source = tmp_path / "executed", tmp_path / "bomb.pth"
    if how == "pickle":
        source.write_bytes(pickle.dumps(wrap(Bomb(marker))))
    else:
        torch.save(wrap(Bomb(marker)), source, _use_new_zipfile_serialization=how == "torch")
    message = convert(source, tmp_path / "a.veff", "--model", REFERENCE, *SIZE)
    assert "not loaded" in message
    assert "posix.mkdir" in message
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))  # the file would have done it
    assert marker.exists()


def test_a_pickled_model_is_explained(tmp_path: Path) -> None:
    source = tmp_path / "whole.pt"
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1)), source)
    message = convert(source, tmp_path / "a.veff", "--model", REFERENCE, *SIZE)
    assert "whole pickled model" in message
    assert "torch.save(model.state_dict(), ...)" in message
    assert "torch.export.save" in message


def test_torchscript_is_explained(tmp_path: Path) -> None:
    source = tmp_path / "script.pt"
    with zipfile.ZipFile(source, "w") as archive:  # what torch.jit.save leaves, as far as it is looked at
        for name in ("script/data.pkl", "script/constants.pkl", "script/code/__torch__.py"):
            archive.writestr(name, b"")
    assert "TorchScript" in convert(source, tmp_path / "a.veff", *SIZE)


def test_damaged_checkpoints(checkpoint: Path, tmp_path: Path) -> None:
    data = checkpoint.read_bytes()
    for name, content in (("cut.pth", data[: len(data) // 2]), ("noise.pth", b"\x93noise" * 50)):
        (tmp_path / name).write_bytes(content)
        assert "cannot be read" in convert(tmp_path / name, tmp_path / "a.veff", "--model", REFERENCE, *SIZE)
    (tmp_path / "cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    assert "safetensors" in convert(tmp_path / "cut.safetensors", tmp_path / "a.veff", *SIZE)


def test_a_checkpoint_without_a_state_dict(tmp_path: Path) -> None:
    for value in ([1, 2], {"epoch": 3, "optimizer": {"lr": 0.1}}, torch.zeros(3)):
        torch.save(value, tmp_path / "c.pth")
        message = convert(tmp_path / "c.pth", tmp_path / "a.veff", "--model", REFERENCE, *SIZE)
        assert "holds no state dict" in message


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nonsense", "torchvision:NAME"),
        ("torchvision:resnet1", "no model 'resnet1'"),
        ("no_such_package.models:build", "cannot be imported"),
        ("nothing.py:build", "no such file"),
        (f"{tiny.__file__}:missing", "no callable 'missing'"),
        (f"{tiny.__file__}:broken", "no weights today"),
        (f"{tiny.__file__}:not_a_model", "made a int"),
    ],
)
def test_references(reference: str, words: str, checkpoint: Path, tmp_path: Path) -> None:
    assert words in convert(checkpoint, tmp_path / "a.veff", "--model", reference, *SIZE)


# ---------------------------------------------------------------- exported programs


def exported(path: Path, edit: Any = None, extra: dict[str, bytes] | None = None) -> Path:
    """An exported program whose JSON and members were tampered with."""
    plain = path.with_suffix(".plain.pt2")
    module = nn.Conv2d(3, 4, 1).eval()
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, *tiny.SIZE),), strict=False), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if edit is not None and entry.filename.endswith("models/model.json"):
                data = json.dumps(edit(json.loads(data))).encode()
            target.writestr(entry.filename, (extra or {}).get(entry.filename.partition("/")[2], data))
        root = source.namelist()[0].partition("/")[0]
        for name, data in (extra or {}).items():
            if f"{root}/{name}" not in source.namelist():
                target.writestr(f"{root}/{name}", data)
    plain.unlink()
    return path


def test_corrupt_exports(tmp_path: Path) -> None:
    out, source = tmp_path / "a.veff", exported(tmp_path / "m.pt2")
    assert call("convert", source, "-o", tmp_path / "fine.veff").exit_code == 0
    (tmp_path / "text.pt2").write_text("not an archive")
    assert "no exported program" in convert(tmp_path / "text.pt2", out)
    data = source.read_bytes()
    (tmp_path / "cut.pt2").write_bytes(data[: len(data) // 2])
    assert "no exported program, or only part of one" in convert(tmp_path / "cut.pt2", out)
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt2")
    assert "torch.export.save" in convert(tmp_path / "state.pt2", out)
    assert "leave --model out" in convert(source, out, "--model", REFERENCE)
    broken = exported(tmp_path / "odd.pt2", lambda d: {**d, "graph_module": {}})
    assert "cannot be read as an exported program" in convert(broken, out)


def test_an_export_with_a_pickle_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    torch.save(Bomb(marker), tmp_path / "bomb.pt")
    bomb = (tmp_path / "bomb.pt").read_bytes()
    source = exported(tmp_path / "m.pt2", extra={"data/sample_inputs/model.pt": bomb})
    assert "cannot be read" in convert(source, tmp_path / "a.veff")
    assert not marker.exists()


def test_an_export_with_code_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.veff"

    def target(document: dict[str, Any]) -> dict[str, Any]:
        document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"
        return document

    assert "it calls 'torch.os.system'" in convert(exported(tmp_path / "t.pt2", target), out)
    guarded = exported(tmp_path / "g.pt2", lambda d: {**d, "guards_code": ["__import__('os').abort()"]})
    assert "it checks sizes by" in convert(guarded, out)
    expression = exported(tmp_path / "e.pt2", lambda d: {**d, "x": {"expr_str": "open('x', 'w')"}})
    assert "a size is written as" in convert(expression, out)

    def imports(document: dict[str, Any]) -> dict[str, Any]:
        context = json.dumps({"__enum__": True, "fqn": "antigravity:A", "name": "x"})
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        signature["in_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context}])
        return document

    assert "names a Python module to import" in convert(exported(tmp_path / "i.pt2", imports), out)
    compiled = exported(tmp_path / "c.pt2", extra={"data/aotinductor/model/x.so": b"\x7fELF"})
    assert "it holds compiled code" in convert(compiled, out)


@pytest.mark.parametrize(
    ("check", "text", "fine"),
    [
        (_plain_size, "Mul(Integer(32), Symbol('s39', positive=True, integer=True))", True),
        (_plain_size, "2*s0 + 1", True),
        (_plain_size, "FloorDiv(Symbol('s0', integer=True) - 1, 2)", True),
        (_plain_size, "__import__('os').system('x')", False),
        (_plain_size, "Symbol('__import__(1)')", False),
        (_plain_size, "eval(1)", False),
        (_plain_size, "s0.__class__", False),
        (_plain_size, "[s0 for s0 in (1,)]", False),
        (_plain_guard, "(2 + 2*(((-1) + L['x'].size()[2]) // 32)) == (1 + L['x'].size()[3])", True),
        (_plain_guard, "L['x'].__class__.__bases__", False),
        (_plain_guard, "open('x')", False),
        (_plain_guard, "(lambda: 1)()", False),
        (_plain_guard, "1 == 1\nimport os", False),
        (_known_target, "torch.ops.aten.conv2d.default", True),
        (_known_target, "_operator.getitem", True),
        (_known_target, "torch.sym_max", True),
        (_known_target, "torch.ops.load_library", False),
        (_known_target, "torch.ops.aten.from_file.default", False),
        (_known_target, "torch.hub.load", False),
    ],
)
def test_what_an_export_may_say(check: Any, text: str, fine: bool) -> None:
    assert check(text) is fine


def test_exports_that_take_no_picture(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    example = torch.zeros(1, 3, 8, 8)
    out = tmp_path / "a.veff"
    torch.export.save(torch.export.export(Two(), (example, example)), tmp_path / "two.pt2")
    assert "[1, 3, 8, 8], [1, 3, 8, 8]" in convert(tmp_path / "two.pt2", out)
    pair = torch.export.export(nn.Conv2d(2, 2, 1), (torch.zeros(1, 2, 8, 8),))
    torch.export.save(pair, tmp_path / "pair.pt2")
    assert "takes [1, 2, 8, 8], 2 channels" in convert(tmp_path / "pair.pt2", out)
    last = torch.export.export(nn.Linear(3, 2), (torch.zeros(1, 8, 8, 3),))
    torch.export.save(last, tmp_path / "last.pt2")
    assert "export it for (B, C, H, W)" in convert(tmp_path / "last.pt2", out)
    signed = torch.export.export(nn.ReLU(), (torch.zeros(1, 3, 8, 8, dtype=torch.int8),))
    torch.export.save(signed, tmp_path / "signed.pt2")
    assert "takes int8, which cannot hold grey levels" in convert(tmp_path / "signed.pt2", out)


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--passes", "fold-everything"), "no pass 'fold-everything'"),
        (("--passes", "fuse-pointwise,insert-delta-caches"), "put insert-delta-caches before it"),
        (("--passes", "insert-delta-caches{x=1}"), "no option 'x'"),
        (("--recipe", "cake"), "no recipe 'cake'"),
        (("--recipe", "exact", "--threshold", 0.1), "exact"),
        (("--backend", "abacus"), "no backend 'abacus'"),
        (("--threshold", -1), "--threshold"),
        (("--std", 0, 1, 1), "each must be above 0"),
        (("--thresholds", "none.json"), "none.json: cannot be read"),
        (("--nan-policy", "ignore"), "--nan-policy"),
        (("--input-size", 0, 3), "--input-size"),
    ],
)
def test_options(options: tuple[object, ...], words: str, checkpoint: Path, tmp_path: Path) -> None:
    assert words in convert(checkpoint, tmp_path / "a.veff", "--model", REFERENCE, *SIZE, *options)


def test_thresholds_by_name(checkpoint: Path, artifact: Path, tmp_path: Path) -> None:
    base = ("--model", REFERENCE, *SIZE, "--thresholds")
    out, given = tmp_path / "a.veff", tmp_path / "t.json"
    known = videoeff.load(artifact).thresholds()
    given.write_text(json.dumps({**known, "nowhere": 1}))
    assert "no such layer: nowhere" in convert(checkpoint, out, *base, given)
    given.write_text(json.dumps(dict(list(known.items())[1:])))
    assert f"1 layer(s) have no threshold: {next(iter(known))}" in convert(checkpoint, out, *base, given)
    given.write_text("[")
    assert "is no JSON" in convert(checkpoint, out, *base, given)


def test_convert_names_what_is_missing(checkpoint: Path) -> None:
    assert "-o OUT.veff" in refused("convert", checkpoint, "--model", REFERENCE, *SIZE)
    assert "SOURCE" in refused("convert")


# ---------------------------------------------------------------- outputs are checked before the work


def test_unwritable_outputs_are_found_first(artifact: Path, clip: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "missing"
    for option, name in (("-o", "o.mp4"), ("--outputs", "x.npz"), ("--report", "r.json")):
        message = refused("run", tmp_path / "none.veff", "none.avi", option, nowhere / name)
        assert f"{option}: {nowhere / name}: the folder {nowhere} does not exist" in message
    assert "unknown kind of file" in refused("run", artifact, clip, "-o", tmp_path / "o.gif")
    assert "-o: " in refused("convert", "none.pth", "-o", nowhere / "a.veff")
    assert "this is a folder" in refused("convert", "none.pth", "-o", tmp_path)
    for option in ("--html", "--model-explorer"):
        assert option in refused("inspect", "none.veff", option, nowhere / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(artifact: Path, clip: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot write here" in refused("run", artifact, clip, "--report", tmp_path / "r.json")


# ---------------------------------------------------------------- artifacts and clips


@pytest.mark.parametrize("command", ["run", "verify", "inspect"])
def test_artifacts(command: str, artifact: Path, checkpoint: Path, clip: Path, tmp_path: Path) -> None:
    rest = () if command == "inspect" else (clip,)
    assert "no such file" in refused(command, tmp_path / "none.veff", *rest)
    cut = tmp_path / "cut.veff"
    cut.write_bytes(artifact.read_bytes()[:-100])
    assert "is no artifact of videoeff, or only part of one" in refused(command, cut, *rest)
    assert "is no artifact" in refused(command, checkpoint, *rest)
    assert "no backend 'abacus'" in refused(command, artifact, *rest, "--backend", "abacus")


@pytest.mark.parametrize("command", ["run", "verify"])
def test_clips(command: str, artifact: Path, tmp_path: Path) -> None:
    assert "no such file" in refused(command, artifact, tmp_path / "none.avi")
    (tmp_path / "empty.avi").touch()
    assert "the file is empty" in refused(command, artifact, tmp_path / "empty.avi")
    (tmp_path / "text.avi").write_text("hello " * 100)
    assert "text.avi: not a video" in refused(command, artifact, tmp_path / "text.avi")
    (tmp_path / "folder").mkdir()
    assert "no images in this folder" in refused(command, artifact, tmp_path / "folder")
    assert "camera 97" in refused(command, artifact, 97)


def test_device_that_is_not_there(artifact: Path, clip: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert "finds no CUDA device" in refused("run", artifact, clip, "--device", "cuda")


def test_errors_in_json(tmp_path: Path) -> None:
    result = call("inspect", tmp_path / "none.veff", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["kind"] == "ArtifactError"
    assert error["message"] in result.stderr


def test_unexpected_errors_keep_their_traceback(artifact: Path, tmp_path: Path) -> None:
    code = "import videoeff.serialize.load as a, videoeff.cli.main as c\na.load = 3\nc.main()\n"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code, "inspect", str(artifact)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "TypeError" in done.stderr
