"""Artifacts: what goes in comes out, without the model's source; what was damaged or forged is refused."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import videoeff
from tests.support.detectors import CallsAgain, detector
from tests.support.small_nets import (
    FORMS,
    SIZE,
    CalledTwice,
    Gated,
    Plain,
    Structured,
    TwoInputs,
    clip,
    lively,
)
from videoeff.errors import ArtifactError, BackendError, StateError
from videoeff.passes.pipeline import passes_hash
from videoeff.runtime.streaming_module import StreamingModule
from videoeff.serialize import format as file_format

Edit = Callable[[dict[str, Any]], None]


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, structure included."""
    first, one = pytree.tree_flatten(a)
    second, two = pytree.tree_flatten(b)
    if one.num_leaves != two.num_leaves:
        return False
    return all(
        torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(first, second, strict=True)
    )


def assert_streams_agree(first: StreamingModule, second: StreamingModule, frames: list[Any]) -> None:
    first.reset()
    for frame in frames:
        args = frame if isinstance(frame, tuple) else (frame,)
        assert same(first(*args), second(*args))


@pytest.fixture(name="plain", scope="module")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact of a small model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("artifact") / "plain.veff"
    videoeff.convert(lively(Plain()), torch.rand(SIZE), threshold=0.05).save(path)
    return path


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (Plain, {}),
        (Plain, {"recipe": "exact"}),
        (Plain, {"threshold": 0.1, "input_threshold": 0.02, "block": 4, "dilation": 1}),
        (Gated, {"threshold": 0.1, "predict": 1.0}),
        (CalledTwice, {"threshold": 0.05, "alias_outputs": True, "nan_policy": "recompute"}),
    ],
    ids=["plain", "exact", "blocks", "gates-concat-predict", "shared"],
)
def test_round_trip(model: Callable[[], nn.Module], options: dict[str, Any], tmp_path: Path) -> None:
    stream = videoeff.convert(lively(model()), torch.rand(SIZE), name="It", **options)
    stream.extra |= {
        "preprocess": {"scale": 255},
        "source": "clip.avi",
        "input_size": [20, 24],
        "model": None,
    }
    path = tmp_path / "it.veff"
    stream.save(path)
    loaded = videoeff.load(path)
    assert loaded.name == "It"
    assert loaded.extra == stream.extra
    assert loaded.thresholds() == stream.thresholds()
    assert (loaded.alias_outputs, loaded.nan_policy) == (stream.alias_outputs, stream.nan_policy)
    assert [str(p) for p in loaded.programs.values()] == [str(p) for p in stream.programs.values()]
    assert [p.history for p in loaded.programs.values()] == [p.history for p in stream.programs.values()]
    assert [e.plan.state for e in loaded.engines.values()] == [e.plan.state for e in stream.engines.values()]
    assert_streams_agree(stream, loaded, list(clip(5)))
    assert loaded.report().to_json()["macs"] == stream.report().to_json()["macs"]
    again = tmp_path / "again.veff"
    loaded.save(again)
    assert file_format.read_document(again) == file_format.read_document(path)


@pytest.mark.parametrize("form", FORMS)
def test_output_structures(form: str, tmp_path: Path) -> None:
    stream = videoeff.convert(Structured(form).eval(), torch.rand(SIZE))
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    for frame in clip(3):
        found, expected = loaded(frame), stream(frame)
        assert same(found, expected)
        if form in ("dict", "ordered", "nested"):
            assert list(found) == list(expected)
            assert type(found) is type(expected)
        if form == "namedtuple":
            assert torch.equal(found.coarse, expected.coarse)
            assert found._fields == ("coarse", "fine")
            assert type(found).__name__ == "Pair"


def test_several_inputs_and_literals(tmp_path: Path) -> None:
    frames = [(torch.rand(SIZE), torch.rand(1, 1, 20, 24)) for _ in range(3)]
    stream = videoeff.convert(TwoInputs().eval(), frames[0], kwargs={"flip": True})
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    for image, depth in frames:
        expected = stream(image, depth, flip=True)
        assert same(loaded(image, depth, flip=True), expected)
        assert same(loaded(depth=depth, image=image, flip=True), expected), "the parameters' names are kept"
    with pytest.raises(StateError, match="converted for True"):
        loaded(image, depth, flip=False)


def test_bfloat16(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Plain()).bfloat16(), torch.rand(SIZE).bfloat16(), threshold=0.1)
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert {t.dtype for t in loaded.buffers()} == {torch.bfloat16}
    assert_streams_agree(stream, loaded, list(clip(3, dtype=torch.bfloat16)))
    stream.float()
    stream.save(tmp_path / "wide.veff")
    assert_streams_agree(stream, videoeff.load(tmp_path / "wide.veff"), list(clip(3)))


def test_changed_thresholds_are_saved_and_the_state_is_not(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Gated()), torch.rand(SIZE))
    frames = list(clip(4))
    stream(frames[3])
    stream.set_threshold(0.2)
    stream.set_threshold(0.05, "left")
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert loaded.thresholds() == stream.thresholds()
    assert_streams_agree(stream, loaded, frames)  # the loaded one begins with frame 1


def test_batches(tmp_path: Path) -> None:
    stream = videoeff.convert(lively(Gated()), torch.rand(3, 3, 20, 24), threshold=0.1)
    stream.save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff")
    assert loaded.streams == 3
    assert_streams_agree(stream, loaded, list(clip(3, (3, 3, 20, 24))))


def test_the_file_is_about_as_large_as_the_weights(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 64, 3, padding=1)
            self.again = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(6))
            for conv in self.again:
                conv.weight = self.again[0].weight

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            for conv in self.again:
                y = conv(torch.relu(y))
            return y

    model = Tied().eval()
    stream = videoeff.convert(model, torch.rand(1, 3, 8, 8))
    stream(torch.rand(1, 3, 8, 8))
    path = tmp_path / "it.veff"
    stream.save(path)
    weights = sum(p.numel() * 4 for p in model.parameters())
    assert weights < path.stat().st_size < weights + 40_000
    loaded = videoeff.load(path)
    assert len({t.data_ptr() for t in loaded.buffers() if t.ndim == 4 and t.shape[1] == 64}) == 1
    assert_streams_agree(stream, loaded, [torch.rand(1, 3, 8, 8) for _ in range(2)])


def test_what_the_description_holds(plain: Path) -> None:
    document, tensors = file_format.read(plain)
    assert document["format"] == "videoeff"
    assert document["format_version"] == 1
    assert document["versions"] == {"videoeff": videoeff.__version__, "torch": torch.__version__}
    (engine,) = document["engines"]
    assert engine["passes"].startswith("fold-batchnorm,")
    assert "insert-thresholds{threshold=0.05}" in engine["passes"]
    assert engine["passes_hash"] == passes_hash(engine["passes"])
    assert [h["name"] for h in engine["history"]] == re.findall(
        r"([a-z-]+)(?:\{[^}]*\})?(?:,|$)", engine["passes"]
    )
    stream = videoeff.load(plain)
    assert engine["state"] == [s.to_json() for s in stream.engines[""].plan.state]
    names = {s["name"] for s in engine["state"]}
    assert {"x.value", "x.scale", "first.value", "first.scale", "second.value"} <= names
    assert set(re.findall(r"const\(.(\S+?).\)", engine["graph"])) == {n.removeprefix("0:") for n in tensors}


def test_a_loaded_stream_is_not_planned_anew(plain: Path) -> None:
    stream = videoeff.load(plain)
    stream.on_resize = "replan"
    with pytest.raises(StateError, match="loaded from a file and cannot be planned anew"):
        stream(torch.rand(1, 3, 16, 16))


def test_a_fresh_process_without_the_model(plain: Path, tmp_path: Path) -> None:
    code = f"""
import sys
import videoeff
assert "torch" not in sys.modules
stream = videoeff.load({str(plain)!r})
import torch
frame = torch.arange(3 * 20 * 24, dtype=torch.float32).view(1, 3, 20, 24) / 1000
out = [stream(frame), stream(frame + (frame > 1.2))]
assert "torchvision" not in sys.modules and "tests.support.small_nets" not in sys.modules
torch.save(out, {str(tmp_path / "out.pt")!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    frame = torch.arange(3 * 20 * 24, dtype=torch.float32).view(1, 3, 20, 24) / 1000
    stream = videoeff.load(plain)
    expected = [stream(frame), stream(frame + (frame > 1.2))]
    for a, b in zip(torch.load(tmp_path / "out.pt"), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)  # another number of threads


def test_nothing_is_unpickled(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    assert videoeff.load(plain)(torch.rand(SIZE)).shape == (1, 4, 10, 12)


def test_loading_in_inference_mode(plain: Path) -> None:
    with torch.inference_mode():
        stream = videoeff.load(plain)
        stream(torch.rand(SIZE))
    assert stream(torch.rand(SIZE)).shape == (1, 4, 10, 12)


def test_another_backend(plain: Path) -> None:
    assert videoeff.load(plain, backend="reference")(torch.rand(SIZE)).shape == (1, 4, 10, 12)
    with pytest.raises(BackendError, match="no backend 'warp'"):
        videoeff.load(plain, backend="warp")


# ---------------------------------------------------------------- what cannot be saved


def test_what_has_no_file_form(tmp_path: Path) -> None:
    class Special(dict[str, Any]):
        """A container pytree knows, but no file does."""

    def flatten(value: Special) -> tuple[list[Any], list[str]]:
        return list(value.values()), list(value)

    pytree.register_pytree_node(
        Special,
        flatten,
        lambda values, keys: Special(zip(keys, values, strict=True)),
        serialized_type_name="tests.Special",
    )

    class Returns(Structured):
        def forward(self, x: Tensor) -> Any:
            return Special(super().forward(x))

    stream = videoeff.convert(Returns("dict").eval(), torch.rand(SIZE))
    assert isinstance(stream(torch.rand(SIZE)), Special)
    with pytest.raises(ArtifactError, match=r"Special, which has no file form"):
        stream.save(tmp_path / "it.veff")
    stream = videoeff.convert(lively(Plain()), torch.rand(SIZE))
    stream.extra["model"] = object()
    with pytest.raises(ArtifactError, match="no JSON form"):
        stream.save(tmp_path / "it.veff")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- damaged and foreign files


def test_truncated_files(plain: Path, tmp_path: Path) -> None:
    data, path = plain.read_bytes(), tmp_path / "cut.veff"
    header = struct.unpack("<Q", data[:8])[0]
    for size in (0, 4, 8, 100, 8 + header // 2, 8 + header, len(data) - 200, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError, match=r"cut\.veff: "):
            videoeff.load(path)
    path.write_bytes(data + b"more")
    with pytest.raises(ArtifactError, match=r"cut\.veff: "):
        videoeff.load(path)


def test_every_flipped_bit_is_noticed(plain: Path, tmp_path: Path) -> None:
    data, path = bytearray(plain.read_bytes()), tmp_path / "bad.veff"
    header = struct.unpack("<Q", bytes(data[:8]))[0]
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, len(data), (60,), generator=generator).tolist()
    places += torch.randint(8, 8 + header, (60,), generator=generator).tolist()
    before = videoeff.load(plain)(torch.ones(SIZE))
    for number, place in enumerate([*range(0, 8), *places]):
        data[place] ^= 1 << number % 8
        path.write_bytes(bytes(data))
        if chr(plain.read_bytes()[place]) == " ":  # only padding may differ
            with contextlib.suppress(ArtifactError):
                assert torch.equal(videoeff.load(path)(torch.ones(SIZE)), before), place
        else:
            with pytest.raises(ArtifactError, match=r"bad\.veff: "):
                videoeff.load(path)
        data[place] ^= 1 << number % 8


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "it.veff"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({"a": 1}))
    onnx = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\xd0\x0f"  # the first bytes of an ONNX file
    checkpoint = io.BytesIO()
    torch.save({"weight": torch.rand(3)}, checkpoint)
    generator = torch.Generator().manual_seed(0)
    noise = bytes(torch.randint(0, 256, (5000,), generator=generator).tolist())
    for data in (zipped.getvalue(), onnx, checkpoint.getvalue(), noise, b"\0" * 64, b"{}", b"RIFF....AVI "):
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=r"it\.veff: is no artifact"):
            videoeff.load(path)
    save_file({"weight": torch.rand(3)}, path)
    with pytest.raises(ArtifactError, match="is a safetensors file, but no artifact"):
        videoeff.load(path)
    with pytest.raises(ArtifactError, match=r"absent\.veff: no such file.*convert -o"):
        videoeff.load(tmp_path / "absent.veff")
    with pytest.raises(ArtifactError, match="no such file"):
        videoeff.load(tmp_path)


def rewritten(source: Path, target: Path, edit: Edit | None = None, text: str | None = None) -> Path:
    """A copy with another description whose checksums are right, as a forger would make it."""
    with safe_open(str(source), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
        document = json.loads(file.metadata()["videoeff"])
    if edit is not None:
        edit(document)
    if text is None:
        text = json.dumps(document)
    metadata = {"videoeff": text, "videoeff_sha256": file_format.digest_of_text(text)}
    save_file(tensors, target, metadata=metadata)
    return target


def test_the_forger_of_these_tests_makes_files_that_load(plain: Path, tmp_path: Path) -> None:
    copy = rewritten(plain, tmp_path / "copy.veff")
    assert_streams_agree(videoeff.load(plain), videoeff.load(copy), list(clip(3)))


def test_an_edit_without_the_checksum_is_noticed(plain: Path, tmp_path: Path) -> None:
    data = plain.read_bytes()
    assert data.count(b"threshold=0.05)") > 0
    (tmp_path / "it.veff").write_bytes(data.replace(b"threshold=0.05)", b"threshold=0.09)"))
    with pytest.raises(ArtifactError, match="not the one that was saved"):
        videoeff.load(tmp_path / "it.veff")


def test_a_future_version(plain: Path, tmp_path: Path) -> None:
    def future(document: dict[str, Any]) -> None:
        document["format_version"] = 2
        document["versions"]["videoeff"] = "9.1"

    with pytest.raises(ArtifactError, match=r"format version 2.*reads up to 1.*videoeff 9\.1: upgrade"):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", future))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"format": "other"}', "[" * 100_000, '"\\ud800"'])
def test_descriptions_that_are_none(plain: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"it\.veff: "):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", text=text))


#: Another name, or nothing where nothing is needed.
HARMLESS = [("name", "x"), ("aliases", {}), ("extra", []), ("extra", {}), ("shell", None)]


@pytest.mark.parametrize(
    "key",
    ["engines", "options", "extra", "name", "aliases", "digest", "format_version", "parameters", "shell"],
)
@pytest.mark.parametrize("value", ["absent", None, 7, [], {}, "x"])
def test_descriptions_with_a_wrong_entry(plain: Path, tmp_path: Path, key: str, value: Any) -> None:
    def edit(document: dict[str, Any]) -> None:
        if value == "absent":
            del document[key]
        else:
            document[key] = value

    path = rewritten(plain, tmp_path / "it.veff", edit)
    if (key, value) in HARMLESS:
        assert videoeff.load(path)(torch.rand(SIZE)).shape == (1, 4, 10, 12)
    else:
        with pytest.raises(ArtifactError, match=r"it\.veff: "):
            videoeff.load(path)


def graph_edit(old: str, new: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        graph = document["engines"][0]["graph"]
        assert re.search(old, graph, re.MULTILINE), graph
        document["engines"][0]["graph"] = re.sub(old, new, graph, flags=re.MULTILINE)

    return edit


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (r"aten\.relu\.default", "aten.no_such_op.default", "operator 'aten.no_such_op.default' is unknown"),
        (r"aten\.relu\.default", "aten.relu.no_such", "unknown"),
        (r"aten\.relu\.default", "os.system.default", "unknown"),
        (r"aten\.relu\.default\(\w+\)", 'aten.from_file.default("/etc/passwd")', "from_file"),
        (r"aten\.relu\.default", "aten.relu_.default", "relu_"),
        (r"aten\.relu\.default", "aten._sparse_coo_tensor_unsafe.default", "unsafe"),
        (r"aten\.relu\.default\((\w+)\)", r"__import__('os').system('false')", "unknown|no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default([x for x in (1, 2)])", "no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(open('f'))", "no value"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(later)", "'later' before it is defined"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(relu_default)", "before it is defined"),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1, \1, \1)", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1, **{})", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default()", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.reshape.default(\1, [1, -7])", ""),
        (r"aten\.relu\.default\((\w+)\)", "aten.relu.default(" + "(" * 300 + "x" + ")" * 300 + ")", ""),
        (r"aten\.relu\.default\((\w+)\)", r"aten.relu.default(\1", "does not parse"),
        (r"^relu_default = ", "second_weight = ", "taken|defined"),
        (r"^relu_default = ", "class = ", "does not parse"),
        (r"^relu_default = ", "(a, b) = ", "no assignment"),
        (r"^relu_default = .*$", "relu_default = 5", "calls nothing"),
        (r"const\(.second\.weight.\)", "const('missing')", "'missing', which the file does not hold"),
        (r"const\(.second\.weight.\)", "const()", "no dotted name"),
        (r"const\(.second\.weight.\)", "const(7)", "no dotted name"),
        (r"const\(.second\.weight.\)", "const('forward')", ""),
        (r"const\(.second\.weight.\)", "const('second.bias')", ""),
        (r"^return .*$", "", "cut short"),
        (r"^return .*$", "return (x,)", ""),
        (r"^return .*$", "return ()", "not those of its call"),
        (r"^return .*$", "return (delta_cache, delta_cache)", ""),
        (r"^program\(.*$", "", "cut short"),
        (r'stage="planned"', 'stage="captured"', ""),
        (r'stage="planned"', 'stage="done"', "no such stage"),
        (r"streams=1\)$", "streams=2)", "not those of its call"),
        (r"streams=1\)$", "streams='a')", ""),
        (r"threshold=0\.05", "threshold=-1.0", "threshold=-1.0 must be a finite number"),
        (r"threshold=0\.05", "threshold=float('nan')", "threshold=nan must be a finite number"),
        (r"threshold=0\.05", "threshold='a'", ""),
        (r"threshold=0\.05", "threshold=0.05, predict=-1.0", "predict=-1.0"),
        (r"threshold=0\.05", "threshold=0.05, block=0", "block must be"),
        (r"threshold=0\.05", "threshold=0.05, into=('nothing', 0, 1, 9)", ""),
        (r"threshold=0\.05", "threshold=0.05, into=5", ""),
        (r"threshold=0\.05", "threshold=0.05, colour=1", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2, 9)", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2, 2)", "does not name dimensions"),
        (r"layout=\(0, 2, 3,?\)", "layout=(0, 2)", ""),
        (r"layout=\(0, 2, 3,?\)", "layout=7", ""),
        (r"streams=\(0,\)", "streams=(4,)", r"streams=\(4,\) does not give"),
        (r"streams=\(0,\)", "streams=(0, 0)", "does not give"),
        (r'kind="map"|kind=\'map\'', "kind='cake'", "kind='cake' is none of"),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 3, 20", ""),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 3, 200000000, 24000000]", ""),
        (r"float32\[1, 3, 20, 24\]$", "float32[1, 5, 20, 24]", ""),
        (r"float32\[1, 3, 20, 24\]$", "", "states no shape"),
    ],
)  # fmt: skip
def test_edited_graphs(plain: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    path = rewritten(plain, tmp_path / "it.veff", graph_edit(old, new))
    with pytest.raises(ArtifactError, match=f"(?s){message}"):
        videoeff.load(path)


def test_a_graph_cannot_smuggle_code_into_what_fx_generates(plain: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    name = f'w") or __import__("pathlib").Path({str(proof)!r}).touch() or getattr(self, "w'
    path = tmp_path / "it.veff"
    with safe_open(str(plain), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  no mapping
        document = json.loads(file.metadata()["videoeff"])
    tensors[f"0:{name}"] = tensors.pop("0:second.weight")
    graph = document["engines"][0]["graph"]
    document["engines"][0]["graph"] = re.sub(r"const\(.second\.weight.\)", f"const({name!r})", graph)
    document["digest"] = file_format.digest_of(tensors)
    text = json.dumps(document)
    save_file(tensors, path, metadata={"videoeff": text, "videoeff_sha256": file_format.digest_of_text(text)})
    with pytest.raises(ArtifactError, match="which is no dotted name"):
        videoeff.load(path)
    assert not proof.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("in_spec", None),
        ("in_spec", ["tuple"]),
        ("in_spec", ["set", None]),
        ("in_spec", ["namedtuple", "class", ["1"], None]),
        ("out_spec", ["tuple", None, None]),
        ("out_spec", "x"),
        ("literals", []),
        ("literals", [1.0]),
        ("passes", "fold-batchnorm"),
        ("history", [{}]),
        ("name", "other"),
        ("backend", "gone"),
        ("backend", 7),
        ("graph", 7),
        ("graph", ""),
    ],
)
def test_edited_engines(plain: Path, tmp_path: Path, key: str, value: Any) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["engines"][0][key] = value

    with pytest.raises(ArtifactError, match=r"it\.veff: "):
        videoeff.load(rewritten(plain, tmp_path / "it.veff", edit))


# ---------------------------------------------------------------- models captured in parts


def test_parts_need_the_model(tmp_path: Path) -> None:
    model = detector()
    frames = [[frame] for frame in clip(4, (3, 30, 40))]
    stream = videoeff.convert(model, frames[0], threshold=0.05)
    path = tmp_path / "parts.veff"
    stream.save(path)
    with pytest.raises(ArtifactError, match=r"outer code is not in the file.*model=model"):
        videoeff.load(path)
    other = detector()  # of other weights: the file brings its own
    before = {k: v.clone() for k, v in other.state_dict().items()}
    other.train()
    loaded = videoeff.load(path, model=other)
    assert other.training
    assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), "it was not written into"
    assert loaded.thresholds() == stream.thresholds()
    assert loaded.report().eager == stream.report().eager
    assert loaded.report().convolutions_streamed == stream.report().convolutions_streamed
    assert_streams_agree(stream, loaded, frames)
    for reference in ("os:getcwd", "tests.support.detectors:detector", "detectors.py:detector"):
        stream.extra["model"] = reference
        stream.save(path)
        with pytest.raises(ArtifactError, match=r"not run because a file asks for it.*build it yourself"):
            videoeff.load(path)
        assert_streams_agree(stream, videoeff.load(path, model=detector()), frames[:2])
    with pytest.raises(ArtifactError, match="model is a str; give"):
        videoeff.load(path, model="detector")  # type: ignore[arg-type]
    for wrong in (lively(Plain()), Structured("dict"), nn.Sequential()):
        with pytest.raises(ArtifactError, match="the model given is not the one that was converted"):
            videoeff.load(path, model=wrong)


def test_a_loaded_part_still_serves_calls_of_another_size(tmp_path: Path) -> None:
    torch.manual_seed(4)
    model = CallsAgain().eval()
    frame = torch.rand(1, 3, 16, 20) + 0.5
    videoeff.convert(model, frame).save(tmp_path / "it.veff")
    loaded = videoeff.load(tmp_path / "it.veff", model=CallsAgain())
    with torch.no_grad():
        for shift in (0.0, -0.9, 3.0, 0.0):
            torch.testing.assert_close(loaded(frame + shift), model(frame + shift))


def test_parts_of_a_model_known_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = videoeff.convert(CallsAgain().eval(), torch.rand(1, 3, 16, 20))
    stream.extra["model"] = "torchvision:calls_again"
    path = tmp_path / "it.veff"
    stream.save(path)
    with pytest.raises(ArtifactError, match=r"it\.veff: torchvision has no model 'calls_again'"):
        videoeff.load(path)
    asked: list[str] = []

    def builds(name: str) -> nn.Module:
        asked.append(name)
        return CallsAgain()

    monkeypatch.setattr("videoeff.serialize.models._torchvision", builds)
    loaded = videoeff.load(path)
    assert asked == ["calls_again"]
    assert_streams_agree(stream, loaded, list(clip(4, (1, 3, 16, 20))))
